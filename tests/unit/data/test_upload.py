"""Upload: copies what is missing, under the same keys, and nothing else."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from skinlib.data import storage, upload
from skinlib.data.storage import Store, open_store
from skinlib.data.upload import Upload, upload_folder
from skinlib.errors import StorageError
from tests.unit.data.conftest import in_both


@in_both
def test_upload_copies_files_that_are_not_hidden_under_the_same_keys(
    new_store: Callable[[str], Store], tmp_path: Path
) -> None:
    source = open_store(str(tmp_path / "source"), create=True)
    target = new_store("target")
    for key in ("README.txt", "train/benign/a b%.png", "train/benign/ü#.png"):
        source.write(key, key.encode())
        target.write(key, b"old")
    source.write("train/.DS_Store", b"x")
    assert upload_folder(tmp_path / "source", target.url) == Upload(target.url, 3, 0, absent=())
    assert {item.key: target.read(item.key).decode() for item in target.list()} == {
        key: key for key in ("README.txt", "train/benign/a b%.png", "train/benign/ü#.png")
    }


@in_both
def test_upload_skips_identical_files(
    new_store: Callable[[str], Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "PART_BYTES", 5 << 20)
    monkeypatch.setattr(upload, "PART_BYTES", 5 << 20)
    source = open_store(str(tmp_path / "source"), create=True)
    target = new_store("target")
    for key, size in [("empty", 0), ("same size", 3), ("several parts", 11 << 20)]:
        source.write(key, os.urandom(size))
    upload_folder(tmp_path / "source", target.url)
    assert upload_folder(tmp_path / "source", target.url) == Upload(target.url, 0, 3, absent=())
    source.write("same size", b"new")
    assert upload_folder(tmp_path / "source", target.url) == Upload(target.url, 1, 2, absent=())
    assert target.read("same size") == b"new"


@in_both
def test_upload_refuses_a_folder_with_dangling_links_before_it_copies_anything(
    new_store: Callable[[str], Store], tmp_path: Path
) -> None:
    source = open_store(str(tmp_path / "source"), create=True)
    target = new_store("target")
    source.write("train/benign/1.jpg", b"x")
    (tmp_path / "source/train/benign/2.jpg").symlink_to("not fetched")
    with pytest.raises(StorageError, match=r"1 of 2 files .* cannot be uploaded; .* train/benign/2\.jpg: it is a link"):
        upload_folder(tmp_path / "source", target.url)
    assert target.list() == []


@in_both
def test_upload_names_what_the_folder_no_longer_has_and_leaves_it_there(
    new_store: Callable[[str], Store], tmp_path: Path
) -> None:
    source = open_store(str(tmp_path / "source"), create=True)
    target = new_store("target")
    for key in ("train/benign/1.jpg", "train/benign/2.jpg", "train/.DS_Store"):
        target.write(key, b"x")
    source.write("train/malignant/1.jpg", b"x")
    done = upload_folder(tmp_path / "source", target.url)
    assert done.absent == ("train/benign/1.jpg", "train/benign/2.jpg")
    assert target.exists("train/benign/1.jpg")
    target.delete_objects(done.absent)
    assert upload_folder(tmp_path / "source", target.url).absent == ()
