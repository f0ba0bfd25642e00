"""Stores of small pictures, in a folder or on S3."""

import io
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skinlib.data.storage import Store, open_store

FOLDERS = ("train/benign", "train/malignant", "test/benign", "test/malignant")
in_both = pytest.mark.parametrize("new_store", ["folder", "s3"], indirect=True)


def picture(number: int) -> bytes:
    """Make a small PNG; each number gives another picture."""
    pixels = np.random.default_rng(number).integers(0, 256, (40, 44, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def fill(store: Store, names: tuple[str, ...] = ("1.png", "2.png", "3.png")) -> None:
    """Write a picture with each name to each class folder."""
    for number, key in enumerate(f"{folder}/{name}" for folder in FOLDERS for name in names):
        store.write(key, picture(number))


@pytest.fixture
def new_store(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Store]:
    """A function that opens an empty store by name, on S3 if requested; temporary files stay in the test."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    on_s3 = getattr(request, "param", "folder") == "s3"
    root = f"s3://{request.getfixturevalue('bucket')}" if on_s3 else str(tmp_path)
    return lambda name: open_store(f"{root}/{name}", create=True)


@pytest.fixture
def data(new_store: Callable[[str], Store]) -> Store:
    """A store with three pictures in each class folder."""
    store = new_store("data")
    fill(store)
    return store


@pytest.fixture
def cache(new_store: Callable[[str], Store]) -> Store:
    """An empty store for packed sets."""
    return new_store("cache")
