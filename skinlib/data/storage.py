"""One small interface to S3, S3-compatible stores and local folders.

obstore moves the bytes. boto3 reads the AWS configuration (credentials, endpoint and region), checks access and lists
buckets, because one key that obstore does not accept makes its whole listing fail.
"""

import builtins
import errno
import hashlib
import html
import os
import re
import stat
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path, PurePosixPath
from threading import Event
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote
from urllib.request import url2pathname

from obstore.exceptions import BaseError, GenericError, PermissionDeniedError, PreconditionError, UnauthenticatedError
from obstore.store import LocalStore, S3Store

from skinlib.errors import StorageError, UnreadableError, without_credentials

if TYPE_CHECKING:
    from obstore import GetOptions
    from obstore.store import BackoffConfig

PART_BYTES = 16 << 20  # objects up to this size are written in one request, so that their ETag is their MD5
OPEN_TIMEOUT = 4  # seconds per attempt, at most 2 attempts
READ_TIMEOUT = timedelta(seconds=60)  # without a byte; the whole answer may take as long as it needs
WRITE_TIMEOUT = timedelta(minutes=10)  # for one part: at 1 Mbit/s, four at once take 9 minutes
# With 10 retries, if 20% of all requests fail, a million requests all succeed with a probability of 98%.
RETRIES = 10
BACKOFF: "BackoffConfig" = {
    "init_backoff": timedelta(seconds=0.1),
    "max_backoff": timedelta(seconds=3),
    "base": 2,
}  # 20 s in all
LISTING_ATTEMPTS = 6  # botocore waits up to 20 s before each

# Without "://": s3:/bucket, s3:bucket, s3//bucket. One letter before the colon is a drive.
_MISTYPED_URL = re.compile(r"[a-z][a-z0-9+.-]+:|(s3|gs|https?|file)//", re.IGNORECASE)
# Other names of s3://bucket/prefix: those of Hadoop, ARNs and the addresses of AWS.
_OTHER_S3_URL = re.compile(
    r"(?:s3[an]://|arn:aws[\w-]*:s3:::|https?://s3[.-][\w.-]*amazonaws\.com(?:\.cn)?/)(?P<location>[^?#@]+).*"
    r"|https?://(?P<bucket>[\w.-]+?)\.s3[.-][\w.-]*amazonaws\.com(?:\.cn)?(?P<prefix>[^?#@]*).*",
    re.IGNORECASE,
)

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

AWS_CREDENTIALS_ADVICE = "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
_REFUSED = f"the credentials are not accepted; sign in again, or {AWS_CREDENTIALS_ADVICE}"
_EXPIRED = "the credentials have expired; sign in again"
_WRONG_CLOCK = "the clock of this machine is wrong; set it"
_BLOCKED = "all access to it is blocked; ask its owner or the provider's support"
_BUSY = "the server is overloaded; run again later"
_OTHER_REGION = "the bucket is in another region; set AWS_DEFAULT_REGION to that region"
_FULL = "the storage is full; delete something there, or have its quota raised"
_REASONS = {  # error codes of S3 and MinIO
    "NoSuchBucket": "the bucket does not exist; correct its name or create it",
    "InvalidBucketName": "the name of the bucket is not valid; correct it",
    "NoSuchKey": "it does not exist",
    "InvalidObjectState": "it is archived; restore it first, for example with aws s3api restore-object",
    "InvalidAccessKeyId": _REFUSED,
    "SignatureDoesNotMatch": _REFUSED,
    "InvalidToken": _REFUSED,
    "ExpiredToken": _EXPIRED,
    "TokenRefreshRequired": _EXPIRED,
    "RequestTimeTooSkewed": _WRONG_CLOCK,
    "RequestExpired": _WRONG_CLOCK,
    "AccountProblem": _BLOCKED,
    "AllAccessDisabled": _BLOCKED,
    "SlowDown": _BUSY,
    "ServiceUnavailable": _BUSY,
    "InternalError": _BUSY,
    "PermanentRedirect": _OTHER_REGION,
    "AuthorizationHeaderMalformed": _OTHER_REGION,
    "IllegalLocationConstraintException": _OTHER_REGION,
    "MethodNotAllowed": "the server does not allow it; check that AWS_ENDPOINT_URL is an address for S3",
    "EntityTooLarge": "it is larger than the server allows; ask its operator",
    "KeyTooLongError": "its key is too long; shorten it",
    "QuotaExceeded": _FULL,
    "XMinioStorageFull": _FULL,
    "XMinioAdminBucketQuotaExceeded": _FULL,
    "KMS": "the key that encrypts it cannot be used; have it enabled and its use allowed",
}
_PERMISSIONS = {
    "listed": "s3:ListBucket",
    "opened": "s3:ListBucket",
    "read": "s3:GetObject",
    "looked up": "s3:GetObject and s3:ListBucket",
    "written": "s3:PutObject",
    "deleted": "s3:DeleteObject",
}
# These can keep one object from being read and not the next; the last one is for a customer's own encryption key.
_CODES_OF_ONE_OBJECT = ("NoSuchKey", "InvalidObjectState", "AccessDenied", "KMS", "InvalidRequest")


