"""Lists the image files below a URL, by split and class, without reading them."""

from collections.abc import Sequence
from dataclasses import dataclass

from skinlib.data.images import SETTINGS
from skinlib.data.manifest import CLASSES, SPLITS, digest
from skinlib.data.storage import Object, open_store
from skinlib.errors import DataError


@dataclass(frozen=True)
class Listing:
    """The image files below a URL, not yet read.

    Attributes:
        url: The bucket's prefix or the folder.
        objects: Sorted by key, without hidden files.
        fingerprint: SHA-256 over URL, splits, keys, sizes, ETags and decode settings, in hex.
    """

    url: str
    objects: tuple[Object, ...]
    fingerprint: str


def list_images(url: str, splits: Sequence[str] = SPLITS) -> Listing:
    """List the files of a data set and check its folders.

    Hidden files and files outside the class folders are ignored. Subfolders of a class folder belong to the class.

    Args:
        url: A bucket's prefix or a folder that contains train/ and test/, each with benign/ and malignant/.
        splits: The splits to list. With ("test",) the URL may also contain benign/ and malignant/ directly.

    Raises:
        DataError: A split or a class is missing or empty, or a folder is neither.
        StorageError: The URL cannot be listed.
    """
    store = open_store(url)
    objects = [item for item in store.list() if not is_hidden(item.key)]
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
    return Listing(store.url, images, digest([store.url, list(splits), entries, SETTINGS]))


def is_hidden(key: str) -> bool:
    """Return whether a file is hidden, or one of those that operating systems add to folders and archives."""
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
    """Raise DataError if a folder below `root` has a name that is not allowed, or if a needed one is missing."""
    found = _folders(objects, root)
    for name in sorted(found.difference(allowed)):
        remedy = f"rename it to {' or '.join(allowed)}, or move it elsewhere"
        raise DataError(f"{url}/{root} has a folder '{name}', which is not a {kind}; {remedy}.")
    for name in needed:
        if name not in found:
            layout = f"a data set needs {' and '.join(SPLITS)}, each with {' and '.join(CLASSES)}"
            raise DataError(f"{url}/{root} has no images in a folder '{name}'; {layout}.")
