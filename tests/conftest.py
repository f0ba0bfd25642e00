"""Fixtures for all tests; they start real servers and stop them at the end."""

import os
from pathlib import Path

import pytest
from PIL import Image

from skinlib.data import sample

# Test files run in parallel; with one thread per core in each of them, the threads would mostly wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
pytest_plugins = ["tests.servers.s3", "tests.servers.mlflow", "tests.servers.aws"]


@pytest.fixture(scope="session")
def tiny_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small synthetic data set: 96 training images, two of the same lesion, and 32 test images, one a twin."""
    folder = tmp_path_factory.mktemp("images") / "lesions"
    sample.generate(folder, n_train=96, n_test=32)
    for original, copy in (("train/benign/1", "test/benign/1"), ("train/malignant/1", "train/malignant/2")):
        with Image.open(folder / f"{original}.jpg") as image:
            image.transpose(Image.Transpose.ROTATE_90).save(folder / f"{copy}.jpg", quality=95)
    return folder


@pytest.fixture
def real_images() -> Path:
    """The folder of the real data set, if there is one."""
    folder = os.environ.get("SKINLIB_TEST_IMAGES")
    if not folder:
        pytest.skip("SKINLIB_TEST_IMAGES does not name a folder with the real images")
    return Path(folder)