@dataclass(frozen=True)
class Object:
    """One object of a store, at the time of the listing.

    Attributes:
        key: Path below the store's root, separated by "/"; of a folder that cannot be listed, with a slash at the end.
        size: Bytes.
        etag: Changes when the content changes; on S3 usually the MD5, in a folder made of inode, time and size.
        problem: Why it cannot be read, if the listing shows it. Control characters of its key are then escaped.
        modified: When it was written, in UTC; None if it cannot be read.
    """

    key: str
    size: int
    etag: str | None
    problem: str | None = None
    modified: datetime | None = field(default=None, compare=False)


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
    _listed: Callable[[str], Iterator[Object]] = field(repr=False)  # the raw keys below a prefix
    # Set if bytes are not compared with ETags: TLS protects them, or the ETags are no MD5, as with encryption by KMS.
    _trusted: Event = field(default_factory=Event, repr=False, compare=False)

    def list(self, prefix: str = "") -> builtins.list[Object]:
        """Return all objects below `prefix` (whole path segments), sorted by key, including hidden ones.

        Those that cannot be read have a `problem`. Leaves out the empty objects that stand for folders.
        """
        with self._explained(prefix, "listed"):
            found = [item for item in self._listed(prefix) if item.size or item.problem or not item.key.endswith("/")]
        folders = {"", *(str(folder) for item in found for folder in PurePosixPath(item.key).parents)}
        objects = (_checked(item) for item in found if item.size or item.problem or item.key not in folders)
        return sorted(objects, key=lambda item: item.key)

    def read(self, key: str, etag: str | None = None) -> bytes:
        """Return an object's bytes; with `etag`, raise StorageError if it has changed since the listing."""
        options: GetOptions | None = {"if_match": etag} if etag else None

        def get() -> bytes:
            with self._explained(key, "read"):
                return _retried(lambda: self._backend.get(key, options=options).bytes().to_bytes())

        md5, data = (etag or "").strip('"'), get()
        if self.local_path or self._trusted.is_set() or len(md5) != 32:
            return data
        others: set[str] = set()
        while (found := _md5(data)) != md5:
            if found in others:  # the same bytes twice: what the ETag says is not their MD5
                self._trusted.set()
                return data
            if len(others) == RETRIES:
                raise StorageError(f"{self.url}/{key} cannot be read: it has other bytes each time; check the network.")
            others.add(found)
            data = get()
        return data

    def read_many(
        self, objects: Iterable[Object], concurrency: int = 32
    ) -> Iterator[tuple[Object, bytes | StorageError]]:
        """Yield each object with its bytes, or with the error if it could not be read, in the given order.

        It is an UnreadableError if the cause is the object's own, so that others may still be readable.

        Holds at most 2 * `concurrency` objects in memory.
        """

        def read(item: Object) -> tuple[Object, bytes | StorageError]:
            if item.problem:
                return item, UnreadableError(f"{self.url}/{item.key}", item.problem)
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
            _retried(lambda: self._writer.put(key, content, chunk_size=PART_BYTES, max_concurrency=4))

    def delete(self, prefix: str) -> int:
        """Delete all objects below `prefix` and return their number; an empty prefix is a ValueError."""
        if not prefix.strip("/"):
            raise ValueError("delete needs a prefix: an empty one would delete the whole store")
        keys = [item.key for item in self.list(prefix) if not item.problem]
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
            anonymous = isinstance(self._backend, S3Store) and str(self._backend.config.get("skip_signature")) == "true"
            # `from None`: the message of the cause may contain a password, as part of the endpoint's URL.
            raise _explain(error, f"{self.url}/{key}" if key else self.url, verb, anonymous) from None


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
    if "://" in url or not os.path.exists(os.path.expanduser(url)):
        url = url.strip()  # copied with a space or the end of the line
    scheme, separator, rest = url.partition("://")
    if not separator and _MISTYPED_URL.match(url):
        raise StorageError(f"{url!r} is not a URL; write {_s3_url(url)}, or ./{url} for a folder.")
    if not separator:
        return _open_folder(os.path.abspath(os.path.expanduser(url)), create)
    if scheme.lower() == "file" and rest.startswith("/"):
        return _open_folder(url2pathname(rest), create)
    if scheme.lower() != "s3":
        raise StorageError(f"URLs like {scheme}:// are not supported; give {_s3_url(url)} or a folder.")
    return _open_s3(rest, create, endpoint_url)


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def private_folder() -> Path:
    """Return this user's folder for temporary files that outlive the process.

    Raises:
        StorageError: It cannot be made, or other users may write there.
    """
    folder = Path(tempfile.gettempdir(), f"skinlib-{os.getuid()}")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise StorageError(f"{folder} cannot be made ({error.strerror}); set TMPDIR to another folder.") from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise StorageError(f"Other users can write to {folder}; delete it, or set TMPDIR to another folder.")
    return folder


