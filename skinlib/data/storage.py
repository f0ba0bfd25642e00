"""One small interface to S3, S3-compatible stores and local folders.

obstore moves the bytes. boto3 only reads the AWS configuration (credentials, endpoint and region) and checks access.
"""

import builtins
import os
import re
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import TypeVar
from urllib.request import url2pathname

from obstore.exceptions import BaseError, PermissionDeniedError, PreconditionError, UnauthenticatedError
from obstore.store import LocalStore, S3Store

from skinlib.errors import StorageError

PART_BYTES = 16 << 20  # objects up to this size are written in one request, so that their ETag is their MD5
OPEN_TIMEOUT = 4  # seconds per attempt, at most 2 attempts
READ_TIMEOUT = timedelta(seconds=60)  # without a byte; the whole answer may take as long as it needs
WRITE_TIMEOUT = timedelta(minutes=10)  # for one part: at 1 Mbit/s, four at once take 9 minutes
RETRIES = 5

# Without "://": s3:/bucket, s3:bucket, s3//bucket. One letter before the colon is a drive.
_MISTYPED_URL = re.compile(r"[a-z][a-z0-9+.-]+:|(s3|gs|https?|file)//", re.IGNORECASE)

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

AWS_CREDENTIALS_ADVICE = "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
_REFUSED = f"the credentials are not accepted; sign in again, or {AWS_CREDENTIALS_ADVICE}"
_DENIED = "the credentials lack the permission; ask for s3:ListBucket, s3:GetObject, s3:PutObject, s3:DeleteObject"
_REASONS = {  # S3's error codes
    "NoSuchBucket": "the bucket does not exist; correct its name or create it",
    "InvalidAccessKeyId": _REFUSED,
    "SignatureDoesNotMatch": _REFUSED,
    "InvalidToken": _REFUSED,
    "ExpiredToken": "the credentials have expired; sign in again",
    "AccessDenied": _DENIED,
}


@dataclass(frozen=True)
class Object:
    """One object of a store, at the time of the listing.

    Attributes:
        key: Path below the store's root, separated by "/".
        size: Bytes.
        etag: Changes when the content changes; on S3 usually the MD5, in a folder made of inode, time and size.
    """

    key: str
    size: int
    etag: str | None


