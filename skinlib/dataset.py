"""Labelled images from a URL to one array: list, verify, decode once, split.

    URL --list_images--> Listing --prepare--> Manifest --open_packed--> PackedDataset
                                                       --split--------> Split

The manifest's hash names the data: it is the same for the same images wherever they lie. The cache holds

    skinlib/listings/<fingerprint>.json              the manifest hash of a listing and its rejected files
    skinlib/packed/<hash>-<settings>/images.npy      the decoded images, uint8 (N, 224, 224, 3)
    skinlib/packed/<hash>-<settings>/manifest.json   written last: where it is, the set is complete
"""

import fcntl
import hashlib
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray

from skinlib.errors import ConfigError, DataError, StorageError
from skinlib.images import SETTINGS, SIDE, decode
from skinlib.storage import PART_BYTES, Object, Store, map_ahead, open_store

CLASSES = ("benign", "malignant")
SPLITS = ("train", "test")
MAX_FILE_BYTES = 100 << 20  # a stray archive among the images must not fill the memory

Progress = Callable[[int, int], None]
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Listing:
    """The image files below a URL, not yet read.

    Attributes:
        url: Where they lie.
        objects: Sorted by key, hidden files left out.
        fingerprint: SHA-256 over URL, splits, keys, sizes, ETags and decode settings, in hex.
    """

    url: str
    objects: tuple[Object, ...]
    fingerprint: str


@dataclass(frozen=True)
class Manifest:
    """What a data set consists of; the tuples run in parallel, sorted by key.

    Attributes:
        keys: Paths below the data set's URL.
        sizes: Bytes of each file.
        labels: Index into CLASSES.
        splits: "train" or "test".
        sha256: Of each file's bytes, in hex.
        rejected: (key, reason) of the files that cannot be used; no part of the hash.
    """

    keys: tuple[str, ...]
    sizes: tuple[int, ...]
    labels: tuple[int, ...]
    splits: tuple[str, ...]
    sha256: tuple[str, ...]
    rejected: tuple[tuple[str, str], ...] = ()

    @cached_property
    def hash(self) -> str:
        """SHA-256 over key, size, class, split and SHA-256 of every image, in hex."""
        classes = [CLASSES[label] for label in self.labels]
        return _digest(list(zip(self.keys, self.sizes, classes, self.splits, self.sha256, strict=True)))

    def summary(self) -> dict[str, Any]:
        """Return hash, n_images, counts[split][class] and rejected (key, reason) as plain values."""
        counts = Counter(zip(self.splits, self.labels, strict=True))
        return {
            "hash": self.hash,
            "n_images": len(self.keys),
            "counts": {s: {name: counts[s, label] for label, name in enumerate(CLASSES)} for s in SPLITS},
            "rejected": [{"key": key, "reason": reason} for key, reason in self.rejected],
        }

    def to_json(self) -> str:
        """Return the whole manifest as JSON, for `from_json`."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> "Manifest":
        """Read what `to_json` wrote."""
        columns = json.loads(text)
        columns["rejected"] = map(tuple, columns["rejected"])
        return cls(**{name: tuple(column) for name, column in columns.items()})


@dataclass(frozen=True)
class PackedDataset:
    """All images of a manifest, decoded.

    Attributes:
        images: uint8 (N, 224, 224, 3), RGB, in the manifest's order; mapped read-only from disk.
        manifest: Without rejected files: they belong to a listing.
    """

    images: NDArray[np.uint8]
    manifest: Manifest

    @property
    def labels(self) -> NDArray[np.int64]:
        """int64 (N,), index into CLASSES."""
        return np.array(self.manifest.labels, dtype=np.int64)


@dataclass(frozen=True)
class Split:
    """Which images serve what: int64 indices into the manifest, ascending and disjoint."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]


def check_options(seed: int, validation_fraction: float, max_rejected: float, sensitivity: float) -> None:
    """Raise ConfigError if these options of a run cannot be used."""
    if not 0 <= seed < 2**32:
        raise ConfigError(f"The seed is {seed}; give a number from 0 to 2**32 - 1.")
    if not 0 < validation_fraction <= 0.5:
        raise ConfigError(f"The validation fraction is {validation_fraction:g}; give a number above 0 and at most 0.5.")
    if not 0 <= max_rejected < 1:
        raise ConfigError(f"The share of rejected images is {max_rejected:g}; give a number from 0 and below 1.")
    if not 0 < sensitivity <= 1:
        raise ConfigError(f"The sensitivity is {sensitivity:g}; give a number above 0 and at most 1, such as 0.95.")


