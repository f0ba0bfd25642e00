"""Packing: the same images are the same data in every place, and incomplete work is never used."""

import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skinlib.data import packing
from skinlib.data.images import decode
from skinlib.data.listing import list_images
from skinlib.data.manifest import CLASSES
from skinlib.data.packing import open_packed, prepare
from skinlib.data.storage import Store, open_store
from skinlib.data.traces import columns, file_traces
from skinlib.data.upload import upload_folder
from skinlib.errors import DataError, StorageError
from tests.unit.data.conftest import fill, in_both, picture


@in_both
def test_the_packed_set_has_the_pixels_of_the_files(data: Store, cache: Store) -> None:
    listing = list_images(data.url)
    manifest = prepare(listing, cache)
    packed = open_packed(cache, manifest.hash)
    assert manifest.keys == tuple(item.key for item in listing.objects)
    assert manifest.sizes == tuple(item.size for item in listing.objects)
    assert packed.manifest == manifest
    assert [CLASSES[label] in key for key, label in zip(manifest.keys, packed.labels, strict=True)] == [True] * 12
    np.testing.assert_array_equal(packed.images, [decode(data.read(key)) for key in manifest.keys])


def test_the_traces_are_those_of_the_files_that_can_be_used(data: Store, cache: Store) -> None:
    data.write("train/benign/2.png", b"")
    manifest = prepare(list_images(data.url), cache, max_rejected=0.5)
    files = [file_traces(data.read(key)) for key in manifest.keys]
    assert manifest.traces == columns(files)
    assert open_packed(cache, manifest.hash).manifest.traces == manifest.traces
    assert set(manifest.traces["format"]) == {"PNG"}


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
def test_a_deleted_packed_set_is_made_again(data: Store, cache: Store) -> None:
    manifest = prepare(list_images(data.url), cache)
    cache.delete("skinlib/packed")
    assert prepare(list_images(data.url), cache) == manifest
    assert len(open_packed(cache, manifest.hash).images) == 12


def test_the_hash_depends_on_the_usable_images_only(data: Store, cache: Store) -> None:
    clean = prepare(list_images(data.url), cache)
    data.write("test/benign/broken.png", picture(5)[:500])
    dirty = prepare(list_images(data.url), cache, max_rejected=0.5)
    assert dirty.hash == clean.hash
    assert [key for key, _ in dirty.rejected] == ["test/benign/broken.png"]


def test_rejected_files_leave_no_gap(data: Store, cache: Store) -> None:
    for key in ("train/benign/1.png", "train/benign/2.png", "test/malignant/3.png"):
        data.write(key, b"")
    manifest = prepare(list_images(data.url), cache, max_rejected=0.5)  # 12 files but 9 images: one digit fewer
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


def test_a_class_without_usable_files_is_an_error(data: Store, cache: Store) -> None:
    for name in ("1.png", "2.png", "3.png"):
        data.write(f"test/malignant/{name}", b"")
    with pytest.raises(DataError, match=r"All files in .*data/test/malignant are unusable"):
        prepare(list_images(data.url), cache, max_rejected=0.5)


def test_everything_but_no_usable_file_can_be_allowed(data: Store, cache: Store) -> None:
    keys = [item.key for item in data.list()]
    for key in keys[1:]:
        data.write(key, b"")
    manifest = prepare(list_images(data.url), cache, max_rejected=1)
    assert manifest.keys == (keys[0],)
    assert len(manifest.rejected) == 11
    data.write(keys[0], b"")
    with pytest.raises(DataError, match=r"None of the 12 files in .*data can be used; repair"):
        prepare(list_images(data.url), cache, max_rejected=1)


