"""Two runs after each other: a better model becomes the champion, and a rollback returns the old one."""

import json
from pathlib import Path

import pytest
from PIL import Image, ImageEnhance

from skinlib.data import sample
from tests.flow.conftest import Place, sweep

READ = "import json; from metaflow import Flow; print(json.dumps(Flow('SkinLesionFlow').latest_run.data.promotion))"
LEARNS = {"epochs": 4, "colour_augmentation": 0.0}


@pytest.fixture(scope="module")
def easy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of two classes that differ in brightness. A network learns this within seconds."""
    folder = tmp_path_factory.mktemp("easy") / "lesions"
    sample.generate(folder, n_train=96, n_test=60)
    for path in folder.glob("*/malignant/*.jpg"):
        with Image.open(path) as image:
            ImageEnhance.Brightness(image).enhance(0.5).save(path, quality=95)
    return folder


@pytest.fixture(scope="module")
def mixed_up(easy: Path) -> Path:
    """The same images; somebody has exchanged the classes of those for training."""
    folder = easy.with_name("mixed-up")
    (folder / "train").mkdir(parents=True)
    (folder / "test").symlink_to(easy / "test")
    (folder / "train/benign").symlink_to(easy / "train/malignant")
    (folder / "train/malignant").symlink_to(easy / "train/benign")
    return folder


def test_a_better_model_replaces_the_champion_until_a_rollback(tmp_path: Path, easy: Path, mixed_up: Path) -> None:
    place = Place(tmp_path)

    def run(data: Path, *options: str) -> tuple[dict, str]:
        code, output = place.flow(*options, config=sweep(LEARNS), data=data)
        assert code == 0, output
        code, printed = place.call("-c", READ)
        assert code == 0, printed
        return json.loads(printed.splitlines()[-1]), output

    assert run(mixed_up, "--promote", "always")[0]["alias"] == "champion"
    better, output = run(easy)
    assert (better["alias"], better["champion"]) == ("champion", "1")
    assert better["reason"].startswith("It beats models:/skin-lesion/1 by more than noise: AUROC +")
    assert better["reason"] in " ".join(output.split())
    code, listed = place.call_skinlib("models", "skin-lesion")
    assert code == 0
    assert listed.splitlines()[1].split()[:3] == ["skin-lesion", "2", "champion"]
    assert place.call_skinlib("rollback", "skin-lesion") == (
        0,
        "skin-lesion version 1 is the champion again, instead of version 2.\n",
    )
