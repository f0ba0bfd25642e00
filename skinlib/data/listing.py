"""Lists the image files below a URL, by split and class, without reading them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from skinlib.data import metadata
from skinlib.data.images import SETTINGS
from skinlib.data.manifest import CLASSES, SPLITS, digest
from skinlib.data.metadata import Metadata
from skinlib.data.storage import Object, open_store
from skinlib.errors import DataError, StorageError

_LAYOUT = f"a data set needs {' and '.join(SPLITS)}, each with {' and '.join(CLASSES)}"
_SPLIT_AND_CLASS = re.compile(rf"(.+?)/(?:{'|'.join(SPLITS)})/(?:{'|'.join(CLASSES)})/", re.IGNORECASE)
_JUNK = ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\\r", "_success")  # what systems and Spark leave behind
_JUNK_FOLDERS = ("__MACOSX", "@eaDir", "_temporary")


@dataclass(frozen=True)
class Listing:
    """The image files below a URL, not yet read.

    Attributes:
        url: The bucket's prefix or the folder.
        objects: Sorted by key, without hidden files; those that cannot be read have a `problem`.
        fingerprint: SHA-256 over URL, splits, keys, sizes, ETags or problems, metadata and decode settings, in hex.
        metadata: Read from `metadata.csv`; empty without it.
    """

    url: str
    objects: tuple[Object, ...]
    fingerprint: str
    metadata: Metadata


def list_images(url: str, splits: Sequence[str] = SPLITS) -> Listing:
    """List the files of a data set and check its folders.

    Hidden files and files outside the class folders are ignored. Subfolders of a class folder belong to the class.

    Args:
        url: A bucket's prefix or a folder that contains train/ and test/, each with benign/ and malignant/.
        splits: The splits to list. With ("test",) the URL may also contain benign/ and malignant/ directly.

    Raises:
        DataError: A split or a class is missing or empty, or a folder is neither; it says where the data set is, if it
            is one level higher or lower. Or `metadata.csv` has an error.
        StorageError: The URL, or a folder in a class folder, cannot be listed.
    """
    store = open_store(url)
    objects = [item for item in store.list() if not is_hidden(item.key)]
    tops = _folders(objects, "")
    roots = [f"{name}/" for name in splits]
    if tuple(splits) == ("test",) and "test" not in tops and tops & set(CLASSES):
        roots = [""]
    else:
        _check_level(store.url, objects, tops)
        _check_folders(store.url, objects, "", "split", allowed=SPLITS, needed=splits)
    for root in roots:
        _check_folders(store.url, objects, root, "class", allowed=CLASSES, needed=CLASSES)
    inside = tuple(f"{root}{name}/" for root in roots for name in CLASSES)
    images = tuple(item for item in objects if item.key.startswith(inside))
    for folder in images:
        if folder.key.endswith("/") and folder.problem and not folder.size:
            raise StorageError(f"{store.url}/{folder.key} cannot be listed: {folder.problem}.")
    entries = [(item.key, item.size, item.problem or item.etag) for item in images]
    known = metadata.read(store, objects, ["", *(f"{split}/" for split in SPLITS)])
    described = [sorted(known.rows.items()), known.names] if known.names else []
    fingerprint = digest([store.url, list(splits), entries, SETTINGS, *described])
    return Listing(store.url, images, fingerprint, known)


def is_hidden(key: str) -> bool:
    """Return whether a file is hidden, or one of those that systems add to folders, archives and buckets."""
    parts = key.split("/")
    junk = parts[-1].lower() in _JUNK or parts[-1].endswith("_$folder$")  # Hadoop's marker of a folder
    return junk or any(part in _JUNK_FOLDERS or (part.startswith(".") and part not in (".", "..")) for part in parts)


def _folders(objects: Sequence[Object], root: str) -> set[str]:
    """Return the names of the folders directly below `root` ("" or "train/")."""
    below = (item.key[len(root) :] for item in objects if item.key.startswith(root))
    return {key.split("/")[0] for key in below if "/" in key}


def _check_level(url: str, objects: Sequence[Object], tops: set[str]) -> None:
    """Raise DataError with the right URL if the data set is above or below this one, or lacks its splits."""
    names = {name.lower() for name in tops}
    if names.intersection(SPLITS):
        return
    parts = url.removeprefix("s3://").lower().split("/")
    if names.intersection(CLASSES):
        if parts[-1] in SPLITS and len(parts) > 1:
            raise DataError(f"{url} is only a part of a data set; give {url.rsplit('/', 1)[0]}.")
        raise DataError(f"{url} has {' and '.join(CLASSES)}, but not in {' and '.join(SPLITS)}; {_LAYOUT}.")
    if parts[-1] in CLASSES and len(parts) > 2 and parts[-2] in SPLITS:
        raise DataError(f"{url} is only a part of a data set; give {url.rsplit('/', 2)[0]}.")
    below = sorted({match[1] for item in objects if (match := _SPLIT_AND_CLASS.match(item.key))})
    if below:
        places = " or ".join(f"{url}/{folder}" for folder in below[:3])
        raise DataError(f"{url} is not the data set but holds it; give {places}.")


def _check_folders(
    url: str, objects: Sequence[Object], root: str, kind: str, allowed: Sequence[str], needed: Sequence[str]
) -> None:
    """Raise DataError if a folder below `root` has a name that is not allowed, or if a needed one is missing."""
    readable = [item for item in objects if not item.problem]  # an odd key outside the class folders does no harm
    for name in sorted(_folders(readable, root).difference(allowed)):
        choice = get_close_matches(name.lower(), allowed, n=1) or allowed
        remedy = f"rename it to {' or '.join(choice)}, or move it elsewhere"
        if kind == "split" and name.lower().startswith(("val", "dev")):
            remedy = "move its images into train, from which the images for validation are taken, or move it elsewhere"
        raise DataError(f"{url}/{root} has a folder '{name}', which is not a {kind}; {remedy}.")
    for name in needed:
        if name not in _folders(objects, root):
            raise DataError(f"{url}/{root} has no images in a folder '{name}'; {_LAYOUT}.")
