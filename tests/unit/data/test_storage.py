"""Storage: folders and S3 behave alike, and every failure is explained in one sentence."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from obstore.store import S3Store

from skinlib.data import storage
from skinlib.data.storage import Store, open_store
from skinlib.errors import StorageError
from tests.servers.s3 import S3Server

NAMES = [
    "a b.jpg",
    "über 日本.jpg",
    "100%.jpg",
    "a%20b.jpg",
    "a#b.jpg",
    "a+b.jpg",
    "q?x&y=z.jpg",
    "it's (1).jpg",
]


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store of each kind."""
    if request.param == "folder":
        return open_store(str(tmp_path / "root %20ü"), create=True)
    return open_store(f"s3://{request.getfixturevalue('bucket')}/root %20ü", create=True)


def test_odd_names_are_kept_as_they_are(store: Store) -> None:
    for name in NAMES:
        store.write(f"x/{name}", name.encode())
    assert [item.key for item in store.list()] == sorted(f"x/{name}" for name in NAMES)
    assert all(store.read(f"x/{name}") == name.encode() for name in NAMES)


def test_a_folder_spells_keys_as_the_disk_does(tmp_path: Path) -> None:
    for name in NAMES:
        (tmp_path / name).write_text(name)
    assert [item.key for item in open_store(str(tmp_path)).list()] == sorted(NAMES)


def test_list_gives_sizes_and_hidden_files_and_keeps_to_whole_segments(store: Store) -> None:
    for key, size in [("a/.hidden", 1), ("a/b", 2), ("ab/c", 3)]:
        store.write(key, b"x" * size)
    assert [(item.key, item.size) for item in store.list("a")] == [("a/.hidden", 1), ("a/b", 2)]
    assert store.list("nothing here") == []


def test_list_leaves_out_the_folder_markers_of_consoles(s3_server: S3Server, bucket: str) -> None:
    for key in ("data/", "data/train/", "data/train/a-b.jpg", "data/train/a/", "data/train/a/1.jpg"):
        s3_server.client.put_object(Bucket=bucket, Key=key, Body=b"")
    keys = [item.key for item in open_store(f"s3://{bucket}/data").list()]
    assert keys == ["train/a-b.jpg", "train/a/1.jpg"]


def test_write_replaces(store: Store) -> None:
    store.write("k", b"old")
    store.write("k", b"new")
    assert store.read("k") == b"new"


def test_exists(store: Store) -> None:
    store.write("a/b", b"")
    assert [store.exists(key) for key in ("a/b", "a", "c")] == [True, False, False]


def test_read_refuses_an_object_that_has_changed(store: Store) -> None:
    store.write("k", b"old")
    [listed] = store.list()
    store.write("k", b"new")
    with pytest.raises(StorageError, match="k cannot be read: it has changed since it was listed"):
        store.read("k", listed.etag)


def test_reading_a_missing_object_names_it(store: Store) -> None:
    with pytest.raises(StorageError, match=r"root %20ü/no/such cannot be read: it does not exist\."):
        store.read("no/such")


def test_read_many_keeps_the_order_and_gives_errors_in_place(store: Store) -> None:
    for number in range(50):
        store.write(f"{number:02}/x", str(number).encode())
    objects = store.list()
    store.delete("07")
    results = list(store.read_many(objects, concurrency=4))
    assert [item for item, _ in results] == objects
    assert [number for number, (_, data) in enumerate(results) if isinstance(data, StorageError)] == [7]
    assert all(data == str(n).encode() for n, (_, data) in enumerate(results) if n != 7)


def test_read_many_reads_only_a_little_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(str(tmp_path))
    for number in range(50):
        store.write(f"{number:02}", b"x")
    begun = []
    monkeypatch.setattr(Store, "read", lambda self, key, etag: begun.append(key))
    results = store.read_many(store.list(), concurrency=4)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert len(begun) <= 8


def test_a_file_of_several_parts_is_unchanged_after_upload_and_download(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "PART_BYTES", 5 << 20)
    (tmp_path / "out").write_bytes(os.urandom(11 << 20))
    store.upload("big", tmp_path / "out")
    store.download("big", tmp_path / "new" / "back")
    assert (tmp_path / "new" / "back").read_bytes() == (tmp_path / "out").read_bytes()
    assert os.listdir(tmp_path / "new") == ["back"]


