"""Reads, verifies and decodes each image once, and stores all pixels as one array.

    URL --list_images--> Listing --prepare--> Manifest --open_packed--> PackedDataset

Files in the cache:

    skinlib/listings/<fingerprint>.json              the manifest hash of a listing and its rejected files
    skinlib/packed/<hash>-<settings>/images.npy      in a folder: the decoded images, uint8 (N, 224, 224, 3)
    skinlib/packed/<hash>-<settings>/images/*.bin    on S3: the same pixels, in blocks of `BLOCK` images
    skinlib/packed/<hash>-<settings>/manifest.json   the manifest, and checksums of blocks and traces, written last
    skinlib/packed/<hash>-<settings>/used            empty; written anew by each run
    skinlib/packed/<hash>-<settings>/lesions-*.json  the images of the same lesion, from `skinlib.audit.lesions`

What is damaged there is noticed, and made again by the next `prepare`.
"""

import errno
import fcntl
import hashlib
import io
import json
import os
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from skinlib import machine
from skinlib.data import traces
from skinlib.data.images import SETTINGS, SIDE, decode
from skinlib.data.listing import Listing
from skinlib.data.manifest import CLASSES, Manifest, digest, sealed, split_and_label, unsealed
from skinlib.data.storage import RETRIES, Object, Store, map_ahead, open_store, private_folder
from skinlib.data.traces import FileTraces
from skinlib.errors import DataError, StorageError, UnreadableError
from skinlib.progress import Progress, reported, silent

BLOCK = 100  # images with one checksum: 15 MB, which S3 takes in one request, so that a block's ETag is its MD5
MAX_FILE_BYTES = 100 << 20  # so that an archive left among the images does not fill the memory
_DECODING_BYTES = 1 << 30  # what the largest image takes while it is decoded
_UPLOADS = 4  # blocks at once: on a slow line, each must be sent within `storage.WRITE_TIMEOUT`
_DOWNLOADS = 8
_DAMAGE = (ValueError, TypeError, LookupError, AttributeError)  # what JSON with changed bytes leads to


class _DamagedError(StorageError):
    """A packed set is incomplete or has other bytes than were written."""


