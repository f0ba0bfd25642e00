"""Storage: folders and S3 behave alike, and every failure is explained in one sentence."""

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote

import pytest
from obstore.store import S3Store

from skinlib.data import storage
from skinlib.data.storage import Store, open_store
from skinlib.errors import StorageError, UnreadableError
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


def test_markers_of_folders_are_left_out_and_empty_files_are_not(s3_server: S3Server, bucket: str) -> None:
    for key in ("data/", "data/new/", "data/a", "data/a/1.jpg", "data/a//", "data/empty.jpg"):
        s3_server.client.put_object(Bucket=bucket, Key=key, Body=b"")
    assert [item.key for item in open_store(f"s3://{bucket}/data").list()] == ["a/1.jpg", "empty.jpg"]


class _Plain(BaseHTTPRequestHandler):
    """An S3 server with the keys `keys`; requests for a key in `refused` get its status, code and message."""

    keys: list[str]
    refused: dict[str, tuple[int, str, str]]
    headers_seen: list[dict[str, str]]

    def do_GET(self) -> None:
        self.headers_seen.append(dict(self.headers))
        path, _, query = self.path.partition("?")
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        key = unquote(path).removeprefix("/lab").removeprefix("/")
        status, body = 200, b"x"
        if key in self.refused:
            status, code, message = self.refused[key]
            body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
        elif "list-type" in query:
            rows = (f"<Contents><Key>{quote(key)}</Key><Size>1</Size></Contents>" for key in self.keys)
            body = f"<ListBucketResult><EncodingType>url</EncodingType>{''.join(rows)}</ListBucketResult>".encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(body), "ETag": '"e"', "Last-Modified": _DATE}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    do_PUT = do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


_DATE = "Mon, 23 Nov 2026 12:00:00 GMT"


@pytest.fixture
def plain(bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_Plain]]:
    """The handler of a plain server, which the AWS_* variables point at; its bucket is called "lab"."""
    for name, value in (("keys", []), ("refused", {}), ("headers_seen", [])):
        monkeypatch.setattr(_Plain, name, value, raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Plain) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        yield _Plain
        server.shutdown()


def test_odd_keys_in_a_bucket_are_listed_with_a_problem_and_the_others_are_read(plain: type[_Plain]) -> None:
    odd = {"/lead": "/lead", "a//b": "a//b", "a/../b": "a/../b", "./x": "./x", "slash/": "slash/"}
    odd |= {"line\nend": "line\\nend", "\x01": "\\x01", "\x7f": "\\x7f"}
    good = ["100%", "a%20b", "a+b c", "back\\slash", "dots..", "e😀", "k" * 1018]
    plain.keys = [f"data/{key}" for key in [*odd, *good]]
    store = open_store("s3://lab/data")
    read = dict(store.read_many(store.list()))
    assert {item.key for item in read if not item.problem} == set(good)
    assert {item.key for item in read if item.problem} == set(odd.values())
    assert all(isinstance(data, UnreadableError if item.problem else bytes) for item, data in read.items())


@pytest.mark.parametrize(
    ("status", "code", "remedy", "own"),
    [
        (403, "InvalidObjectState", "it is archived; restore it first", True),
        (403, "AccessDenied", "the credentials lack the permission; ask for s3:GetObject", True),
        (400, "KMS.DisabledException", "the key that encrypts it cannot be used", True),
        (404, "NoSuchKey", "it does not exist", True),
        (400, "InvalidRequest", "the server says", True),
        (403, "RequestTimeTooSkewed", "the clock of this machine is wrong; set it", False),
        (403, "AccountProblem", "all access to it is blocked; ask its owner", False),
        (403, "AllAccessDisabled", "all access to it is blocked", False),
        (403, "InvalidAccessKeyId", "the credentials are not accepted; sign in again", False),
        (400, "ExpiredToken", "the credentials have expired", False),
        (400, "AuthorizationHeaderMalformed", "the bucket is in another region; set AWS_DEFAULT_REGION", False),
        (405, "MethodNotAllowed", "the server does not allow it; check that AWS_ENDPOINT_URL", False),
        (418, "SomethingNew", "the server says SomethingNew: Its own", False),
    ],
)
def test_each_code_of_the_server_has_its_remedy_and_the_words_of_the_server_are_kept(
    plain: type[_Plain], status: int, code: str, remedy: str, own: bool
) -> None:
    plain.refused = {"1.jpg": (status, code, "Its own &lt;words&gt;.")}
    with pytest.raises(StorageError, match=f"^s3://lab/1.jpg cannot be read: {remedy}") as caught:
        open_store("s3://lab").read("1.jpg")
    assert f"the server says {code}: Its own <words>" in str(caught.value)
    assert isinstance(caught.value, UnreadableError) == own


