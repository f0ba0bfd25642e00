"""Each bad input is one clear sentence, before any training, without a traceback, and leaves nothing half-written."""

import shutil

import numpy as np
import pytest
from PIL import Image

from tests.flow.conftest import sweep


@pytest.fixture
def images(place):
    """A valid data set of even images, small enough to be broken in each test."""
    folder = place.folder / "images"
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("benign", "malignant"):
            (folder / split / name).mkdir(parents=True)
            for number in range(20):
                colour = rng.integers(0, 256, 3, dtype=np.uint8)
                Image.fromarray(np.full((224, 224, 3), colour)).save(folder / split / name / f"{number}.jpg")
    return folder


def refused(place, *arguments, config=None, data=None):
    """Run the flow, make sure that it fails as it should, and return what it printed."""
    code, output = place.flow(*arguments, config=config, data=data)
    assert code != 0, output
    assert "Traceback" not in output, output
    assert "epoch 1/" not in output, output
    assert not list(place.folder.glob(".metaflow/skinlib/packed/*/manifest.json")), output
    return " ".join(output.split())


def test_a_folder_that_does_not_exist(place):
    assert "There is no folder /no/such/folder; correct" in refused(place, data="/no/such/folder")


def test_a_bucket_that_does_not_exist(place, s3_server):
    place.env |= s3_server.environment()
    assert "s3://no-such-bucket/x" in (output := refused(place, data="s3://no-such-bucket/x"))
    assert "bucket does not exist" in output


def test_no_credentials(place, s3_server):
    place.env |= {"AWS_ENDPOINT_URL": s3_server.endpoint_url}
    assert "s3://lesions cannot be opened: it is not public; set AWS_PROFILE" in refused(place, data="s3://lesions")


def test_wrong_credentials(place, s3_server):
    place.env |= {**s3_server.environment(), "AWS_SECRET_ACCESS_KEY": "xyzzy"}
    output = refused(place, data="s3://lesions")
    assert "credentials are not accepted" in output
    assert "xyzzy" not in output


def test_an_empty_class(place, images):
    shutil.rmtree(images / "train" / "malignant")
    (images / "train" / "malignant").mkdir()
    assert "train/ has no images in a folder 'malignant'" in refused(place, data=images)


def test_a_missing_split(place, images):
    shutil.rmtree(images / "test")
    assert "has no images in a folder 'test'" in refused(place, data=images)


def test_an_unknown_class(place, images):
    (images / "train" / "benign").rename(images / "train" / "bening")
    assert "folder 'bening'" in refused(place, data=images)


def test_too_many_broken_images_are_listed_with_their_reasons(place, images):
    (images / "train" / "benign" / "0.jpg").write_bytes(b"")
    whole = (images / "test" / "malignant" / "3.jpg").read_bytes()
    (images / "test" / "malignant" / "3.jpg").write_bytes(whole[: len(whole) // 2])
    output = refused(place, data=images)
    assert "train/benign/0.jpg" in output
    assert "test/malignant/3.jpg" in output


def test_identical_images_in_both_classes_are_named_before_anything_is_trained(place, images):
    shutil.copy(images / "train" / "benign" / "0.jpg", images / "train" / "malignant" / "0.jpg")
    code, output = place.flow(data=images)
    assert code != 0
    assert "train/benign/0.jpg and train/malignant/0.jpg; remove the wrong one" in " ".join(output.split())
    assert "Traceback" not in output
    assert not place.steps("train")
    assert "epoch 1/" not in output


def test_an_unknown_sweep_key(place, images):
    output = refused(place, data=images, config=sweep({"learning_rat": 0.1}))
    assert "learning_rat is unknown (did you mean learning_rate)" in output
    assert not place.run_ids()


def test_a_sweep_that_is_no_json(place):
    (place.folder / "bad.json").write_text("{")
    script = place.flow_command()[0]
    code, output = place.call(script, "--config", "sweep", "bad.json", "run")
    assert code != 0
    assert "not valid JSON" in output
    assert "Traceback" not in output


def test_a_tracking_server_that_does_not_answer(place, images):
    place.env |= {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    assert "MLflow at http://127.0.0.1:9 does not answer" in refused(place, data=images)


def test_a_parameter_out_of_range(place, images):
    output = refused(place, "--validation-fraction", "1.5", data=images)
    assert "The validation fraction is 1.5; give a number above 0 and at most 0.5" in output


def test_missing_pretrained_weights(place, images):
    config = sweep({"architecture": "resnet18", "weights": "resnet18-f37072fd.pth"})
    assert "resnet18-f37072fd.pth does not exist" in refused(place, data=images, config=config)


def test_evaluating_without_any_model(place, images):
    code, output = place.call_skinlib("evaluate", "models:/nothing@champion", str(images), "--json")
    assert code == 1
    assert "Traceback" not in output
    assert "mlflow.db is not on this machine" in output


def test_the_help_imports_neither_torch_nor_mlflow(place):
    code, output = place.call("-X", "importtime", place.flow_command()[0], "--help")
    assert code == 0
    heavy = {"torch", "mlflow", "matplotlib", "sklearn", "pandas"}
    assert not heavy & {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in output.splitlines() if "|" in line}