def _s3_url(url: str) -> str:
    """Return the s3:// URL that another kind of URL means, or a pattern for one."""
    if not (match := _OTHER_S3_URL.fullmatch(url)):
        return "s3://bucket/prefix"
    return "s3://" + unquote(match["location"] or match["bucket"] + match["prefix"])


def _retried(request: Callable[[], _Result]) -> _Result:
    """Retry a request if its response was cut off. obstore itself retries all other server and network errors."""
    for attempt in range(RETRIES):
        try:
            return request()
        except GenericError as error:
            if "body error" not in str(error):
                raise
            time.sleep(min(3, 0.1 * 2**attempt))
    return request()


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
        elif path.is_file():
            raise StorageError(f"{path} is a file; give the folder of the images, unpacked.")
        elif not path.is_dir():
            raise StorageError(f"There is no folder {path}; correct the path or create it.")
        backend = LocalStore(path, automatic_cleanup=True)
        return Store(str(path), path, backend, backend, partial(_walk, path))
    except OSError as error:
        raise StorageError(f"The folder {path} cannot be used ({error.strerror}); choose another.") from error


def _open_s3(location: str, create: bool, endpoint_url: str | None) -> Store:
    import boto3  # takes 0.3 s, and folders do not need it
    from botocore import UNSIGNED
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
    from obstore.auth.boto3 import Boto3CredentialProvider

    bucket, _, prefix = location.partition("/")
    prefix = prefix.rstrip("/")
    if not bucket or "@" in bucket:
        raise StorageError("An s3:// URL must have the form s3://bucket/prefix, without credentials; correct it.")
    url = f"s3://{bucket}/{prefix}".rstrip("/")
    if "?versionId=" in prefix:
        raise StorageError(f"{url} names a version, which is not supported; leave out what follows the question mark.")
    if prefix and (problem := _key_problem(prefix)):
        raise StorageError(f"{url} cannot be opened: {problem.split(';')[0]}; correct the URL.")
    chosen_anonymous = _is_set("AWS_SKIP_SIGNATURE") or _is_set("AWS_NO_SIGN_REQUEST")
    anonymous = chosen_anonymous
    payer = {"RequestPayer": "requester"} if _is_set("AWS_REQUEST_PAYER") else {}
    try:
        session = boto3.Session()
        # Public buckets can be read without credentials, but hardly any can be written.
        anonymous = chosen_anonymous or (not create and session.get_credentials() is None)
        config = Config(
            connect_timeout=OPEN_TIMEOUT,
            read_timeout=OPEN_TIMEOUT,
            retries={"mode": "standard", "total_max_attempts": 2},
            s3={"addressing_style": "path"},  # bucket.host has no DNS name on most private servers
            signature_version=UNSIGNED if anonymous else None,
        )
        client = session.client("s3", endpoint_url=endpoint_url, config=config)
        # Unlike HeadBucket, a listing says why it was refused.
        answer = client.list_objects_v2(Bucket=bucket, Prefix=prefix and f"{prefix}/", MaxKeys=1, **payer)
        headers = answer["ResponseMetadata"]["HTTPHeaders"]
        region = headers.get("x-amz-bucket-region", client.meta.region_name)
        retries = {"mode": "standard", "total_max_attempts": LISTING_ATTEMPTS}
        patient = Config(read_timeout=READ_TIMEOUT.total_seconds(), retries=retries)
        client = session.client("s3", endpoint_url=endpoint_url, region_name=region, config=config.merge(patient))
        # botocore renews credentials 10 minutes before they expire; cached for longer, they could expire in use.
        credentials = None if anonymous else Boto3CredentialProvider(session, ttl=timedelta(minutes=10))
    except NoCredentialsError as error:
        raise StorageError(f"There are no AWS credentials for {url}; {AWS_CREDENTIALS_ADVICE}.") from error
    except (BotoCoreError, ClientError, ValueError) as error:
        if anonymous and not chosen_anonymous and _code_and_message(error)[0] in ("AccessDenied", "403", "401"):
            advice = f"There are no AWS credentials for {url}, and it is not public; {AWS_CREDENTIALS_ADVICE}."
            raise StorageError(advice) from None
        raise _explain(error, url, "opened", anonymous) from None
    if prefix and not create and "Contents" not in answer:
        raise StorageError(f"There is nothing below {url}/; correct the prefix or upload the data first.")

    backend = S3Store(
        bucket,
        prefix=prefix or None,
        endpoint=client.meta.endpoint_url,
        region=region,
        virtual_hosted_style_request=False,
        credential_provider=credentials,
        skip_signature=anonymous,
        request_payer=bool(payer),
        client_options={
            "allow_http": client.meta.endpoint_url.startswith("http://"),
            "read_timeout": READ_TIMEOUT,
            "timeout": timedelta(days=1),
        },
        retry_config={"max_retries": RETRIES, "retry_timeout": WRITE_TIMEOUT, "backoff": BACKOFF},
    )
    # Another client, since a read timeout also limits the time in which a request may send its body.
    writer = S3Store(
        config=backend.config,
        prefix=backend.prefix,
        credential_provider=credentials,
        client_options={"allow_http": client.meta.endpoint_url.startswith("http://"), "timeout": WRITE_TIMEOUT},
        retry_config=backend.retry_config,
    )
    pages = partial(client.get_paginator("list_objects_v2").paginate, Bucket=bucket, **payer)
    store = Store(url, None, backend, writer, partial(_raw_keys, pages, prefix))
    if client.meta.endpoint_url.startswith("https://"):
        store._trusted.set()
    return store


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "").strip().lower() not in ("", "0", "false", "no", "off")