@dataclass(frozen=True)
class Store:
    """A bucket's prefix or a folder, from `open_store`; every method may raise StorageError.

    Attributes:
        url: "s3://bucket/prefix" or the absolute path of a folder, without a slash at the end.
        local_path: The folder; None on S3.
    """

    url: str
    local_path: Path | None
    _backend: S3Store | LocalStore = field(repr=False)
    _writer: S3Store | LocalStore = field(repr=False)

    def list(self, prefix: str = "") -> builtins.list[Object]:
        """Return all objects below `prefix` (whole path segments), sorted by key, including hidden ones.

        Leaves out the empty objects that S3 consoles create for folders, and local names that end in # and digits,
        which are unfinished writes of obstore.
        """
        with self._explained(prefix, "listed"):
            found = self._backend.list(prefix or None).collect()
        folders = {"", *(str(folder) for entry in found for folder in PurePosixPath(entry["path"]).parents)}
        objects = (Object(entry["path"], entry["size"], entry["e_tag"]) for entry in found)
        return sorted((o for o in objects if o.size or o.key not in folders), key=lambda o: o.key)

    def read(self, key: str, etag: str | None = None) -> bytes:
        """Return an object's bytes; with `etag`, raise StorageError if it has changed since the listing."""
        with self._explained(key, "read"):
            return self._backend.get(key, options={"if_match": etag} if etag else None).bytes().to_bytes()

    def read_many(
        self, objects: Iterable[Object], concurrency: int = 32
    ) -> Iterator[tuple[Object, bytes | StorageError]]:
        """Yield each object with its bytes, or with the error if it could not be read, in the given order.

        Holds at most 2 * `concurrency` objects in memory.
        """

        def read(item: Object) -> tuple[Object, bytes | StorageError]:
            try:
                return item, self.read(item.key, item.etag)
            except StorageError as error:
                return item, error

        return map_ahead(read, objects, concurrency)

    def exists(self, key: str) -> bool:
        """Return whether the object exists."""
        with self._explained(key, "looked up"):
            try:
                self._backend.head(key)
            except FileNotFoundError:
                return False
            return True

    def write(self, key: str, data: bytes) -> None:
        """Write an object atomically: readers see the old or the new content, never a part of it."""
        self._put(key, data)

    def upload(self, key: str, path: Path) -> None:
        """Write a file; the object appears when it is complete."""
        self._put(key, path)

    def _put(self, key: str, content: bytes | Path) -> None:
        with self._explained(key, "written"):
            self._writer.put(key, content, chunk_size=PART_BYTES, max_concurrency=4)

    def download(self, key: str, path: Path) -> None:
        """Read an object of any size into a file, in parallel ranges; the file appears when it is complete."""
        with self._explained(key, "read"):
            entry = self._backend.head(key)
            size, etag = entry["size"], entry["e_tag"]
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=".download-") as folder:
                part = Path(folder, "part")
                part.touch()

                def fetch(start: int) -> None:
                    span = (start, min(start + PART_BYTES, size))
                    data = self._backend.get(key, options={"range": span, "if_match": etag}).bytes()
                    with part.open("r+b") as file:
                        file.seek(start)
                        file.write(data)

                for _ in map_ahead(fetch, range(0, size, PART_BYTES), threads=8):
                    pass
                part.replace(path)

    def delete(self, prefix: str) -> int:
        """Delete all objects below `prefix` and return their number; an empty prefix is a ValueError."""
        if not prefix.strip("/"):
            raise ValueError("delete needs a prefix: an empty one would delete the whole store")
        keys = [item.key for item in self.list(prefix)]
        self.delete_objects(keys)
        return len(keys)

    def delete_objects(self, keys: Sequence[str]) -> None:
        """Delete objects by their keys."""
        with self._explained(keys[0] if keys else "", "deleted"):
            self._backend.delete(list(keys))

    @contextmanager
    def _explained(self, key: str, verb: str) -> Iterator[None]:
        """Turn the errors of obstore and the system into a StorageError that names the object."""
        try:
            yield
        except (BaseError, OSError, ValueError) as error:
            place = f"{self.url}/{key}" if key else self.url
            raise StorageError(f"{place} cannot be {verb}: {_reason(error)}.") from error


def open_store(url: str, *, create: bool = False, endpoint_url: str | None = None) -> Store:
    """Open a bucket's prefix or a folder.

    Args:
        url: "s3://bucket/prefix", "file:///folder" or a path, which may be relative or start with "~".
        create: Create the folder, or accept an empty prefix. Buckets are never created.
        endpoint_url: Address of an S3-compatible server; by default the one in the AWS configuration.

    Raises:
        StorageError: The bucket, prefix or folder does not exist; credentials are missing, expired or refused;
            permissions are missing; the server does not answer (within 10 s); the URL is mistyped or of another kind.
    """
    if not url.strip():
        raise StorageError("The name of a bucket or folder is empty; give s3://bucket/prefix or a folder.")
    scheme, separator, rest = url.partition("://")
    if not separator and _MISTYPED_URL.match(url):
        raise StorageError(f"{url!r} is not a URL; write s3://bucket/prefix, or ./{url} for a folder.")
    if not separator:
        return _open_folder(os.path.abspath(os.path.expanduser(url)), create)
    if scheme == "file" and rest.startswith("/"):
        return _open_folder(url2pathname(rest), create)
    if scheme != "s3":
        raise StorageError(f"URLs like {scheme}:// are not supported; give s3://bucket/prefix or a folder.")
    return _open_s3(rest, create, endpoint_url)


