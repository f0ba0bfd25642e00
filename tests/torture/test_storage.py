"""S3 that fails now and then gives the same data; S3 that fails always gives one error in bounded time."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from skinlib.data.listing import list_images
from skinlib.data.packing import open_packed, prepare
from skinlib.data.storage import PART_BYTES, open_store
from skinlib.data.upload import upload_folder
from skinlib.errors import StorageError
from tests.servers.faults import FaultyProxy, faulty
from tests.servers.s3 import S3Server


@pytest.fixture
def proxy(s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """A proxy to which the AWS_* variables point; it breaks nothing yet."""
    with faulty(s3_server.endpoint_url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield proxy


@pytest.mark.parametrize("kind", ["busy", "reset", "cut"])
def test_a_fifth_of_the_requests_fails_and_the_data_is_the_same(
    proxy: FaultyProxy, bucket: str, tiny_images: Path, tmp_path: Path, kind: str
) -> None:
    expected = prepare(list_images(str(tiny_images)), open_store(str(tmp_path), create=True))
    proxy.share, proxy.kinds = 0.2, (kind,)
    upload_folder(tiny_images, f"s3://{bucket}/images")
    datastore = open_store(f"s3://{bucket}/datastore", create=True)
    manifest = prepare(list_images(f"s3://{bucket}/images"), datastore)
    assert manifest == expected
    assert proxy.done[kind] > 20
    np.testing.assert_array_equal(
        open_packed(datastore, manifest.hash).images, open_packed(open_store(str(tmp_path)), manifest.hash).images
    )


def test_wrong_bytes_are_noticed_and_read_again(
    proxy: FaultyProxy, bucket: str, tiny_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = prepare(list_images(str(tiny_images)), open_store(str(tmp_path / "local"), create=True))
    upload_folder(tiny_images, f"s3://{bucket}/images")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    proxy.share, proxy.kinds = 0.1, ("flip",)
    datastore = open_store(f"s3://{bucket}/datastore", create=True)
    assert prepare(list_images(f"s3://{bucket}/images"), datastore) == expected
    images = open_packed(open_store(str(tmp_path / "local")), expected.hash).images
    np.testing.assert_array_equal(open_packed(datastore, expected.hash).images, images)
    assert proxy.done["flip"] > 8


def test_a_large_checkpoint_survives_faults(proxy: FaultyProxy, bucket: str) -> None:
    store = open_store(f"s3://{bucket}/root", create=True)
    data = np.random.default_rng(0).bytes(4 * PART_BYTES + 5)
    proxy.share = 0.2
    for number in range(6):
        store.write(f"{number}.pt", data)
        assert store.read(f"{number}.pt") == data
    assert sum(proxy.done[kind] for kind in proxy.kinds) > 5


def test_a_stall_is_waited_for(proxy: FaultyProxy, bucket: str) -> None:
    store = open_store(f"s3://{bucket}/root", create=True)
    store.write("key", b"content")
    proxy.share, proxy.kinds, proxy.seconds = 1, ("stall",), 3
    assert store.read("key") == b"content"


@pytest.mark.parametrize("kind", ["busy", "reset"])
def test_an_outage_is_one_error_in_bounded_time(proxy: FaultyProxy, bucket: str, kind: str) -> None:
    store = open_store(f"s3://{bucket}/root", create=True)
    store.write("key", b"content")
    proxy.share, proxy.kinds = 1, (kind,)
    for action in (
        lambda: store.read("key"),
        lambda: store.write("key", b"x"),
        lambda: store.list(),
        lambda: open_store(f"s3://{bucket}/root"),
    ):
        began = time.monotonic()
        with pytest.raises(StorageError) as error:
            action()
        assert time.monotonic() - began < 60
        assert bucket in str(error.value)
        assert "\n" not in str(error.value)
