"""The synthetic sample: reproducible, with the layout of real data, and not too easy."""

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from skinlib.data import sample
from skinlib.data.listing import list_images
from skinlib.data.manifest import CLASSES
from skinlib.errors import ConfigError, StorageError

N_TRAIN, N_TEST = 200, 150


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sample")
    sample.generate(directory, n_train=N_TRAIN, n_test=N_TEST)
    return directory


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a default set of 4 images."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sample, "generate", partial(sample.generate, n_train=2, n_test=2))
    return tmp_path / "skinlib"


def _files(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def test_the_same_seed_gives_the_same_bytes_whatever_the_size_of_the_set(folder: Path, tmp_path: Path) -> None:
    sample.generate(tmp_path, n_train=8, n_test=4)
    small, large = _files(tmp_path), _files(folder)
    table = small.pop("metadata.csv").splitlines()
    assert small == {name: large[name] for name in small}
    assert set(table) < set(large["metadata.csv"].splitlines())


def test_another_seed_gives_other_images(folder: Path, tmp_path: Path) -> None:
    sample.generate(tmp_path, n_train=4, n_test=4, seed=1)
    small, large = _files(tmp_path), _files(folder)
    assert [name for name in small if small[name] == large[name]] == ["README.txt"]


def test_no_two_images_are_alike(folder: Path) -> None:
    files = _files(folder)
    assert len(set(files.values())) == len(files)


def test_an_image_drawn_alone_is_the_one_in_the_set(folder: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone.jpg"
    Image.fromarray(sample.draw(0, "test", "malignant", 7)).save(alone, quality=90)
    assert alone.read_bytes() == (folder / "test" / "malignant" / "7.jpg").read_bytes()


def test_the_set_has_the_layout_that_listing_expects(folder: Path) -> None:
    keys = [item.key for item in list_images(str(folder)).objects]
    counts = {"train/benign": 109, "train/malignant": 91, "test/benign": 82, "test/malignant": 68}
    assert sorted(keys) == sorted(f"{where}/{i}.jpg" for where, n in counts.items() for i in range(1, n + 1))


def test_every_image_is_a_square_rgb_jpeg(folder: Path) -> None:
    kinds = set()
    for path in folder.rglob("*.jpg"):
        with Image.open(path) as image:
            kinds.add((image.format, image.mode, image.size))
    assert kinds == {("JPEG", "RGB", (224, 224))}


def test_the_folder_says_that_the_images_are_synthetic(folder: Path) -> None:
    assert "SYNTHETIC" in (folder / "README.txt").read_text()


def test_irregularity_separates_the_classes_as_documented_but_not_completely() -> None:
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    drawn = [sample.irregularity(rng, name) for name in CLASSES for _ in range(5000)]
    best = NormalDist().cdf(sample.SEPARATION / 2**0.5)
    assert best < 1
    assert roc_auc_score(np.repeat([0, 1], 5000), drawn) == pytest.approx(best, abs=0.003)


def test_colour_statistics_carry_some_information_but_not_all(folder: Path) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def read(split: str) -> tuple[NDArray[np.float64], list[str]]:
        paths = sorted((folder / split).glob("*/*.jpg"))
        pixels = [np.asarray(Image.open(path)).reshape(-1, 3) for path in paths]
        return np.array([[*p.mean(0), *p.std(0)] for p in pixels]), [path.parent.name for path in paths]

    shortcut = make_pipeline(StandardScaler(), LogisticRegression()).fit(*read("train"))
    features, classes = read("test")
    assert 0.6 < roc_auc_score(classes, shortcut.predict_proba(features)[:, 1]) < 0.83


def test_progress_reaches_the_number_of_images(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    sample.generate(tmp_path, n_train=3, n_test=2, on_progress=lambda *call: calls.append(call))
    assert calls == [(done, 5) for done in range(1, 6)]


def test_generate_refuses_a_folder_that_is_not_empty(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(ConfigError, match="already holds files"):
        sample.generate(tmp_path, n_train=2, n_test=2)


def test_generate_refuses_counts_that_leave_a_class_empty(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="2 or more"):
        sample.generate(tmp_path, n_train=10, n_test=1)


def test_ensure_makes_the_set_once(cache: Path) -> None:
    first = sample.ensure()
    made = {path: path.stat().st_mtime_ns for path in first.rglob("*.jpg")}
    assert sample.ensure() == first == cache / f"sample-v{sample.VERSION}"
    assert made == {path: path.stat().st_mtime_ns for path in first.rglob("*.jpg")}
    assert len(made) == 4


def test_ensure_leaves_nothing_behind_when_it_fails_half_way(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = sample.generate

    def half(directory: Path, on_progress: Callable[[int, int], None]) -> None:
        whole(directory)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sample, "generate", half)
        with pytest.raises(KeyboardInterrupt):
            sample.ensure()
    assert list(cache.iterdir()) == []


def test_two_concurrent_calls_both_return_the_complete_set(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, both_are_done = sample.generate, threading.Barrier(2)

    def slow(directory: Path, on_progress: Callable[[int, int], None]) -> None:
        whole(directory)
        both_are_done.wait(timeout=30)

    monkeypatch.setattr(sample, "generate", slow)
    found: list[int] = []
    calls = [threading.Thread(target=lambda: found.append(len(_files(sample.ensure())))) for _ in range(2)]
    for call in calls:
        call.start()
    for call in calls:
        call.join()
    assert found == [6, 6]
    assert [path.name for path in cache.iterdir()] == [f"sample-v{sample.VERSION}"]


def test_a_cache_that_cannot_be_written_is_an_error_that_names_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="XDG_CACHE_HOME"):
        sample.ensure()


def test_only_the_word_sample_means_the_synthetic_set(cache: Path) -> None:
    assert sample.locate("sample") == str(cache / f"sample-v{sample.VERSION}")
    assert sample.locate("s3://bucket/sample") == "s3://bucket/sample"


def test_the_metadata_names_the_clinic_whose_camera_is_warmer(folder: Path) -> None:
    metadata = list_images(str(folder)).metadata
    redness = {name: [] for name in sample.CLINICS}
    for key, (source, _) in metadata.rows.items():
        with Image.open(folder / key) as image:
            red, _, blue = np.asarray(image).mean((0, 1))
        redness[source].append(red / blue)
    cool, warm = (np.mean(redness[name]) for name in sample.CLINICS)
    assert warm > 1.03 * cool
