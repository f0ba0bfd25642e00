"""A slow but working link to a real S3 server: time limits count what stands still, not what takes long."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from urllib.parse import urlsplit

import pytest

from skinlib.data import storage
from skinlib.data.storage import Store, open_store
from tests.servers.s3 import S3Server

CONTENT = os.urandom(80 << 20)  # 16 parts of 5 MB, the least that S3 allows
BYTES_PER_SECOND = 20_000_000  # the content takes 4 s, and four parts at once 1 s


class _SlowLink:
    """A TCP proxy whose connections share one bandwidth in both directions."""

    def __init__(self, endpoint_url: str) -> None:
        address = urlsplit(endpoint_url)
        self._target = (address.hostname, address.port)
        self._turn = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target)
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                with self._turn:
                    time.sleep(len(data) / BYTES_PER_SECOND)
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def slow_store(bucket: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store on a slow link, with parts and time limits scaled down: the whole takes longer than a limit."""
    monkeypatch.setattr(storage, "PART_BYTES", 5 << 20)
    monkeypatch.setattr(storage, "READ_TIMEOUT", timedelta(seconds=3))
    monkeypatch.setattr(storage, "WRITE_TIMEOUT", timedelta(seconds=3))
    link = _SlowLink(s3_server.endpoint_url)
    yield open_store(f"s3://{bucket}/slow", create=True, endpoint_url=link.url)
    link.close()


@pytest.fixture
def direct_store(bucket: str) -> Store:
    return open_store(f"s3://{bucket}/slow", create=True)


def test_a_large_object_is_written(slow_store: Store, direct_store: Store) -> None:
    slow_store.write("checkpoint", CONTENT)
    assert direct_store.read("checkpoint") == CONTENT


def test_a_large_object_is_read(slow_store: Store, direct_store: Store) -> None:
    direct_store.write("object", CONTENT)
    assert slow_store.read("object") == CONTENT
