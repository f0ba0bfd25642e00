"""Which image files a URL holds, by split and class; no file is read here."""

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
        url: Where they lie.
        objects: Sorted by key, hidden files left out.
        fingerprint: SHA-256 over URL, splits, keys, sizes, ETags and decode settings, in hex.
    """

    url: str
    objects: tuple[Object, ...]
    fingerprint: str


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