def list_images(url: str, splits: Sequence[str] = SPLITS) -> Listing:
    """List a data set's files and check its folders; no file is read.

    Files beside the class folders and hidden files are ignored; whatever lies deeper in a class folder
    belongs to the class.

    Args:
        url: A bucket's prefix or a folder that holds train/ and test/, each with benign/ and malignant/.
        splits: The splits that are wanted. With ("test",) the URL may hold benign/ and malignant/ itself.

    Raises:
        DataError: A split or a class is missing or empty, or there is a folder that is neither.
        StorageError: The URL cannot be listed.
    """
    store = open_store(url)
    objects = [item for item in store.list() if not _is_hidden(item.key)]
    tops = _folders(objects, "")
    roots = [f"{name}/" for name in splits]
    if tuple(splits) == ("test",) and "test" not in tops and tops & set(CLASSES):
        roots = [""]
    else:
        _check_folders(store.url, objects, "", "split", allowed=SPLITS, needed=splits)
    for root in roots:
        _check_folders(store.url, objects, root, "class", allowed=CLASSES, needed=CLASSES)
    inside = tuple(f"{root}{name}/" for root in roots for name in CLASSES)
    images = tuple(item for item in objects if item.key.startswith(inside))
    entries = [(item.key, item.size, item.etag) for item in images]
    return Listing(store.url, images, _digest([store.url, list(splits), entries, SETTINGS]))


def prepare(
    listing: Listing,
    cache: Store,
    max_rejected: float = 0.01,
    on_progress: Progress = lambda done, total: None,
) -> Manifest:
    """Read, verify and decode every image once and store the packed set; if that was done before, read none.

    Args:
        listing: From `list_images`.
        cache: Where to keep the packed set; opened with `create`.
        max_rejected: Largest share of files that may be unusable, from 0 and below 1.
        on_progress: Called with (files done, all files) about twice a second, and at the end.

    Raises:
        DataError: More than `max_rejected` of the files, or all of a class, cannot be used.
        StorageError: A file cannot be read, or has changed since it was listed.
    """
    record_key = f"skinlib/listings/{listing.fingerprint}.json"
    if cache.exists(record_key):
        record = json.loads(cache.read(record_key))
        if _is_complete(cache, record["hash"]):
            manifest = Manifest.from_json(cache.read(f"{_folder(record['hash'])}/manifest.json"))
            manifest = replace(manifest, rejected=tuple((key, reason) for key, reason in record["rejected"]))
            _check_rejected(listing, manifest, max_rejected)
            return manifest
    with _workplace(cache) as folder:
        manifest = _pack(listing, folder / "images.npy", on_progress)
        _check_rejected(listing, manifest, max_rejected)
        if not _is_complete(cache, manifest.hash):
            _publish(cache, folder / "images.npy", manifest)
    record = {"hash": manifest.hash, "rejected": manifest.rejected}
    cache.write(record_key, json.dumps(record).encode())
    return manifest


def open_packed(cache: Store, manifest_hash: str) -> PackedDataset:
    """Open a packed set by its hash.

    In a folder it is mapped in place. From S3 it is first downloaded to the directory for temporary files
    (TMPDIR), once for all processes of a machine.

    Raises:
        StorageError: There is no such set, or it is not whole.
    """
    folder = _folder(manifest_hash)
    manifest = Manifest.from_json(cache.read(f"{folder}/manifest.json"))
    scratch = Path(tempfile.gettempdir(), f"skinlib-{os.getuid()}")
    path = cache.local_path / folder / "images.npy" if cache.local_path else scratch / f"{Path(folder).name}.npy"
    try:
        if not cache.local_path:
            scratch.mkdir(mode=0o700, exist_ok=True)
            with path.with_suffix(".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not path.exists():
                    cache.download(f"{folder}/images.npy", path)
        images = np.load(path, mmap_mode="r")
        if images.shape != (len(manifest.keys), SIDE, SIDE, 3):
            raise ValueError(f"its shape is {images.shape}")
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} does not hold the packed images ({error}); delete it and run again.") from error
    return PackedDataset(images, manifest)


