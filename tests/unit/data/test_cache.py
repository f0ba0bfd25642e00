"""What runs keep in a datastore is listed with its last use, and deleted if it is unused."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from skinlib.data import cache
from skinlib.data.listing import list_images
from skinlib.data.packing import open_packed, prepare
from skinlib.data.storage import Store, open_store


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, tiny_images: Path) -> Store:
    """A datastore of each kind, with a packed set, the checkpoints of two trials, and files of others."""
    place = str(tmp_path / "root") if request.param == "folder" else f"s3://{request.getfixturevalue('bucket')}/root"
    store = open_store(place, create=True)
    prepare(list_images(str(tiny_images)), store)
    for key in ("checkpoints/7-ab/a.pt", "checkpoints/7-ab/b.pt", "weights/resnet18-1234abcd.pth", "unknown/file"):
        store.write(f"skinlib/{key}", b"12345")
    store.write("SkinLesionFlow/7/artifact", b"12345")
    return store


def test_everything_is_listed_with_its_size(store: Store) -> None:
    found = {entry.kind: entry for entry in cache.entries(store)}
    assert set(found) == set(cache.KINDS.values())
    assert found["checkpoints of a run"].name == "7-ab"
    assert found["checkpoints of a run"].size == 10
    assert found["packed images"].size > 128 * 224 * 224 * 3
    assert all(abs(entry.used - datetime.now(UTC)) < timedelta(minutes=10) for entry in found.values())


def test_what_is_unused_is_deleted_and_nothing_else(store: Store) -> None:
    entries = cache.entries(store)
    assert cache.unused(entries, days=1) == []
    old = cache.unused(entries, days=1, now=datetime.now(UTC) + timedelta(days=2))
    assert old == entries
    cache.delete(store, [entry for entry in old if entry.kind != "packed images"])
    assert [entry.kind for entry in cache.entries(store)] == ["packed images"]
    left = [item.key for item in store.list() if "packed" not in item.key]
    assert left == ["SkinLesionFlow/7/artifact", "skinlib/unknown/file"]


@pytest.mark.parametrize("store", ["folder"], indirect=True)
def test_a_run_that_reads_no_image_renews_the_time_of_the_last_use(store: Store, tiny_images: Path) -> None:
    assert store.local_path
    for item in store.list("skinlib"):
        os.utime(store.local_path / item.key, (0, 0))
    manifest = prepare(list_images(str(tiny_images)), store)
    kept = cache.unused(cache.entries(store), days=1)
    assert {entry.kind for entry in kept} == {"checkpoints of a run", "pretrained weights"}
    assert len(open_packed(store, manifest.hash).images) == 128
