"""Data sets: the same images are the same data wherever they lie; nothing half-done is taken for whole."""

import io
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from skinlib import dataset, storage
from skinlib.dataset import (
    CLASSES,
    Manifest,
    check_options,
    list_images,
    open_packed,
    prepare,
    split,
    upload_folder,
)
from skinlib.errors import ConfigError, DataError, StorageError
from skinlib.images import decode
from skinlib.storage import Store, open_store

FOLDERS = ("train/benign", "train/malignant", "test/benign", "test/malignant")


def picture(number: int) -> bytes:
    """A small PNG; another number, another picture."""
    pixels = np.random.default_rng(number).integers(0, 256, (40, 44, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def fill(store: Store, names: tuple[str, ...] = ("1.png", "2.png", "3.png")) -> None:
    """Write a picture of each name to each class folder."""
    for number, key in enumerate(f"{folder}/{name}" for folder in FOLDERS for name in names):
        store.write(key, picture(number))


in_both = pytest.mark.parametrize("new_store", ["folder", "s3"], indirect=True)


@pytest.fixture
def new_store(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Store]:
    """A function that gives an empty store of a name, on S3 if asked; temporary files stay in the test."""
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


# Listing


def test_listing_ignores_hidden_files_and_files_beside_the_folders(data: Store) -> None:
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


def test_listing_takes_deeper_folders_as_part_of_their_class(data: Store) -> None:
    data.write("train/benign/more/4.png", picture(99))
    assert "train/benign/more/4.png" in [item.key for item in list_images(data.url).objects]


@pytest.mark.parametrize(
    ("emptied", "added", "message"),
    [
        (
            "test",
            None,
            r"data/ has no images in a folder 'test'; expected are train and test, each",
        ),
        ("test/benign", None, r"data/test/ has no images in a folder 'benign'; expected"),
        ("test/benign", "test/benign/.DS_Store", r"data/test/ has no images in a folder 'benign'; expected"),
        (
            "train/benign",
            "train/bening/1.png",
            r"data/train/ has a folder 'bening', which is no class; rename it to benign or malignant",
        ),
        (
            None,
            "val/benign/1.png",
            r"data/ has a folder 'val', which is no split; rename it to train or test, or move it away\.",
        ),
        (None, "Train/benign/1.png", r"data/ has a folder 'Train', which is no split"),
    ],
)
def test_a_wrong_layout_is_named(data: Store, emptied: str | None, added: str | None, message: str) -> None:
    if emptied:
        data.delete(emptied)
    if added:
        data.write(added, b"x")
    with pytest.raises(DataError, match=message):
        list_images(data.url)


def test_an_empty_folder_holds_no_data(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no images in a folder 'train'"):
        list_images(str(tmp_path))


@in_both
@pytest.mark.parametrize("below", ["", "/test"], ids=["whole set", "bare classes"])
def test_for_a_test_only_test_images_are_listed(data: Store, cache: Store, below: str) -> None:
    manifest = prepare(list_images(data.url + below, splits=("test",)), cache)
    assert manifest.splits == ("test",) * 6
    assert manifest.labels == (0, 0, 0, 1, 1, 1)


def test_for_a_test_bare_classes_are_checked(data: Store) -> None:
    data.delete("test/malignant")
    with pytest.raises(DataError, match="data/test/ has no images in a folder 'malignant'"):
        list_images(f"{data.url}/test", splits=("test",))


def test_the_fingerprint_is_steady(data: Store) -> None:
    assert list_images(data.url).fingerprint == list_images(data.url + "/").fingerprint


@in_both
def test_the_fingerprint_follows_content_and_splits(data: Store) -> None:
    before = {list_images(data.url).fingerprint, list_images(data.url, splits=("test",)).fingerprint}
    data.write("test/benign/1.png", picture(99))
    after = {list_images(data.url).fingerprint, list_images(data.url, splits=("test",)).fingerprint}
    assert len(before | after) == 4


# Preparing


@in_both
def test_the_packed_set_holds_what_the_files_hold(data: Store, cache: Store) -> None:
    listing = list_images(data.url)
    manifest = prepare(listing, cache)
    packed = open_packed(cache, manifest.hash)
    assert manifest.keys == tuple(item.key for item in listing.objects)
    assert manifest.sizes == tuple(item.size for item in listing.objects)
    assert packed.manifest == manifest
    assert [CLASSES[label] in key for key, label in zip(manifest.keys, packed.labels, strict=True)] == [True] * 12
    np.testing.assert_array_equal(packed.images, [decode(data.read(key)) for key in manifest.keys])


def test_the_hash_is_the_same_in_a_folder_and_on_s3(bucket: str, tmp_path: Path) -> None:
    stores = [
        open_store(str(tmp_path / "data"), create=True),
        open_store(f"s3://{bucket}/other", create=True),
    ]
    cache = open_store(str(tmp_path / "cache"), create=True)
    for store in stores:
        fill(store, ("a b.png", "über 日本.png", "100%.png", "a%20b.png", "a#1.png", "a+b.png"))
    folder, s3 = (prepare(list_images(store.url), cache) for store in stores)
    assert folder == s3
    assert folder.hash == s3.hash
    assert len(os.listdir(tmp_path / "cache/skinlib/packed")) == 1


@in_both
def test_known_data_is_not_read_again(data: Store, cache: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    data.write("train/benign/notes.txt", b"ask the clinic about 2.png")
    first = prepare(list_images(data.url), cache, max_rejected=0.5)
    monkeypatch.setattr(Store, "read_many", lambda *_: pytest.fail("read an image"))
    assert prepare(list_images(data.url), cache, max_rejected=0.5) == first
    assert first.rejected == (("train/benign/notes.txt", "it is not an image"),)


@in_both
def test_a_lost_packed_set_is_made_again(data: Store, cache: Store) -> None:
    manifest = prepare(list_images(data.url), cache)
    cache.delete("skinlib/packed")
    assert prepare(list_images(data.url), cache) == manifest
    assert len(open_packed(cache, manifest.hash).images) == 12


def test_the_hash_is_that_of_the_usable_images(data: Store, cache: Store) -> None:
    clean = prepare(list_images(data.url), cache)
    data.write("test/benign/broken.png", picture(5)[:500])
    dirty = prepare(list_images(data.url), cache, max_rejected=0.5)
    assert dirty.hash == clean.hash
    assert [key for key, _ in dirty.rejected] == ["test/benign/broken.png"]


@pytest.mark.parametrize("column", ["keys", "sizes", "labels", "splits", "sha256"])
def test_the_hash_covers(column: str) -> None:
    manifest = Manifest(("a", "b"), (1, 2), (0, 1), ("train", "test"), ("f0", "f1"))
    swapped = replace(manifest, **{column: getattr(manifest, column)[::-1]})
    assert swapped.hash != manifest.hash


def test_rejected_files_leave_no_gap(data: Store, cache: Store) -> None:
    for key in ("train/benign/1.png", "train/benign/2.png", "test/malignant/3.png"):
        data.write(key, b"")
    manifest = prepare(list_images(data.url), cache, max_rejected=0.5)  # 12 files, 9 images: one digit less
    images = open_packed(cache, manifest.hash).images
    assert dict(manifest.rejected)["train/benign/2.png"] == "the file is empty"
    np.testing.assert_array_equal(images, [decode(data.read(key)) for key in manifest.keys])


def test_too_many_rejected_files_are_an_error(data: Store, cache: Store) -> None:
    data.write("test/benign/notes.txt", b"...")
    with pytest.raises(DataError, match=r"^1 of 13 files in .*data cannot be used, .*test/benign/notes.txt: it is not"):
        prepare(list_images(data.url), cache)
    assert cache.list() == []


def test_too_many_rejected_files_are_an_error_for_known_data_too(data: Store, cache: Store) -> None:
    data.write("test/benign/notes.txt", b"...")
    prepare(list_images(data.url), cache, max_rejected=0.5)
    with pytest.raises(DataError, match=r"more than max_rejected = 0\.01 allows"):
        prepare(list_images(data.url), cache)


def test_a_class_that_is_lost_is_an_error(data: Store, cache: Store) -> None:
    for name in ("1.png", "2.png", "3.png"):
        data.write(f"test/malignant/{name}", b"")
    with pytest.raises(DataError, match=r"no file in .*data/test/malignant can be used"):
        prepare(list_images(data.url), cache, max_rejected=0.5)


def test_a_huge_file_is_not_read(data: Store, cache: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    data.write("train/benign/all.zip", bytes(2 << 20))
    monkeypatch.setattr(dataset, "MAX_FILE_BYTES", 1 << 20)
    manifest = prepare(list_images(data.url), cache, max_rejected=0.5)
    assert manifest.rejected == (("train/benign/all.zip", "it is larger than 1 MB"),)


@in_both
@pytest.mark.parametrize("change", ["replaced", "deleted"])
def test_an_image_that_changes_after_listing_stops_all(data: Store, cache: Store, change: str) -> None:
    listing = list_images(data.url)
    data.delete("test/benign")
    if change == "replaced":
        data.write("test/benign/1.png", picture(99))
    with pytest.raises(StorageError, match=r"data/test/benign/1\.png cannot be read"):
        prepare(listing, cache)
    assert cache.list() == []


def test_progress_ends_with_everything(data: Store, cache: Store) -> None:
    calls: list[tuple[int, int]] = []
    prepare(list_images(data.url), cache, on_progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (12, 12)


CHILD = """
import os, signal, sys
from skinlib.dataset import list_images, prepare
from skinlib.storage import Store, open_store
url, cache, deadly = sys.argv[1:]
write = Store.write
def die_or_write(self, key, data):
    if deadly in key:
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, key, data)
Store.write = die_or_write
def on_progress(done, total):
    if deadly == "reading":
        os.kill(os.getpid(), signal.SIGKILL)
print(prepare(list_images(url), open_store(cache, create=True), on_progress=on_progress).hash)
"""


@in_both
@pytest.mark.parametrize("moment", ["reading", "manifest.json", "listings"])
def test_a_killed_process_leaves_nothing_that_looks_whole(data: Store, cache: Store, moment: str) -> None:
    command = [sys.executable, "-c", CHILD, data.url, cache.url, moment]
    assert subprocess.run(command, env=_environment()).returncode == -9
    assert not any("listings" in item.key for item in cache.list())
    manifest = prepare(list_images(data.url), cache)
    assert len(open_packed(cache, manifest.hash).images) == 12


@in_both
def test_two_processes_may_prepare_the_same_set(data: Store, cache: Store) -> None:
    command = [sys.executable, "-c", CHILD, data.url, cache.url, "never"]
    children = [subprocess.Popen(command, env=_environment(), stdout=subprocess.PIPE, text=True) for _ in range(2)]
    hashes = {child.communicate()[0].split()[-1] for child in children}
    assert [child.returncode for child in children] == [0, 0]
    assert hashes == {prepare(list_images(data.url), cache).hash}


def _environment() -> dict[str, str]:
    return {**os.environ, "TMPDIR": tempfile.gettempdir()}


# Opening


def test_in_a_folder_the_set_is_mapped_in_place(tmp_path: Path) -> None:
    data, cache = (open_store(str(tmp_path / name), create=True) for name in ("data", "cache"))
    fill(data)
    images = open_packed(cache, prepare(list_images(data.url), cache).hash).images
    assert isinstance(images, np.memmap)
    assert Path(str(images.filename)).is_relative_to(tmp_path / "cache")
    assert not images.flags.writeable


def test_from_s3_the_set_is_downloaded_once(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    store = open_store(f"s3://{bucket}")
    fill(store)
    manifest_hash = prepare(list_images(store.url), store).hash
    images = open_packed(store, manifest_hash).images
    monkeypatch.setattr(Store, "download", lambda *_: pytest.fail("downloaded again"))
    np.testing.assert_array_equal(open_packed(store, manifest_hash).images, images)


@in_both
def test_an_unknown_set_is_an_error(cache: Store) -> None:
    with pytest.raises(StorageError, match=r"packed/0123-.*/manifest.json cannot be read: it does not exist"):
        open_packed(cache, "0123")


@in_both
def test_a_damaged_set_is_an_error(data: Store, cache: Store) -> None:
    manifest_hash = prepare(list_images(data.url), cache).hash
    [key] = [item.key for item in cache.list() if item.key.endswith("images.npy")]
    cache.write(key, cache.read(key)[:-1])
    with pytest.raises(StorageError, match=r"does not hold the packed images .* delete it and run again"):
        open_packed(cache, manifest_hash)


def test_a_manifest_survives_json() -> None:
    manifest = Manifest(("ü/a",), (1,), (1,), ("train",), ("f0",), rejected=(("b", "it is empty"),))
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_a_summary_is_plain() -> None:
    manifest = Manifest(("a", "b"), (1, 2), (1, 0), ("train", "test"), ("f0", "f1"), (("c", "it is empty"),))
    assert manifest.summary() == {
        "hash": manifest.hash,
        "n_images": 2,
        "counts": {"train": {"benign": 0, "malignant": 1}, "test": {"benign": 1, "malignant": 0}},
        "rejected": [{"key": "c", "reason": "it is empty"}],
    }


# Splitting


@st.composite
def grouped(draw: st.DrawFn) -> tuple[Manifest, np.ndarray]:
    """A manifest with 8 to 60 training images of each class and 0 to 10 for test, and groups of up to four."""
    counts = [draw(st.integers(8, 60)), draw(st.integers(8, 60)), *(draw(st.integers(0, 10)) for _ in "ab")]
    places = [tuple(folder.split("/")) for folder in FOLDERS]
    rows = sorted(
        (f"{part}/{name}/{number}.png", CLASSES.index(name), part)
        for (part, name), count in zip(places, counts, strict=True)
        for number in range(count)
    )
    keys, labels, splits = zip(*rows, strict=True)
    groups = np.arange(len(rows))
    # Groups stay within the first eighth of either class and the test images, so that a split into 4 is possible.
    for _ in range(draw(st.integers(0, 6))):
        chosen = draw(st.lists(st.integers(0, len(rows) - 1), min_size=2, max_size=4, unique=True))
        movable = [i for i in chosen if splits[i] == "test" or int(keys[i].split("/")[2].split(".")[0]) < 4]
        groups[movable] = min(movable, default=0)
    return Manifest(keys, (1,) * len(rows), labels, splits, ("0",) * len(rows)), groups


_fractions = st.sampled_from([0.5, 0.4, 0.34, 0.25])
_seeds = st.integers(0, 2**32 - 1)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(grouped(), _fractions, _seeds)
def test_a_split_is_a_partition_that_leaves_test_alone(
    data: tuple[Manifest, np.ndarray], fraction: float, seed: int
) -> None:
    manifest, groups = data
    parts = split(manifest, groups, fraction, seed)
    together = np.concatenate([parts.train, parts.validation, parts.test])
    assert sorted(together) == list(range(len(manifest.keys)))
    assert list(parts.test) == [i for i, name in enumerate(manifest.splits) if name == "test"]


@settings(max_examples=50, deadline=None, derandomize=True)
@given(grouped(), _fractions, _seeds)
def test_a_split_never_cuts_a_group(data: tuple[Manifest, np.ndarray], fraction: float, seed: int) -> None:
    manifest, groups = data
    parts = split(manifest, groups, fraction, seed)
    assert not set(groups[parts.train]) & set(groups[parts.validation])


@settings(max_examples=50, deadline=None, derandomize=True)
@given(grouped(), _fractions, _seeds, st.randoms(use_true_random=False))
def test_a_split_does_not_depend_on_the_order(
    data: tuple[Manifest, np.ndarray], fraction: float, seed: int, random: Random
) -> None:
    manifest, groups = data
    order = list(range(len(manifest.keys)))
    random.shuffle(order)
    columns = ("keys", "sizes", "labels", "splits", "sha256")
    shuffled = Manifest(*(tuple(getattr(manifest, name)[i] for i in order) for name in columns))
    renamed = 1000 - groups[order]
    assert _held_back(shuffled, renamed, fraction, seed) == _held_back(manifest, groups, fraction, seed)


@pytest.mark.parametrize(("fraction", "folds"), [(0.5, 2), (0.3, 3), (0.15, 7), (0.1, 10)])
def test_a_split_is_stratified(fraction: float, folds: int) -> None:
    manifest, groups = _hundred_and_fifty()
    parts = split(manifest, groups, fraction, seed=3)
    for label, n in ((0, 100), (1, 50)):
        validating = sum(manifest.labels[i] == label for i in parts.validation)
        assert abs(validating - n / folds) < 1


def _hundred_and_fifty() -> tuple[Manifest, np.ndarray]:
    rows = [(f"train/benign/{i}.png", 0) for i in range(100)] + [(f"train/malignant/{i}.png", 1) for i in range(50)]
    keys, labels = zip(*rows, strict=True)
    return Manifest(keys, (1,) * 150, labels, ("train",) * 150, ("0",) * 150), np.arange(150)


def _held_back(manifest: Manifest, groups: np.ndarray, fraction: float, seed: int) -> set[str]:
    return {manifest.keys[index] for index in split(manifest, groups, fraction, seed).validation}


def test_another_seed_gives_another_split() -> None:
    manifest, groups = _hundred_and_fifty()
    assert _held_back(manifest, groups, 0.2, seed=1) == _held_back(manifest, groups, 0.2, seed=1)
    assert _held_back(manifest, groups, 0.2, seed=1) != _held_back(manifest, groups, 0.2, seed=2)


def test_a_class_with_too_few_images_that_differ_cannot_be_split() -> None:
    manifest = Manifest(tuple("abcdef"), (1,) * 6, (0, 0, 0, 1, 1, 1), ("train",) * 6, ("0",) * 6)
    with pytest.raises(DataError, match=r"train/malignant has 2 usable images that differ; .* 0.33 needs 3"):
        split(manifest, np.array([0, 1, 2, 3, 4, 4]), 0.33, seed=0)


def test_a_split_that_would_leave_a_part_with_one_class_is_refused() -> None:
    sizes = {(0, 1): 4, (1, 0): 7, (2, 0): 4, (2, 1): 2}  # of a group's images of a class
    groups, labels = zip(*(member for member, n in sizes.items() for _ in range(n)), strict=True)
    n = len(groups)
    manifest = Manifest(tuple(f"{i:02}" for i in range(n)), (1,) * n, labels, ("train",) * n, ("0",) * n)
    with pytest.raises(DataError, match=r"validation part would hold one class alone"):
        split(manifest, np.array(groups), 0.5, seed=0)


@pytest.mark.parametrize(
    "options", [(-1, 0.1, 0, 1), (0, 0, 0, 1), (0, 0.6, 0, 1), (0, 0.1, -0.1, 1), (0, 0.1, 1, 1), (0, 0.1, 0, 0)]
)
def test_options_out_of_range_are_refused(options: tuple[int, float, float, float]) -> None:
    with pytest.raises(ConfigError, match="give a number"):
        check_options(*options)


# Uploading


@in_both
def test_upload_copies_what_is_not_hidden_under_the_same_keys(
    new_store: Callable[[str], Store], tmp_path: Path
) -> None:
    source = open_store(str(tmp_path / "source"), create=True)
    target = new_store("target")
    for key in ("README.txt", "train/benign/a b%.png", "train/benign/ü#.png"):
        source.write(key, key.encode())
        target.write(key, b"old")
    source.write("train/.DS_Store", b"x")
    assert upload_folder(tmp_path / "source", target.url) == {"uploaded": 3, "unchanged": 0}
    assert {item.key: target.read(item.key).decode() for item in target.list()} == {
        key: key for key in ("README.txt", "train/benign/a b%.png", "train/benign/ü#.png")
    }


@in_both
def test_upload_leaves_the_same_alone(
    new_store: Callable[[str], Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "PART_BYTES", 5 << 20)
    monkeypatch.setattr(dataset, "PART_BYTES", 5 << 20)
    source = open_store(str(tmp_path / "source"), create=True)
    target = new_store("target")
    for key, size in [("empty", 0), ("same size", 3), ("several parts", 11 << 20)]:
        source.write(key, os.urandom(size))
    upload_folder(tmp_path / "source", target.url)
    assert upload_folder(tmp_path / "source", target.url) == {"uploaded": 0, "unchanged": 3}
    source.write("same size", b"new")
    assert upload_folder(tmp_path / "source", target.url) == {"uploaded": 1, "unchanged": 2}
    assert target.read("same size") == b"new"


# The real images


@pytest.fixture
def real_images() -> Path:
    """The folder of the real data set, where there is one."""
    folder = os.environ.get("SKINLIB_TEST_IMAGES")
    if not folder:
        pytest.skip("SKINLIB_TEST_IMAGES does not name a folder with the real images")
    return Path(folder)


def test_real_images_are_the_same_data_in_a_folder_and_on_s3(
    real_images: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = open_store(str(tmp_path))
    url = f"s3://{bucket}/real"
    upload_folder(real_images, url)
    manifests = [prepare(list_images(place), cache) for place in (str(real_images), url)]
    assert manifests[0] == manifests[1]
    assert manifests[0].rejected == ()
    reads: Counter[str] = Counter()
    read = Store.read
    monkeypatch.setattr(Store, "read", lambda self, key, etag=None: reads.update([self.url]) or read(self, key, etag))
    assert prepare(list_images(url), cache) == manifests[1]
    assert reads == {cache.url: 2}  # listing record and manifest