def test_a_failed_download_leaves_nothing(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no such cannot be read"):
        store.download("no such", tmp_path / "new" / "file")
    assert not list(tmp_path.glob("new/*"))


def test_delete_counts_and_keeps_the_rest(store: Store) -> None:
    for key in ("a/1", "a/b/2", "ab"):
        store.write(key, b"x")
    assert store.delete("a") == 2
    assert [item.key for item in store.list()] == ["ab"]


def test_delete_refuses_an_empty_prefix(store: Store) -> None:
    with pytest.raises(ValueError, match="whole store"):
        store.delete("")


def test_urls_of_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a b").mkdir()
    for url in ("a b", "./a b/", "~/a b", (tmp_path / "a b").as_uri()):
        assert open_store(url).url == str(tmp_path / "a b")
    assert open_store("a b").local_path == tmp_path / "a b"


def test_urls_of_buckets_lose_a_trailing_slash(bucket: str) -> None:
    assert open_store(f"s3://{bucket}/").url == f"s3://{bucket}"
    assert open_store(f"s3://{bucket}/a/b/", create=True).url == f"s3://{bucket}/a/b"


def test_folders_need_no_boto3(tmp_path: Path) -> None:
    code = "import sys, skinlib.data.storage as s; s.open_store(sys.argv[1]).list(); sys.exit('boto3' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == 0


def test_profile_gives_endpoint_and_credentials(
    s3_server: S3Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config"
    config.write_text(
        f"[profile lab]\nendpoint_url = {s3_server.endpoint_url}\n"
        f"aws_access_key_id = {s3_server.access_key}\naws_secret_access_key = {s3_server.secret_key}\n"
    )
    for name in s3_server.environment():
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    open_store(f"s3://{bucket}").write("k", b"x")
    assert open_store(f"s3://{bucket}").read("k") == b"x"


def test_credentials_are_renewed(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from obstore.auth.boto3 import Boto3CredentialProvider

    calls = []
    original = Boto3CredentialProvider.__call__

    def short_lived(self: Boto3CredentialProvider) -> object:
        self.ttl = timedelta(seconds=0)
        calls.append(self)
        return original(self)

    monkeypatch.setattr(Boto3CredentialProvider, "__call__", short_lived)
    store = open_store(f"s3://{bucket}")
    store.exists("a")
    time.sleep(0.2)  # obstore asks at most 10 times per second
    store.exists("b")
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("no/such folder", "There is no folder .*/no/such folder; correct the path or create it"),
        ("", "name of a bucket or folder is empty; give s3://bucket/prefix"),
        (" ", "name of a bucket or folder is empty"),
        ("s3:/bucket/x", "'s3:/bucket/x' is not a URL; write s3://bucket/prefix, or ./s3:/bucket/x for a folder"),
        ("s3:bucket", "is not a URL"),
        ("S3//bucket/x", "is not a URL"),
        ("https:/host/x", "is not a URL"),
        ("gs://key:secret@bucket", "URLs like gs:// are not supported; give s3://bucket/prefix or a folder"),
        ("file://host/x", "URLs like file:// are not supported"),
        ("s3://key:secret@bucket/x", "must have the form s3://bucket/prefix, without credentials"),
        ("s3://", "must have the form s3://bucket/prefix"),
    ],
)
def test_unusable_urls(url: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StorageError, match=message) as caught:
        open_store(url)
    assert "secret" not in str(caught.value)


def test_a_file_is_not_a_store(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file cannot be used"):
        open_store(str(tmp_path / "file"), create=True)


def test_a_bucket_that_does_not_exist(bucket: str) -> None:
    with pytest.raises(StorageError, match="s3://no-such-bucket/x cannot be opened: the bucket does not exist"):
        open_store("s3://no-such-bucket/x", create=True)


def test_an_empty_prefix_is_refused(bucket: str) -> None:
    with pytest.raises(StorageError, match=f"There is nothing below s3://{bucket}/no/such/"):
        open_store(f"s3://{bucket}/no/such")


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None},
            "There are no AWS credentials for s3://",
        ),
        ({"AWS_SECRET_ACCESS_KEY": None}, "Partial credentials found in env, missing: AWS_SECRET_ACCESS_KEY"),
        ({"AWS_SECRET_ACCESS_KEY": "hunter2"}, "the credentials are not accepted; sign in again, or set AWS_PROFILE"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, "the credentials are not accepted; sign in again, or set AWS_PROFILE"),
        ({"AWS_PROFILE": "nobody"}, r"profile \(nobody\) could not be found"),
        (
            {
                "AWS_ACCESS_KEY_ID": S3Server.outsider_access_key,
                "AWS_SECRET_ACCESS_KEY": S3Server.outsider_secret_key,
            },
            "the credentials lack the permission; ask for s3:ListBucket",
        ),
    ],
)
def test_unusable_credentials(
    bucket: str, variables: dict[str, str | None], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    with pytest.raises(StorageError, match=message) as caught:
        open_store(f"s3://{bucket}")
    assert "hunter2" not in str(caught.value)


def test_permission_lost_later_names_the_object(
    s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from botocore.credentials import Credentials

    store = open_store(f"s3://{bucket}")
    outsider = Credentials(s3_server.outsider_access_key, s3_server.outsider_secret_key)
    assert isinstance(store._backend, S3Store)
    monkeypatch.setattr(store._backend.credential_provider, "credentials", outsider)
    with pytest.raises(StorageError, match=f"s3://{bucket}/k cannot be written: the credentials lack"):
        store.write("k", b"x")


@pytest.mark.parametrize("answers", [True, False], ids=["silent", "closed"])
def test_a_dead_endpoint_is_reported_within_seconds(
    bucket: str, answers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "OPEN_TIMEOUT", 0.5)
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler, bind_and_activate=False) as server:
        server.server_bind()
        if answers:
            server.server_activate()  # accepts connections, but never serves them
        begun = time.monotonic()
        with pytest.raises(StorageError, match=f"s3://{bucket} cannot be opened: no answer") as caught:
            open_store(f"s3://{bucket}", endpoint_url=f"http://user:pw@127.0.0.1:{server.server_port}")
    assert time.monotonic() - begun < 5  # twice 0.5 s, a pause of up to 1 s, and boto3's own start
    assert "pw@" not in str(caught.value)


class _Moody(BaseHTTPRequestHandler):
    """An S3 server in Frankfurt that refuses "busy" twice and serves "slow" too late."""

    seen: list[str]
    signatures: list[str]

    def do_GET(self) -> None:
        key = self.path.rpartition("/")[2]
        self.seen.append(key)
        self.signatures.append(self.headers["Authorization"])
        body = b"<ListBucketResult/>" if "list-type" in key else b"pixels"
        if key == "slow":
            time.sleep(1)
        self.send_response(503 if key == "busy" and self.seen.count(key) < 3 else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Last-Modified", "Mon, 23 Nov 2026 12:00:00 GMT")
        self.send_header("ETag", '"e"')
        self.send_header("x-amz-bucket-region", "eu-central-1")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def moody_store(bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store on a faulty server, with a short timeout."""
    monkeypatch.setattr(storage, "READ_TIMEOUT", timedelta(seconds=0.3))
    monkeypatch.setattr(_Moody, "seen", [], raising=False)
    monkeypatch.setattr(_Moody, "signatures", [], raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Moody) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
        yield open_store("s3://lab", endpoint_url=f"http://127.0.0.1:{server.server_port}")
        server.shutdown()


def test_requests_are_signed_for_the_region_of_the_bucket(moody_store: Store) -> None:
    moody_store.read("k")
    assert "/us-east-1/s3/" in _Moody.signatures[0]
    assert "/eu-central-1/s3/" in _Moody.signatures[-1]


def test_a_request_to_a_busy_server_is_repeated(moody_store: Store) -> None:
    assert moody_store.read("busy") == b"pixels"
    assert _Moody.seen.count("busy") == 3


def test_a_time_out_names_the_object(moody_store: Store) -> None:
    with pytest.raises(StorageError, match="s3://lab/slow cannot be read: no answer from the server"):
        moody_store.read("slow")
    assert _Moody.seen.count("slow") > 1


def test_an_abandoned_map_ahead_is_closed_without_waiting_for_its_threads() -> None:
    release, closed = threading.Event(), threading.Event()
    results = storage.map_ahead(lambda item: item == 0 or release.wait(30), range(4), threads=2)
    assert next(results)

    def close() -> None:
        results.close()
        closed.set()

    threading.Thread(target=close).start()
    try:
        assert closed.wait(10)
    finally:
        release.set()