def test_a_huge_file_is_not_read(data: Store, cache: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    data.write("train/benign/all.zip", bytes(2 << 20))
    monkeypatch.setattr(packing, "MAX_FILE_BYTES", 1 << 20)
    manifest = prepare(list_images(data.url), cache, max_rejected=0.5)
    assert manifest.rejected == (("train/benign/all.zip", "it is larger than 1 MB"),)


@in_both
def test_files_that_cannot_be_read_are_rejected_and_tried_again_in_the_next_run(data: Store, cache: Store) -> None:
    listing = list_images(data.url)
    data.delete_objects(["test/benign/1.png"])
    [(key, reason)] = prepare(listing, cache, max_rejected=0.1).rejected
    assert key == "test/benign/1.png"
    assert reason.startswith("it does not exist")
    assert not any("listings" in item.key for item in cache.list())


def test_dangling_links_count_as_rejected_files(tmp_path: Path, data: Store, cache: Store) -> None:
    (tmp_path / "data/test/benign/4.png").symlink_to("not fetched")
    [(key, reason)] = prepare(list_images(data.url), cache, max_rejected=0.1).rejected
    assert key == "test/benign/4.png"
    assert reason.startswith("it is a link to a file that is not here")
    assert prepare(list_images(data.url), cache, max_rejected=0.1).rejected == ((key, reason),)
    with pytest.raises(DataError, match=r"1 of 13 files .* test/benign/4\.png: it is a link"):
        prepare(list_images(data.url), cache)


@in_both
def test_an_image_that_changes_after_listing_stops_the_packing(data: Store, cache: Store) -> None:
    listing = list_images(data.url)
    data.write("test/benign/1.png", picture(99))
    with pytest.raises(StorageError, match=r"data/test/benign/1\.png cannot be read"):
        prepare(listing, cache)
    assert cache.list() == []


def test_progress_ends_with_all_files(data: Store, cache: Store) -> None:
    calls: list[tuple[int, int]] = []
    prepare(list_images(data.url), cache, on_progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (12, 12)


CHILD = """
import os, signal, sys
from skinlib.data.listing import list_images
from skinlib.data.packing import prepare
from skinlib.data.storage import Store, open_store
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
def test_a_killed_process_leaves_nothing_that_looks_complete(data: Store, cache: Store, moment: str) -> None:
    command = [sys.executable, "-c", CHILD, data.url, cache.url, moment]
    assert subprocess.run(command, env=_environment()).returncode == -9
    assert not any("listings" in item.key for item in cache.list())
    assert bool(_temporary_folders(cache)) == (moment != "listings")
    manifest = prepare(list_images(data.url), cache)
    assert len(open_packed(cache, manifest.hash).images) == 12
    assert not _temporary_folders(cache)


def _temporary_folders(cache: Store) -> list[Path]:
    return list((cache.local_path or Path(tempfile.gettempdir())).rglob(".building-*"))


def test_the_temporary_folder_of_a_working_process_is_kept(
    data: Store, cache: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = list_images(data.url)

    def start_another(done: int, total: int) -> None:
        prepare(listing, cache)
        assert len(_temporary_folders(cache)) == 1

    assert len(prepare(listing, cache, on_progress=start_another).keys) == 12


@in_both
def test_two_processes_may_prepare_the_same_set(data: Store, cache: Store) -> None:
    command = [sys.executable, "-c", CHILD, data.url, cache.url, "never"]
    children = [subprocess.Popen(command, env=_environment(), stdout=subprocess.PIPE, text=True) for _ in range(2)]
    hashes = {child.communicate()[0].split()[-1] for child in children}
    assert [child.returncode for child in children] == [0, 0]
    assert hashes == {prepare(list_images(data.url), cache).hash}


def _environment() -> dict[str, str]:
    return {**os.environ, "TMPDIR": tempfile.gettempdir()}


def test_in_a_folder_the_set_is_mapped_in_place(tmp_path: Path) -> None:
    data, cache = (open_store(str(tmp_path / name), create=True) for name in ("data", "cache"))
    fill(data)
    images = open_packed(cache, prepare(list_images(data.url), cache).hash).images
    assert isinstance(images, np.memmap)
    assert Path(str(images.filename)).is_relative_to(tmp_path / "cache")
    assert not images.flags.writeable


@pytest.fixture
def blocks(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Store, str, list[str]]:
    """A packed set of three blocks on S3, of 4 images each, its hash, and the list of blocks read and written."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(packing, "BLOCK", 4)
    data, store = (open_store(f"s3://{bucket}/{name}", create=True) for name in ("data", "cache"))
    fill(data)
    manifest_hash, moved = prepare(list_images(data.url), store).hash, list[str]()
    for name in ("read", "write"):
        original = getattr(Store, name)

        def noted(self: Store, key: str, *rest: Any, original: Any = original, verb: str = name) -> Any:
            if key.endswith(".bin"):
                moved.append(f"{verb} {Path(key).stem[-1]}")
            return original(self, key, *rest)

        monkeypatch.setattr(Store, name, noted)
    return store, manifest_hash, moved


def test_from_s3_each_block_is_downloaded_once(blocks: tuple[Store, str, list[str]]) -> None:
    store, manifest_hash, moved = blocks
    images = open_packed(store, manifest_hash).images
    assert sorted(moved) == ["read 0", "read 1", "read 2"]
    np.testing.assert_array_equal(open_packed(store, manifest_hash).images, images)
    assert len(moved) == 3


def test_from_s3_only_the_blocks_that_are_needed_are_downloaded(blocks: tuple[Store, str, list[str]]) -> None:
    store, manifest_hash, moved = blocks
    some = open_packed(store, manifest_hash, np.array([5, 7])).images[[5, 7]]
    assert moved == ["read 1"]
    np.testing.assert_array_equal(some, open_packed(store, manifest_hash).images[[5, 7]])
    assert sorted(moved) == ["read 0", "read 1", "read 2"]


def test_a_broken_download_goes_on_where_it_stopped(
    blocks: tuple[Store, str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, manifest_hash, moved = blocks
    monkeypatch.setattr(packing, "_DOWNLOADS", 1)
    read = Store.read

    def fails(self: Store, key: str, *rest: Any) -> bytes:
        if key.endswith("2.bin"):
            raise StorageError("the line is broken")
        return read(self, key, *rest)

    with monkeypatch.context() as broken:
        broken.setattr(Store, "read", fails)
        with pytest.raises(StorageError, match="the line is broken"):
            open_packed(store, manifest_hash)
    assert moved == ["read 0", "read 1"]
    open_packed(store, manifest_hash)
    assert moved == ["read 0", "read 1", "read 2"]


def test_a_broken_upload_goes_on_where_it_stopped(blocks: tuple[Store, str, list[str]], bucket: str) -> None:
    store, manifest_hash, moved = blocks
    keys = {Path(item.key).stem[-1]: item.key for item in store.list("skinlib") if item.key.endswith(".bin")}
    store.delete(f"{packing.packed_folder(manifest_hash)}/manifest.json")
    store.delete("skinlib/listings")
    store.delete_objects([keys["1"]])
    damage(store, keys["2"], flipped)
    moved.clear()
    prepare(list_images(f"s3://{bucket}/data"), store)
    assert sorted(moved) == ["write 1", "write 2"]
    assert len(open_packed(store, manifest_hash).images) == 12


def test_in_a_folder_only_the_images_that_are_needed_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "BLOCK", 4)
    data, cache = (open_store(str(tmp_path / name), create=True) for name in ("data", "cache"))
    fill(data)
    manifest_hash = prepare(list_images(data.url), cache).hash
    damage(cache, "images.npy", flipped)
    open_packed(cache, manifest_hash, np.arange(8))
    with pytest.raises(StorageError, match="has other bytes"):
        open_packed(cache, manifest_hash, np.array([8]))


@in_both
def test_an_unknown_set_is_an_error(cache: Store) -> None:
    with pytest.raises(StorageError, match=r"packed/0123-.* does not hold the packed images \(it does not exist"):
        open_packed(cache, "0123")


def empty(data: bytes) -> bytes:
    return b""


def cut(data: bytes) -> bytes:
    return data[:-1]


def flipped(data: bytes) -> bytes:
    """Change the last digit, letter or pixel."""
    place = max(place for place, byte in enumerate(data) if byte not in b'{}[]" \n')
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def undecodable(data: bytes) -> bytes:
    return b"\xff\xfe" + data


def other_json(data: bytes) -> bytes:
    return b'{"hash": "../..", "rejected": 3}'


def other_trace(data: bytes) -> bytes:
    return data.replace(b'"PNG"', b'"GIF"', 1)


def damage(cache: Store, name: str, change: Callable[[bytes], bytes]) -> None:
    [key] = [item.key for item in cache.list() if name in item.key]
    cache.write(key, change(cache.read(key)))


@in_both
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("skinlib/listings/", empty),
        ("skinlib/listings/", flipped),
        ("skinlib/listings/", other_json),
        ("manifest.json", cut),
        ("manifest.json", undecodable),
        ("manifest.json", other_json),
        ("manifest.json", other_trace),
        ("/images", empty),
        ("/images", cut),
        ("/images", flipped),
    ],
)
def test_damaged_files_of_the_cache_are_made_again(
    data: Store, cache: Store, name: str, change: Callable[[bytes], bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    data.write("train/benign/notes.txt", b"ask the clinic about 2.png")
    listing = list_images(data.url)
    manifest = prepare(listing, cache, max_rejected=0.5)
    pixels = np.array(open_packed(cache, manifest.hash).images)
    damage(cache, name, change)
    assert prepare(listing, cache, max_rejected=0.5) == manifest
    said = capsys.readouterr().err
    assert re.fullmatch(rf"{cache.url}/skinlib/(listings|packed)/\S+ is .*damaged; the images are read again\.\n", said)
    np.testing.assert_array_equal(open_packed(cache, manifest.hash).images, pixels)


@in_both
@pytest.mark.parametrize(("name", "change"), [("manifest.json", flipped), ("/images", empty), ("/images", flipped)])
def test_a_damaged_set_is_not_opened(data: Store, cache: Store, name: str, change: Callable[[bytes], bytes]) -> None:
    manifest_hash = prepare(list_images(data.url), cache).hash
    damage(cache, name, change)
    with pytest.raises(StorageError, match=r"does not hold the packed images .* start a new run, which reads the"):
        open_packed(cache, manifest_hash)


@pytest.mark.parametrize("change", [empty, flipped])
def test_a_damaged_copy_of_a_bucket_s_set_is_downloaded_again(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[bytes], bytes]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    store = open_store(f"s3://{bucket}")
    fill(store)
    manifest_hash = prepare(list_images(store.url), store).hash
    images = np.array(open_packed(store, manifest_hash).images)
    [copy] = tmp_path.rglob("*.images")
    copy.write_bytes(change(copy.read_bytes()))
    np.testing.assert_array_equal(open_packed(store, manifest_hash).images, images)


def test_real_images_are_the_same_data_in_a_folder_and_on_s3(
    real_images: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = open_store(str(tmp_path))
    url = f"s3://{bucket}/real"
    upload_folder(real_images, url)
    manifests = [prepare(list_images(place), cache) for place in (str(real_images), url)]
    assert manifests[0] == manifests[1]
    assert manifests[0].rejected == ()
    listing = list_images(url)
    reads: Counter[str] = Counter()
    read = Store.read
    monkeypatch.setattr(Store, "read", lambda self, key, etag=None: reads.update([self.url]) or read(self, key, etag))
    assert prepare(listing, cache) == manifests[1]
    assert reads == {cache.url: 2}  # listing record and manifest


def test_consecutive_images_stay_on_disk(data: Store, cache: Store) -> None:
    packed = open_packed(cache, prepare(list_images(data.url), cache).hash)
    consecutive, others = np.array([2, 3, 4]), np.array([0, 2, 3])
    assert np.shares_memory(packed.part(consecutive), packed.images)
    for index in (consecutive, others):
        assert np.array_equal(packed.part(index), packed.images[index])
