"""What a data set consists of: the manifest, whose hash names the data wherever the files are."""

import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TypedDict

CLASSES = ("benign", "malignant")
SPLITS = ("train", "test")

Counts = dict[str, dict[str, int]]  # images by split and class


class RejectedFile(TypedDict):
    """A file that cannot be used."""

    key: str
    reason: str


class ManifestSummary(TypedDict):
    """The artifact `manifest`: what a run says about its data."""

    hash: str
    n_images: int
    counts: Counts
    rejected: list[RejectedFile]


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
        return digest(list(zip(self.keys, self.sizes, classes, self.splits, self.sha256, strict=True)))

    def summary(self) -> ManifestSummary:
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


def place(key: str) -> tuple[str, int]:
    """Return an image's split and label; an image in no split's folder is for test."""
    first, second = key.split("/")[:2]
    return (first, CLASSES.index(second)) if first in SPLITS else ("test", CLASSES.index(first))


def digest(value: object) -> str:
    """Return the SHA-256 of a plain value, in hex."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
