"""Listing: which files belong to a data set, and which layouts are refused."""

from collections.abc import Callable
from pathlib import Path

import pytest

from skinlib.data.listing import list_images
from skinlib.data.packing import prepare
from skinlib.data.storage import Object, Store
from skinlib.errors import DataError, StorageError
from tests.unit.data.conftest import FOLDERS, in_both, picture


def test_listing_ignores_hidden_files_and_files_outside_the_class_folders(data: Store) -> None:
    expected = [item.key for item in data.list()]
    for key in (
        "README.txt",
        "train/near_duplicates.csv",
        "train/benign/.DS_Store",
        "train/benign/._1.png",
        "train/benign/Thumbs.db",
        "test/malignant/desktop.ini",
        "__MACOSX/train/benign/1.png",
        ".git/config",
    ):
        data.write(key, b"x")
    assert [item.key for item in list_images(data.url).objects] == expected


def test_subfolders_of_a_class_belong_to_the_class(data: Store) -> None:
    data.write("train/benign/more/4.png", picture(99))
    assert "train/benign/more/4.png" in [item.key for item in list_images(data.url).objects]


@pytest.mark.parametrize(
    ("emptied", "added", "message"),
    [
        (
            "test",
            None,
            r"data/ has no images in a folder 'test'; a data set needs train and test, each",
        ),
        ("test/benign", None, r"data/test/ has no images in a folder 'benign'; a data set needs"),
        ("test/benign", "test/benign/.DS_Store", r"data/test/ has no images in a folder 'benign'; a data set needs"),
        (
            "train/benign",
            "train/bening/1.png",
            r"data/train/ has a folder 'bening', which is not a class; rename it to benign, or move it elsewhere",
        ),
        (
            None,
            "val/benign/1.png",
            r"data/ has a folder 'val', which is not a split; move its images into train",
        ),
        (None, "Train/benign/1.png", r"data/ has a folder 'Train', which is not a split; rename it to train,"),
    ],
)
def test_a_wrong_layout_is_named(data: Store, emptied: str | None, added: str | None, message: str) -> None:
    if emptied:
        data.delete(emptied)
    if added:
        data.write(added, b"x")
    with pytest.raises(DataError, match=message):
        list_images(data.url)


@in_both
@pytest.mark.parametrize("prefix", ["", "deep/"], ids=["one level", "two levels"])
def test_a_url_above_the_data_set_is_refused_with_the_right_one(new_store: Callable[[str], Store], prefix: str) -> None:
    store = new_store("all")
    for folder in FOLDERS:
        store.write(f"{prefix}skin/{folder}/1.png", picture(1))
    with pytest.raises(DataError, match=rf"all is not the data set but holds it; give .*all/{prefix}skin\.$"):
        list_images(store.url)


@in_both
@pytest.mark.parametrize("below", ["train", "train/benign"])
def test_a_url_inside_the_data_set_is_refused_with_the_right_one(data: Store, below: str) -> None:
    with pytest.raises(DataError, match=f"data/{below} is only a part of a data set; give {data.url}\\.$"):
        list_images(f"{data.url}/{below}")


def test_classes_without_splits_are_named(data: Store, tmp_path: Path) -> None:
    (tmp_path / "data/train").rename(tmp_path / "flat")
    with pytest.raises(DataError, match="flat has benign and malignant, but not in train and test; a data set needs"):
        list_images(str(tmp_path / "flat"))


def test_an_odd_name_counts_inside_a_class_folder_only(tmp_path: Path, data: Store) -> None:
    for name in ("logs/a\nb", "train/benign/a\nb.png"):
        (tmp_path / "data" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "data" / name).write_bytes(b"x")
    assert [item.key for item in list_images(data.url).objects if item.problem] == ["train/benign/a\\nb.png"]


def test_a_class_folder_that_cannot_be_listed_ends_the_run(data: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = [*data.list(), Object("train/benign/more/", 0, None, "Permission denied")]
    monkeypatch.setattr(Store, "list", lambda self: listed)
    with pytest.raises(StorageError, match="data/train/benign/more/ cannot be listed: Permission denied"):
        list_images(data.url)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no images in a folder 'train'"):
        list_images(str(tmp_path))


@in_both
@pytest.mark.parametrize("below", ["", "/test"], ids=["whole set", "bare classes"])
def test_for_an_evaluation_only_test_images_are_listed(data: Store, cache: Store, below: str) -> None:
    manifest = prepare(list_images(data.url + below, splits=("test",)), cache)
    assert manifest.splits == ("test",) * 6
    assert manifest.labels == (0, 0, 0, 1, 1, 1)


def test_for_an_evaluation_bare_classes_are_checked(data: Store) -> None:
    data.delete("test/malignant")
    with pytest.raises(DataError, match="data/test/ has no images in a folder 'malignant'"):
        list_images(f"{data.url}/test", splits=("test",))


def test_the_fingerprint_does_not_depend_on_a_trailing_slash(data: Store) -> None:
    assert list_images(data.url).fingerprint == list_images(data.url + "/").fingerprint


@in_both
def test_the_fingerprint_depends_on_content_and_splits(data: Store) -> None:
    before = {list_images(data.url).fingerprint, list_images(data.url, splits=("test",)).fingerprint}
    data.write("test/benign/1.png", picture(99))
    after = {list_images(data.url).fingerprint, list_images(data.url, splits=("test",)).fingerprint}
    assert len(before | after) == 4