@dataclass(frozen=True)
class PackedDataset:
    """The decoded images of a manifest.

    Attributes:
        images: uint8 (N, 224, 224, 3), RGB, in the manifest's order; memory-mapped from disk, read-only.
        manifest: Without rejected files, which belong to a listing.
    """

    images: NDArray[np.uint8]
    manifest: Manifest

    def part(self, index: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the images of ascending indices; consecutive ones, such as those for testing, stay on disk."""
        first, last = index[0], index[-1]
        return self.images[first : last + 1] if last - first == len(index) - 1 else self.images[index]

    @property
    def labels(self) -> NDArray[np.int64]:
        """Indices into CLASSES, int64 (N,)."""
        return np.array(self.manifest.labels, dtype=np.int64)


def prepare(
    listing: Listing,
    cache: Store,
    max_rejected: float = 0.01,
    on_progress: Progress = silent,
) -> Manifest:
    """Read, verify and decode each image and store the packed set; if the cache has it undamaged, read no image.

    Args:
        listing: From `list_images`.
        cache: Store for the packed set, opened with `create`.
        max_rejected: Largest allowed fraction of unusable files, from 0 to 1; with 1, a class may have no usable file.
        on_progress: Called with (files done, all files) about twice per second and at the end.

    Raises:
        DataError: More than `max_rejected` of the files, all files of a class, or all files cannot be used.
        StorageError: The store cannot be read, or a file has changed since it was listed.
    """
    record_key = f"skinlib/listings/{listing.fingerprint}.json"
    if known := _known_manifest(cache, record_key):
        _check_rejected(listing, known, max_rejected)
        _record(cache, record_key, known)
        cache.write(f"{packed_folder(known.hash)}/used", b"")
        return known
    with _scratch_folder(cache) as folder:
        manifest, checksums, all_read = _pack(listing, folder / "images.npy", on_progress)
        _check_rejected(listing, manifest, max_rejected)
        if not _intact_manifest(cache, manifest.hash):
            _publish(cache, folder / "images.npy", manifest, checksums)
    if all_read:  # otherwise a later run must try again: a restored archive looks the same in a listing
        _record(cache, record_key, manifest)
    return manifest


def _record(cache: Store, key: str, manifest: Manifest) -> None:
    """Write the record of a listing, again at each use: its time is that of the last one (see `cache`)."""
    cache.write(key, sealed([manifest.hash, manifest.rejected]))


def open_packed(cache: Store, manifest_hash: str, index: NDArray[np.int64] | None = None) -> PackedDataset:
    """Open a packed set by the hash of its manifest, and compare the images that are needed with their checksums.

    In a folder, the images are memory-mapped in place. From S3, the blocks with these images are first downloaded to
    the directory for temporary files (TMPDIR), each once for all processes of a machine.

    Args:
        cache: The store that holds the set.
        manifest_hash: Of the set.
        index: int64 (M,), the images that will be read; all, if it is None. Others may be black.

    Raises:
        StorageError: The set does not exist or is damaged, or cannot be downloaded.
    """
    folder = packed_folder(manifest_hash)
    try:
        manifest, checksums, etags = _read_manifest(cache, manifest_hash)
        n_images = len(manifest.keys)
        blocks = list(range(len(checksums))) if index is None else np.unique(index // BLOCK).tolist()
        if cache.local_path:
            images = _mapped(cache.local_path / folder / "images.npy", n_images, _header_bytes(n_images))
            if _wrong_blocks(images, checksums, blocks):
                raise ValueError("images.npy has other bytes than were written")
        else:
            if _etags(cache, folder) != etags:
                raise ValueError("its blocks are not those that were written")
            images = _downloaded(cache, folder, n_images, checksums, blocks)
        return PackedDataset(images, manifest)
    except (UnreadableError, *_DAMAGE) as error:
        reason = error.reason if isinstance(error, UnreadableError) else error
        raise _DamagedError(
            f"{cache.url}/{folder} does not hold the packed images ({reason}); "
            "start a new run, which reads the images again."
        ) from error


def _read_manifest(cache: Store, manifest_hash: str) -> tuple[Manifest, list[int], list[str]]:
    """Return the manifest of a packed set, and the checksums and, on S3, the ETags of its blocks."""
    columns = json.loads(cache.read(f"{packed_folder(manifest_hash)}/manifest.json"))
    checksums, etags, traces_digest = (columns.pop(name) for name in ("checksums", "etags", "traces_digest"))
    manifest = Manifest.from_columns(columns)
    if manifest.hash != manifest_hash or digest(manifest.traces) != traces_digest:
        raise ValueError("its manifest is that of other images")
    if len(checksums) != -(-len(manifest.keys) // BLOCK):
        raise ValueError("its manifest does not have a checksum for each block")
    return manifest, checksums, etags


def _etags(cache: Store, folder: str) -> list[str]:
    """Return the ETags of all blocks on S3: a machine with a good copy notices damage there, too."""
    return [item.etag or "" for item in cache.list(f"{folder}/images")]


def _mapped(path: Path, n_images: int, offset: int = 0) -> NDArray[np.uint8]:
    try:
        # Not np.load, which would trust a damaged header.
        return np.memmap(path, np.uint8, "r", offset=offset, shape=(n_images, SIDE, SIDE, 3))
    except OSError as error:
        raise ValueError(f"{path.name}: {error.strerror}") from error


def _wrong_blocks(images: NDArray[np.uint8], checksums: list[int], blocks: list[int]) -> list[int]:
    """Return the numbers of the blocks that have other bytes than were written."""

    def is_wrong(number: int) -> bool:
        return zlib.crc32(_block(images, number)) != checksums[number]

    wrong = map_ahead(is_wrong, blocks, machine.cores())
    return [number for number, is_so in zip(blocks, wrong, strict=True) if is_so]


def _block(images: NDArray[np.uint8], number: int) -> memoryview:
    return images[number * BLOCK : (number + 1) * BLOCK].data


def _block_key(folder: str, number: int) -> str:
    return f"{folder}/images/{number:06}.bin"


def _downloaded(cache: Store, folder: str, n_images: int, checksums: list[int], blocks: list[int]) -> NDArray[np.uint8]:
    """Map this machine's copy of a set on S3, after the download of the blocks that it does not have yet.

    What the copy has is told by the checksums: after a process was killed, the next one goes on from there.
    """
    path = private_folder() / f"{Path(folder).name}.images"

    def fetch(number: int) -> None:
        for _ in range(RETRIES):  # the network may have changed a bit
            data = cache.read(_block_key(folder, number))
            if len(data) == _block(images, number).nbytes and zlib.crc32(data) == checksums[number]:
                # Not through the memory map, where a full disk ends the process.
                if os.pwrite(file.fileno(), data, number * BLOCK * SIDE * SIDE * 3) < len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return
        raise ValueError(f"block {number} has other bytes than were written")

    with _lock(path.with_suffix(".lock")):
        try:
            is_new = not path.exists()
            path.touch()
            with path.open("r+b") as file:
                file.truncate(n_images * SIDE * SIDE * 3)
                images = _mapped(path, n_images)
                missing = blocks if is_new else _wrong_blocks(images, checksums, blocks)
                for _ in map_ahead(fetch, missing, _DOWNLOADS):
                    pass
        except OSError as error:
            raise StorageError(f"{path} cannot be written ({error.strerror}); make room there.") from error
    return images


def _known_manifest(cache: Store, record_key: str) -> Manifest | None:
    """Return the manifest of a listing that was packed before, or None."""
    if not cache.exists(record_key):
        return None
    try:
        manifest_hash, rejected = unsealed(cache.read(record_key))
    except ValueError:
        _say_damaged(f"{cache.url}/{record_key} is damaged")
        return None
    manifest = _intact_manifest(cache, manifest_hash)
    if not manifest:
        _say_damaged(f"{cache.url}/{packed_folder(manifest_hash)} is missing or damaged")
        return None
    return replace(manifest, rejected=tuple((key, reason) for key, reason in rejected))


def _intact_manifest(cache: Store, manifest_hash: str) -> Manifest | None:
    """Return the manifest of a packed set, or None if the set is missing or damaged."""
    try:
        return open_packed(cache, manifest_hash).manifest
    except _DamagedError:
        return None


def _say_damaged(what: str) -> None:
    print(f"{what}; the images are read again.", file=sys.stderr, flush=True)


def _pack(listing: Listing, path: Path, on_progress: Progress) -> tuple[Manifest, list[int], bool]:
    """Read and decode the images of a listing into a .npy file, with bounded memory.

    Returns the manifest, the checksum of each block, and whether all files could be read.
    """
    objects = limited(listing.objects)
    rejected: list[tuple[str, str]] = []
    rows: list[tuple[str, int, int, str, str]] = []
    kept: list[FileTraces] = []
    checksums: list[int] = []
    all_read = True
    files = open_store(listing.url).read_many(objects)
    verified = map_ahead(_verify, files, threads=machine.workers(_DECODING_BYTES))
    with path.open("wb") as packed:
        _write_header(packed, len(objects))
        for item, sha256, image, found in reported(verified, len(objects), on_progress):
            if isinstance(image, str):
                rejected.append((item.key, image))
                all_read &= bool(sha256 or item.problem)
                continue
            packed.write(image.data)
            if len(rows) % BLOCK == 0:
                checksums.append(0)
            checksums[-1] = zlib.crc32(image.data, checksums[-1])
            split_name, label = split_and_label(item.key)
            rows.append((item.key, item.size, label, split_name, sha256))
            kept.append(found)
        packed.seek(0)
        _write_header(packed, len(rows))
    keys, sizes, labels, splits, digests = zip(*rows, strict=True) if rows else ((),) * 5
    known, refused = listing.metadata.columns(keys), tuple(sorted(rejected))
    manifest = Manifest(keys, sizes, labels, splits, digests, refused, known, traces.columns(kept))
    return manifest, checksums, all_read


def limited(objects: Iterable[Object]) -> list[Object]:
    """Give objects that are too large for an image a `problem`, so that `Store.read_many` does not read them."""
    limit = f"it is larger than {MAX_FILE_BYTES >> 20} MB"
    return [replace(item, problem=limit) if item.size > MAX_FILE_BYTES else item for item in objects]


def _verify(file: tuple[Object, bytes | StorageError]) -> tuple[Object, str, NDArray[np.uint8] | str, FileTraces]:
    """Return an object, its SHA-256, its pixels or the reason why it has none, and its traces."""
    item, data = file
    if isinstance(data, UnreadableError):
        return item, "", data.reason, FileTraces()
    if isinstance(data, StorageError):
        raise data
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        return item, sha256, decode(data), traces.file_traces(data)
    except DataError as error:
        return item, sha256, str(error), FileTraces()


def _header_bytes(n_images: int) -> int:
    header = io.BytesIO()
    _write_header(header, n_images)
    return header.tell()


def _write_header(file: BinaryIO, n_images: int) -> None:
    # NumPy pads the header for a growing first axis, so that its length does not depend on the number of images.
    header = {"descr": "|u1", "fortran_order": False, "shape": (n_images, SIDE, SIDE, 3)}
    np.lib.format.write_array_header_1_0(file, header)


def _check_rejected(listing: Listing, manifest: Manifest, max_rejected: float) -> None:
    total, lost = len(listing.objects), len(manifest.rejected)
    first = "; ".join(f"{key}: {reason}" for key, reason in manifest.rejected[:3])
    remedy = f"repair or remove them, for example {first}"
    if lost == total:
        raise DataError(f"None of the {total} files in {listing.url} can be used; {remedy}.")
    if lost / total > max_rejected:
        raise DataError(
            f"{lost} of {total} files in {listing.url} cannot be used, "
            f"which is more than max_rejected = {max_rejected:g} allows; {remedy}."
        )
    if max_rejected == 1:
        return
    usable = set(zip(manifest.splits, manifest.labels, strict=True))
    for split_name, label in sorted({split_and_label(item.key) for item in listing.objects} - usable):
        raise DataError(f"All files in {listing.url}/{split_name}/{CLASSES[label]} are unusable; {remedy}.")


def packed_folder(manifest_hash: str) -> str:
    """Return the prefix of the keys of a packed set."""
    return f"skinlib/packed/{manifest_hash}-{SETTINGS}"


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    try:
        file = path.open("w")
    except OSError as error:
        raise StorageError(f"{path} cannot be written ({error.strerror}); set TMPDIR to another folder.") from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _scratch_folder(cache: Store) -> Iterator[Path]:
    """Give a temporary folder, on the disk of a local cache so that the result only has to be renamed."""
    parent = cache.local_path / "skinlib/packed" if cache.local_path else private_folder()
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for other in parent.glob(".building-*"):
            _delete_if_abandoned(other)
        with (
            tempfile.TemporaryDirectory(dir=parent, prefix=".building-") as folder,
            Path(folder, "lock").open("w") as lock,
        ):
            fcntl.flock(lock, fcntl.LOCK_EX)
            print("locked", file=lock, flush=True)
            yield Path(folder)
    except OSError as error:
        raise StorageError(f"The images cannot be packed in {parent} ({error.strerror}); make room there.") from error


def _delete_if_abandoned(folder: Path) -> None:
    """Delete the temporary folder of a process that was killed: the system has released its lock."""
    try:
        with (folder / "lock").open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if lock.read():  # otherwise its process is about to lock it
                shutil.rmtree(folder)
    except OSError:  # in use, or deleted by another process
        pass


def _publish(cache: Store, path: Path, manifest: Manifest, checksums: list[int]) -> None:
    """Store a packed set; several processes may do this at once, because all write the same bytes."""
    folder = packed_folder(manifest.hash)
    if cache.local_path:
        target = cache.local_path / folder
        target.mkdir(exist_ok=True)
        path.replace(target / "images.npy")
        etags = []
    else:
        _upload(cache, folder, _mapped(path, len(manifest.keys), _header_bytes(len(manifest.keys))))
        etags = _etags(cache, folder)
    # The hash does not cover the traces, which say how the files were saved.
    checks = {"checksums": checksums, "etags": etags, "traces_digest": digest(manifest.traces)}
    kept = replace(manifest, rejected=())
    columns = {of.name: getattr(kept, of.name) for of in fields(kept)}
    cache.write(f"{folder}/manifest.json", json.dumps({**columns, **checks}).encode())


def _upload(cache: Store, folder: str, images: NDArray[np.uint8]) -> None:
    """Write the blocks of a set, except those that a killed process has written."""
    stored = {item.key: (item.etag or "").strip('"') for item in cache.list(folder)}

    def send(number: int) -> None:
        key, data = _block_key(folder, number), bytes(_block(images, number))
        if stored.get(key) != hashlib.md5(data, usedforsecurity=False).hexdigest():
            cache.write(key, data)

    for _ in map_ahead(send, range(-(-len(images) // BLOCK)), _UPLOADS):
        pass