def split(manifest: Manifest, groups: NDArray[np.int64], validation_fraction: float, seed: int) -> Split:
    """Hold back a part of the training images for validation: stratified, and no group on both sides.

    Scikit-learn's StratifiedGroupKFold cuts them into round(1 / `validation_fraction`) folds, of which the first
    validates. The order of the images does not matter.

    Args:
        manifest: The images; those of "test" stay what they are.
        groups: int (N,), equal for images that show the same; a group may reach into "test".
        validation_fraction: Share of the training images, above 0 and at most 0.5.
        seed: Another seed, another choice.

    Raises:
        DataError: There are too few training images or groups for both classes to be on both sides.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    by_key = sorted(range(len(manifest.keys)), key=manifest.keys.__getitem__)
    train = np.array([index for index in by_key if manifest.splits[index] == "train"], dtype=np.int64)
    labels = np.array(manifest.labels, dtype=np.int64)
    folds = round(1 / validation_fraction)
    for label, name in enumerate(CLASSES):
        n_groups = len(np.unique(groups[train][labels[train] == label]))
        if n_groups < folds:
            raise DataError(
                f"train/{name} has {n_groups} usable images that differ; add some, for a validation fraction of "
                f"{validation_fraction:g} needs {folds}."
            )
    # Numbered as they come by key, since the folds depend on the numbers.
    numbered = number_groups(groups[train])
    folding = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    rest, validation = next(folding.split(train, labels[train], numbered))
    for part, name in ((rest, "training"), (validation, "validation")):
        if len(np.unique(labels[train][part])) < len(CLASSES):
            raise DataError(
                f"The {name} part would hold one class alone, since whole groups of look-alike images are kept "
                "together; add images or choose another validation fraction."
            )
    test = [index for index, name in enumerate(manifest.splits) if name == "test"]
    parts = {"train": train[rest], "validation": train[validation], "test": np.array(test, dtype=np.int64)}
    return Split(**{name: np.sort(part) for name, part in parts.items()})


def number_groups(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number groups, int (N,), from 0 in the order of their first members."""
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].astype(np.int64)


def upload_folder(folder: Path, url: str, on_progress: Progress = lambda done, total: None) -> dict[str, int]:
    """Copy every file of a folder that is not hidden to a URL, under the same relative key.

    Files that are there already, with the same size and MD5, are left alone.

    Returns:
        {"uploaded": n, "unchanged": n}

    Raises:
        StorageError: The folder cannot be read or the URL not be written; files copied by then stay.
    """
    source, target = open_store(str(folder)), open_store(url, create=True)
    present = {item.key: item for item in target.list()}
    objects = [item for item in source.list() if not _is_hidden(item.key)]

    def copy(item: Object) -> bool:
        path, twin = Path(source.url, item.key), present.get(item.key)
        if twin and twin.size == item.size:
            etag = _md5_etag(target.local_path / item.key) if target.local_path else twin.etag
            if etag == _md5_etag(path):
                return False
        target.upload(item.key, path)
        return True

    copied = list(_reported(map_ahead(copy, objects, threads=16), len(objects), on_progress))
    return {"uploaded": sum(copied), "unchanged": len(copied) - sum(copied)}


def _is_hidden(key: str) -> bool:
    parts = key.split("/")
    junk = parts[-1].lower() in ("thumbs.db", "desktop.ini")
    return junk or any(part.startswith(".") or part == "__MACOSX" for part in parts)


def _folders(objects: Sequence[Object], root: str) -> set[str]:
    """Return the names of the folders directly below `root` ("" or "train/")."""
    below = (item.key[len(root) :] for item in objects if item.key.startswith(root))
    return {key.split("/")[0] for key in below if "/" in key}


def _check_folders(
    url: str, objects: Sequence[Object], root: str, kind: str, allowed: Sequence[str], needed: Sequence[str]
) -> None:
    found = _folders(objects, root)
    for name in sorted(found.difference(allowed)):
        remedy = f"rename it to {' or '.join(allowed)}, or move it away"
        raise DataError(f"{url}/{root} has a folder '{name}', which is no {kind}; {remedy}.")
    for name in needed:
        if name not in found:
            layout = f"expected are {' and '.join(SPLITS)}, each with {' and '.join(CLASSES)}"
            raise DataError(f"{url}/{root} has no images in a folder '{name}'; {layout}.")


def _place(key: str) -> tuple[str, int]:
    """Return an image's split and label; an image in no split's folder is for test."""
    first, second = key.split("/")[:2]
    return (first, CLASSES.index(second)) if first in SPLITS else ("test", CLASSES.index(first))