def _raw_keys(pages: Callable[..., Any], root: str, prefix: str) -> Iterator[Object]:
    """Yield the objects below a bucket's prefix, with their keys as they are."""
    from botocore.exceptions import BotoCoreError, ClientError

    start = root and f"{root}/"
    try:
        for page in pages(Prefix=start + (prefix and f"{prefix}/")):
            for entry in page.get("Contents", ()):
                yield Object(
                    entry["Key"][len(start) :], entry["Size"], entry.get("ETag"), modified=entry.get("LastModified")
                )
    except (BotoCoreError, ClientError) as error:
        raise OSError(str(error)) from error  # which Store explains


def _walk(root: Path, prefix: str) -> Iterator[Object]:
    """Yield the files below a folder, following links, and what cannot be read, with the reason."""
    waiting: list[tuple[str, frozenset[tuple[int, int]]]] = [(prefix, frozenset())]
    while waiting:
        folder, above = waiting.pop()
        try:
            status = os.stat(root / folder)
            above |= {(status.st_dev, status.st_ino)}
            entries = list(os.scandir(root / folder))
        except OSError as error:
            if folder != prefix:
                yield Object(f"{folder}/", 0, None, _system_reason(error))
            elif not prefix or not isinstance(error, FileNotFoundError | NotADirectoryError):
                raise
            continue
        for entry in entries:
            key = f"{folder}/{entry.name}" if folder else entry.name
            try:
                status = entry.stat()
            except OSError as error:
                link = "it is a link to a file that is not here; fetch it, for example with git annex get or dvc pull"
                dangling = entry.is_symlink() and isinstance(error, FileNotFoundError)
                yield Object(key, 0, None, link if dangling else _system_reason(error))
                continue
            if stat.S_ISDIR(status.st_mode):
                if (status.st_dev, status.st_ino) in above:
                    yield Object(key, 0, None, "it is a link to a folder that contains it; remove it")
                else:
                    waiting.append((key, above))
            elif not stat.S_ISREG(status.st_mode):
                yield Object(key, 0, None, "it is a pipe, a socket or a device; remove it")
            elif re.search(r"#\d+$", key):
                yield Object(key, status.st_size, None, "its name ends in # and digits like an unfinished copy; rename")
            else:  # obstore's ETag, with which it checks that the file has not changed
                etag = f'"{status.st_ino:x}-{max(status.st_mtime_ns, 0) // 1000:x}-{status.st_size:x}"'
                modified = datetime.fromtimestamp(status.st_mtime, UTC)
                yield Object(key, status.st_size, etag, modified=modified)


