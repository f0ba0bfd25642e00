"""Copies a folder to a bucket, except files that are already there."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from skinlib.data.listing import is_hidden
from skinlib.data.storage import PART_BYTES, Object, map_ahead, open_store
from skinlib.errors import StorageError
from skinlib.progress import Progress, reported, silent


@dataclass(frozen=True)
class Upload:
    """What an upload did.

    Attributes:
        url: Where the files are now; of a folder, its absolute path.
        uploaded: Number of files that were copied.
        unchanged: Number of files that were already there.
        absent: Keys at the URL that are not in the folder, hidden files excluded. They were left there.
    """

    url: str
    uploaded: int
    unchanged: int
    absent: tuple[str, ...]


def upload_folder(folder: Path, url: str, on_progress: Progress = silent) -> Upload:
    """Copy all files of a folder, except hidden ones, to a URL, with their paths as keys.

    Files that exist there with the same size and MD5 are not copied again.

    Raises:
        StorageError: The folder or one of its files cannot be read, or the URL cannot be written; if the listing of
            the folder does not show it, files already copied stay there.
    """
    source, target = open_store(str(folder)), open_store(url, create=True)
    for path in target.local_path.rglob("*") if target.local_path else ():
        if path.is_symlink() and path.is_dir():
            raise StorageError(f"{path} is a link, through which files elsewhere would be changed; remove it.")
    present = {item.key: item for item in target.list()}
    objects = [item for item in source.list() if not is_hidden(item.key)]
    if broken := [item for item in objects if item.problem]:
        first = "; ".join(f"{item.key}: {item.problem}" for item in broken[:3])
        raise StorageError(
            f"{len(broken)} of {len(objects)} files in {source.url} cannot be uploaded; "
            f"repair or remove them, for example {first}."
        )

    def copy(item: Object) -> bool:
        path, twin = Path(source.url, item.key), present.get(item.key)
        if twin and twin.size == item.size:
            etag = _md5_etag(target.local_path / item.key) if target.local_path else twin.etag
            try:
                if etag == _md5_etag(path):
                    return False
            except OSError as error:
                raise StorageError(f"{path} cannot be read: {error.strerror}; repair or remove it.") from error
        target.upload(item.key, path)
        return True

    copied = list(reported(map_ahead(copy, objects, threads=16), len(objects), on_progress))
    absent = sorted(key for key in present.keys() - {item.key for item in objects} if not is_hidden(key))
    return Upload(target.url, sum(copied), len(copied) - sum(copied), tuple(absent))


def _md5_etag(path: Path) -> str:
    """Compute the ETag that S3 gives a file uploaded with `Store.upload`."""

    def md5(data: bytes) -> bytes:
        return hashlib.md5(data, usedforsecurity=False).digest()

    with path.open("rb") as file:
        parts = [md5(part) for part in iter(lambda: file.read(PART_BYTES), b"")]
    if len(parts) > 1:
        return f'"{md5(b"".join(parts)).hex()}-{len(parts)}"'
    return f'"{parts[0].hex() if parts else md5(b"").hex()}"'