def map_ahead(function: Callable[[_Item], _Result], items: Iterable[_Item], threads: int) -> Iterator[_Result]:
    """Yield `function(item)` for each item, in order; the threads work at most 2 * `threads` items ahead."""
    pool = ThreadPoolExecutor(threads)
    waiting: deque[Future[_Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) == 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        # Not waiting for the threads: if an error abandons this generator, the garbage collector closes it, perhaps
        # while another thread starts and holds a lock that the end of a thread needs.
        pool.shutdown(wait=False, cancel_futures=True)


def _open_folder(folder: str, create: bool) -> Store:
    path = Path(folder)
    try:
        if create:
            path.mkdir(parents=True, exist_ok=True)
        elif not path.is_dir():
            raise StorageError(f"There is no folder {path}; correct the path or create it.")
        backend = LocalStore(path, automatic_cleanup=True)
        return Store(str(path), path, backend, backend)
    except OSError as error:
        raise StorageError(f"The folder {path} cannot be used ({error.strerror}); choose another.") from error


def _open_s3(location: str, create: bool, endpoint_url: str | None) -> Store:
    import boto3  # takes 0.3 s, and folders do not need it
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
    from obstore.auth.boto3 import Boto3CredentialProvider

    bucket, _, prefix = location.partition("/")
    prefix = prefix.strip("/")
    if not bucket or "@" in bucket:
        raise StorageError("An s3:// URL must have the form s3://bucket/prefix, without credentials; correct it.")
    url = f"s3://{bucket}/{prefix}".rstrip("/")
    config = Config(
        connect_timeout=OPEN_TIMEOUT,
        read_timeout=OPEN_TIMEOUT,
        retries={"mode": "standard", "total_max_attempts": 2},
        s3={"addressing_style": "path"},  # bucket.host has no DNS name on most private servers
    )
    try:
        session = boto3.Session()
        client = session.client("s3", endpoint_url=endpoint_url, config=config)
        # Unlike HeadBucket, a listing says why it was refused.
        answer = client.list_objects_v2(Bucket=bucket, Prefix=prefix and f"{prefix}/", MaxKeys=1)
        headers = answer["ResponseMetadata"]["HTTPHeaders"]
        region = headers.get("x-amz-bucket-region", client.meta.region_name)
        if region != client.meta.region_name:
            client = session.client("s3", endpoint_url=endpoint_url, region_name=region, config=config)
        # botocore renews credentials 10 minutes before they expire; cached for longer, they could expire in use.
        credentials = Boto3CredentialProvider(session, ttl=timedelta(minutes=10))
    except NoCredentialsError as error:
        raise StorageError(f"There are no AWS credentials for {url}; {AWS_CREDENTIALS_ADVICE}.") from error
    except (BotoCoreError, ClientError, ValueError) as error:
        raise StorageError(f"{url} cannot be opened: {_reason(error)}.") from error
    if prefix and not create and "Contents" not in answer:
        raise StorageError(f"There is nothing below {url}/; correct the prefix or upload the data first.")

    backend = S3Store(
        bucket,
        prefix=prefix or None,
        endpoint=client.meta.endpoint_url,
        region=region,
        virtual_hosted_style_request=False,
        credential_provider=credentials,
        client_options={
            "allow_http": client.meta.endpoint_url.startswith("http://"),
            "read_timeout": READ_TIMEOUT,
            "timeout": timedelta(days=1),
        },
        retry_config={"max_retries": RETRIES, "retry_timeout": WRITE_TIMEOUT},
    )
    # Another client, since a read timeout also limits the time in which a request may send its body.
    writer = S3Store(
        config=backend.config,
        prefix=backend.prefix,
        credential_provider=credentials,
        client_options={"allow_http": client.meta.endpoint_url.startswith("http://"), "timeout": WRITE_TIMEOUT},
        retry_config=backend.retry_config,
    )
    return Store(url, None, backend, writer)


def _reason(error: Exception) -> str:
    """Describe an error of obstore, botocore or the system as a clause, to complete a sentence.

    obstore's errors have no fields for S3's code and message, so that this reads them from the text.
    """
    text = str(error)
    code = re.search(r"<Code>(\w+)</Code>|An error occurred \((\w+)\)", text)
    if code and (code[1] or code[2]) in _REASONS:
        return _REASONS[code[1] or code[2]]
    if isinstance(error, PreconditionError):
        return "it has changed since it was listed; run again when no process writes to it"
    if isinstance(error, PermissionDeniedError):
        return _DENIED
    if isinstance(error, UnauthenticatedError):
        return _REFUSED
    if isinstance(error, FileNotFoundError):
        return "it does not exist"
    if message := re.search(r"<Message>(.+?)\.?</Message>", text):
        return message[1]
    if re.search(r"kind: (Timeout|Connect|Request)|timeout on endpoint|connect to the endpoint", text):
        return "no answer from the server after several attempts; check the network and AWS_ENDPOINT_URL"
    first = " ".join(text.split("\n\nDebug source")[0].split()).rstrip(".")
    return re.sub(r"//[^/@\s]*@", "//", first)  # an endpoint's URL may contain a password