def _checked(item: Object) -> Object:
    """Return an object with a problem if obstore cannot read its key, and with a key that can be printed."""
    problem = item.problem or _key_problem(item.key)
    if not problem:
        return item
    key = re.sub(r"[\x00-\x1f\x7f\ud800-\udfff]", lambda match: ascii(match[0])[1:-1], item.key)
    return Object(key, item.size, item.etag, problem)


def _key_problem(key: str) -> str | None:
    """Return why obstore does not accept a key, or None."""
    if {"", ".", ".."}.intersection(key.split("/")):
        return "its path has an empty part, . or ..; move it"
    if re.search(r"[\x00-\x1f\x7f]", key):
        return "its name has a control character, such as the end of a line; rename it"
    if re.search(r"[\ud800-\udfff]", key):
        return "its name is not valid UTF-8; rename it"
    return None


def _explain(error: Exception, place: str, verb: str, anonymous: bool = False) -> StorageError:
    """Return an error in the words of skinlib, from one of obstore, botocore or the system."""
    if os_error := re.search(r"\(os error (\d+)\)", str(error)):  # what obstore says about files
        number = int(os_error[1])
        error = OSError(number, os.strerror(number))
    reason = _reason(error, verb, anonymous)
    code, _ = _code_and_message(error)
    own = isinstance(error, FileNotFoundError | PermissionError) or getattr(error, "errno", None) == errno.EIO
    if verb == "read" and (code.split(".")[0] in _CODES_OF_ONE_OBJECT or own):
        return UnreadableError(place, reason)
    return StorageError(f"{place} cannot be {verb}: {reason}.")


def _code_and_message(error: Exception) -> tuple[str, str]:
    """Return S3's code and its message, or empty texts.

    obstore's errors have no fields for these, so that this reads them from the text.
    """
    text = str(error)
    if match := re.search(r"An error occurred \(([\w.]+)\) when calling .*? operation.*?: (.*)", text, re.DOTALL):
        code, message = match.groups()
    else:
        found = (re.search(rf"<{name}>(.+?)</{name}>", text, re.DOTALL) for name in ("Code", "Message"))
        code, message = (html.unescape(match[1]) if match else "" for match in found)
    return code, " ".join(message.split()).rstrip(".")


def _system_reason(error: OSError) -> str:
    remedy = "; allow this user to read it" if isinstance(error, PermissionError) else ""
    return f"{error.strerror}{remedy}"


def _reason(error: Exception, verb: str, anonymous: bool) -> str:
    """Describe an error as a clause, to complete a sentence, with the server's own words."""
    text = str(error)
    code, message = _code_and_message(error)
    permission = re.search(r"not authorized to perform: ([\w:]+)", message)
    denied = f"the credentials lack the permission; ask for {permission[1] if permission else _PERMISSIONS[verb]}"
    if anonymous:
        denied = f"it is not public; {AWS_CREDENTIALS_ADVICE}, without AWS_SKIP_SIGNATURE or AWS_NO_SIGN_REQUEST"
    reason = denied if code in ("AccessDenied", "403") else _REASONS.get(code.split(".")[0])
    if reason:
        return f"{reason} (the server says {code}: {message})" if message else reason
    if isinstance(error, PreconditionError):
        return "it has changed since it was listed; run again when no process writes to it"
    if isinstance(error, FileNotFoundError):
        return "it does not exist"
    if isinstance(error, OSError) and error.strerror:
        return _system_reason(error)
    if isinstance(error, PermissionDeniedError):
        return denied
    if isinstance(error, UnauthenticatedError):
        return _REFUSED
    if message:
        return f"the server says {code}: {message}"
    if re.search(r"kind: (Timeout|Connect|Request)|timeout on endpoint|connect to the endpoint", text):
        return "no answer from the server after several attempts; check the network and AWS_ENDPOINT_URL"
    if re.match("(Custom|Invalid) endpoint", text):
        return "AWS_ENDPOINT_URL is not an address of S3; write it as https://host:port"
    if "Invalid bucket name" in text:
        return _REASONS["InvalidBucketName"]
    return without_credentials(" ".join(text.split("\n\nDebug source")[0].split())).rstrip(".")