@pytest.mark.parametrize(
    ("code", "message", "remedy"),
    [
        ("AccessDenied", "Access Denied", "ask for s3:PutObject"),
        (
            "AccessDenied",
            "User x is not authorized to perform: kms:GenerateDataKey on k",
            "ask for kms:GenerateDataKey",
        ),
        ("QuotaExceeded", "full", "the storage is full"),
        ("XMinioStorageFull", "full", "the storage is full"),
        ("EntityTooLarge", "big", "it is larger than the server allows"),
    ],
)
def test_a_refused_write_has_its_remedy(plain: type[_Plain], code: str, message: str, remedy: str) -> None:
    plain.refused = {"1.jpg": (403, code, message)}
    with pytest.raises(StorageError, match=f"s3://lab/1.jpg cannot be written: .*{remedy}.*{message}"):
        open_store("s3://lab").write("1.jpg", b"x")


@pytest.mark.parametrize(
    ("variables", "absent"),
    [
        ({}, ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]),
        ({"AWS_NO_SIGN_REQUEST": "YES"}, []),
        ({"AWS_SKIP_SIGNATURE": "true"}, []),
    ],
)
def test_a_public_bucket_is_read_without_a_signature(
    plain: type[_Plain], variables: dict[str, str], absent: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in absent:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    plain.keys = ["1.jpg"]
    store = open_store("s3://lab")
    assert [data for _, data in store.read_many(store.list())] == [b"x"]
    assert not any("Authorization" in headers for headers in plain.headers_seen)
    plain.refused = {"1.jpg": (403, "AccessDenied", "Access Denied")}
    with pytest.raises(StorageError, match=r"1\.jpg cannot be read: it is not public; set AWS_PROFILE"):
        store.read("1.jpg")


def test_a_requester_who_pays_says_so_in_each_request(plain: type[_Plain], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REQUEST_PAYER", "requester")
    plain.keys = ["1.jpg"]
    store = open_store("s3://lab")
    assert [data for _, data in store.read_many(store.list())] == [b"x"]
    payers = [
        {name.lower(): value for name, value in seen.items()}["x-amz-request-payer"] for seen in plain.headers_seen
    ]
    assert payers == ["requester"] * 3


def test_what_cannot_be_read_in_a_folder_is_listed_with_its_reason(tmp_path: Path) -> None:
    root = os.fsencode(tmp_path)
    for name in (b"line\nend", b"latin\xfc", b"photo#1", b"good.jpg"):
        Path(os.fsdecode(root + b"/" + name)).write_bytes(b"x")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/link.jpg").symlink_to("../good.jpg")
    (tmp_path / "deep/gone.jpg").symlink_to("../.git/annex/objects/x")
    (tmp_path / "deep/loop").symlink_to(tmp_path)
    (tmp_path / "deep/self").symlink_to("self")
    os.mkfifo(tmp_path / "pipe")
    store = open_store(str(tmp_path))
    problems = {item.key: item.problem or "" for item in store.list()}
    assert [key for key, problem in problems.items() if not problem] == ["deep/link.jpg", "good.jpg"]
    for key, words in {
        "line\\nend": "control character",
        "latin\\udcfc": "not valid UTF-8",
        "photo#1": "like an unfinished copy",
        "deep/gone.jpg": "a link to a file that is not here; fetch it, for example with git annex get or dvc pull",
        "deep/loop": "a link to a folder that contains it",
        "deep/self": "symbolic links",
        "pipe": "a pipe, a socket or a device",
    }.items():
        assert words in problems.pop(key)
    assert len(problems) == 2
    assert [bytes(data) for _, data in store.read_many(store.list()) if isinstance(data, bytes)] == [b"x", b"x"]


def test_a_file_and_a_folder_without_permission_are_named() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        root.chmod(0o755)
        for name in ("a/1.jpg", "b/1.jpg"):
            (root / name).parent.mkdir()
            (root / name).write_bytes(b"x")
        (root / "a/1.jpg").chmod(0)
        (root / "b").chmod(0)
        user = os.geteuid()
        os.seteuid(user or 65534)  # root may read everything
        try:
            store = open_store(folder)
            (_, file), (listed, _) = store.read_many(store.list())
        finally:
            os.seteuid(user)
        assert isinstance(file, UnreadableError)
        assert file.reason == "Permission denied; allow this user to read it"
        assert (listed.key, listed.problem) == ("b/", "Permission denied; allow this user to read it")
        (root / "b").chmod(0o755)


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


def test_other_bytes_than_the_etag_says_are_read_again(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(f"s3://{bucket}")
    store.write("k", b"content")
    answers = [b"c0ntent", b"content", *(b"content%d" % number for number in range(storage.RETRIES + 1))]
    monkeypatch.setattr(storage, "_retried", lambda _: answers.pop(0))
    [listed] = store.list()
    assert store.read("k", listed.etag) == b"content"
    with pytest.raises(StorageError, match="k cannot be read: it has other bytes each time; check the network"):
        store.read("k", listed.etag)


def test_an_etag_that_is_no_md5_costs_one_more_request_in_all(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(f"s3://{bucket}")
    store.write("k", b"content")
    [listed] = store.list()
    reads, retried = [], storage._retried
    monkeypatch.setattr(storage, "_md5", lambda data: "not the ETag")
    monkeypatch.setattr(storage, "_retried", lambda request: reads.append(1) or retried(request))
    for _ in range(3):
        assert store.read("k", listed.etag) == b"content"
    assert len(reads) == 4


def test_reading_a_missing_object_names_it(store: Store) -> None:
    with pytest.raises(StorageError, match=r"root %20ü/no/such cannot be read: it does not exist"):
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


def test_a_file_of_several_parts_is_unchanged_after_its_upload(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "PART_BYTES", 5 << 20)
    (tmp_path / "out").write_bytes(os.urandom(11 << 20))
    store.upload("big", tmp_path / "out")
    assert store.read("big") == (tmp_path / "out").read_bytes()


def test_a_temporary_folder_that_others_can_write_to_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage.tempfile, "tempdir", str(tmp_path))
    folder = storage.private_folder()
    assert storage.private_folder() == folder
    folder.chmod(0o777)
    with pytest.raises(StorageError, match="Other users can write to"):
        storage.private_folder()
    folder.rmdir()
    (tmp_path / "elsewhere").mkdir()
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="Other users can write to"):
        storage.private_folder()


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
    assert open_store(f" S3://{bucket}/\n").url == f"s3://{bucket}"
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
        ("s3a://bucket/x", "URLs like s3a:// are not supported; give s3://bucket/x or"),
        ("arn:aws:s3:::bucket/x", "is not a URL; write s3://bucket/x, or"),
        ("https://my.bucket.s3.eu-west-1.amazonaws.com/a%20b?X-Amz-Signature=secret", "give s3://my.bucket/a b or"),
        ("https://s3.amazonaws.com/bucket/x", "give s3://bucket/x or"),
        ("https://example.org/x", "give s3://bucket/prefix or"),
        ("s3://bucket//x", "s3://bucket//x cannot be opened: its path has an empty part, . or .."),
        ("s3://bucket/x/../y", "its path has an empty part"),
        ("s3://bucket/x?versionId=1", "names a version, which is not supported"),
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