def _pack(listing: Listing, path: Path, on_progress: Progress) -> Manifest:
    """Read and decode the images of a listing into a .npy file, one after the other."""
    limit = f"it is larger than {MAX_FILE_BYTES >> 20} MB"
    rejected = [(item.key, limit) for item in listing.objects if item.size > MAX_FILE_BYTES]
    objects = [item for item in listing.objects if item.size <= MAX_FILE_BYTES]
    rows: list[tuple[str, int, int, str, str]] = []
    files = open_store(listing.url).read_many(objects)
    verified = map_ahead(_verify, files, threads=os.cpu_count() or 1)
    with path.open("wb") as packed:
        _write_header(packed, len(objects))
        for item, sha256, image in _reported(verified, len(objects), on_progress):
            if isinstance(image, str):
                rejected.append((item.key, image))
                continue
            packed.write(image.data)
            split_name, label = _place(item.key)
            rows.append((item.key, item.size, label, split_name, sha256))
        packed.seek(0)
        _write_header(packed, len(rows))
    keys, sizes, labels, splits, digests = zip(*rows, strict=True) if rows else ((),) * 5
    return Manifest(keys, sizes, labels, splits, digests, tuple(sorted(rejected)))


def _verify(file: tuple[Object, bytes | StorageError]) -> tuple[Object, str, NDArray[np.uint8] | str]:
    """Return an object, its SHA-256 and its pixels, or the reason why it has none."""
    item, data = file
    if isinstance(data, StorageError):
        raise data
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        return item, sha256, decode(data)
    except DataError as error:
        return item, sha256, str(error)


def _write_header(file: BinaryIO, n_images: int) -> None:
    # NumPy leaves room in the header for a growing first axis, so that its length is the same for any number.
    header = {"descr": "|u1", "fortran_order": False, "shape": (n_images, SIDE, SIDE, 3)}
    np.lib.format.write_array_header_1_0(file, header)


def _check_rejected(listing: Listing, manifest: Manifest, max_rejected: float) -> None:
    total, lost = len(listing.objects), len(manifest.rejected)
    first = "; ".join(f"{key}: {reason}" for key, reason in manifest.rejected[:3])
    remedy = f"mend or remove them, first {first}"
    if lost / total > max_rejected:
        raise DataError(
            f"{lost} of {total} files in {listing.url} cannot be used, "
            f"more than max_rejected = {max_rejected:g} allows; {remedy}."
        )
    usable = set(zip(manifest.splits, manifest.labels, strict=True))
    for split_name, label in sorted({_place(item.key) for item in listing.objects} - usable):
        raise DataError(f"no file in {listing.url}/{split_name}/{CLASSES[label]} can be used; {remedy}.")


def _folder(manifest_hash: str) -> str:
    return f"skinlib/packed/{manifest_hash}-{SETTINGS}"


def _is_complete(cache: Store, manifest_hash: str) -> bool:
    folder = _folder(manifest_hash)
    return cache.exists(f"{folder}/manifest.json") and cache.exists(f"{folder}/images.npy")


@contextmanager
def _workplace(cache: Store) -> Iterator[Path]:
    """Give a folder to build in, on the disk of a local cache so that the result needs only a rename."""
    parent = cache.local_path / "skinlib/packed" if cache.local_path else Path(tempfile.gettempdir())
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=parent, prefix=".building-") as folder:
            yield Path(folder)
    except OSError as error:
        raise StorageError(f"the images cannot be packed in {parent}: {error.strerror}; make room there.") from error


def _publish(cache: Store, images: Path, manifest: Manifest) -> None:
    """Store a packed set; several processes may do so at once, since all write the same bytes."""
    folder = _folder(manifest.hash)
    if cache.local_path:
        target = cache.local_path / folder
        target.mkdir(exist_ok=True)
        images.replace(target / "images.npy")
    else:
        cache.upload(f"{folder}/images.npy", images)
    cache.write(f"{folder}/manifest.json", replace(manifest, rejected=()).to_json().encode())


def _reported(results: Iterator[_Result], total: int, on_progress: Progress) -> Iterator[_Result]:
    """Pass results on and tell, about twice a second and at the end, how many there were."""
    last = time.monotonic()
    for done, result in enumerate(results, start=1):
        yield result
        if done == total or time.monotonic() - last > 0.5:
            on_progress(done, total)
            last = time.monotonic()


def _md5_etag(path: Path) -> str:
    """Work out the ETag that S3 gives to a file which `Store.upload` has sent."""
    with path.open("rb") as file:
        parts = [hashlib.md5(part).digest() for part in iter(lambda: file.read(PART_BYTES), b"")]
    if len(parts) > 1:
        return f'"{hashlib.md5(b"".join(parts)).hexdigest()}-{len(parts)}"'
    return f'"{parts[0].hex() if parts else hashlib.md5().hexdigest()}"'


def _digest(value: Any) -> str:
    """Return the SHA-256 of a plain value, in hex."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
