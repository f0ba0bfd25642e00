"""The manifest: the contents of a data set, with a hash that identifies the data in every place."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from skinlib.data.traces import TraceColumns

CLASSES = ("benign", "malignant")
SPLITS = ("train", "test")

Counts = dict[str, dict[str, int]]  # images by split and class


class RejectedFile(TypedDict):
    """A file that cannot be used."""

    key: str
    reason: str


class MetadataColumn(TypedDict):
    """What a column of `metadata.csv` contains: images with a value, and different values."""

    known: int
    distinct: int


class ManifestSummary(TypedDict):
    """The artifact `manifest`: the data of a run."""

    hash: str
    n_images: int
    counts: Counts
    rejected: list[RejectedFile]
    metadata: dict[str, MetadataColumn]  # by column


@dataclass(frozen=True)
class Manifest:
    """The contents of a data set, as parallel tuples sorted by key.

    Attributes:
        keys: Paths below the data set's URL.
        sizes: Size of each file in bytes.
        labels: Indices into CLASSES.
        splits: "train" or "test".
        sha256: SHA-256 of each file's bytes, in hex.
        rejected: (key, reason) of the files that cannot be used; not part of the hash.
        metadata: Values from `metadata.csv` by column, "" where unknown.
        traces: How each file was saved, by field of `FileTraces`; not part of the hash.
    """

    keys: tuple[str, ...]
    sizes: tuple[int, ...]
    labels: tuple[int, ...]
    splits: tuple[str, ...]
    sha256: tuple[str, ...]
    rejected: tuple[tuple[str, str], ...] = ()
    metadata: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    traces: TraceColumns = field(default_factory=dict)

    @cached_property
    def hash(self) -> str:
        """SHA-256 over key, size, class, split, SHA-256 and metadata of all images, in hex."""
        classes = [CLASSES[label] for label in self.labels]
        files = list(zip(self.keys, self.sizes, classes, self.splits, self.sha256, strict=True))
        return digest([files, sorted(self.metadata.items())] if self.metadata else files)

    @property
    def fingerprints(self) -> NDArray[np.uint64]:
        """The first 64 bits of each image's SHA-256, uint64 (N,)."""
        return np.array([int(value[:16], 16) for value in self.sha256], np.uint64)

    def column(self, name: str | None) -> NDArray[np.str_]:
        """Return a column of the metadata, str (N,); without a name, all values are unknown."""
        return np.array(self.metadata[name] if name else [""] * len(self.keys), np.str_)

    def described(self, index: NDArray[np.int64]) -> dict[str, list[str]]:
        """Return the metadata of some images, by column."""
        return {name: [values[i] for i in index] for name, values in self.metadata.items()}

    def summary(self) -> ManifestSummary:
        """Return hash, number of images, counts, rejected files and metadata columns as plain values."""
        counts = Counter(zip(self.splits, self.labels, strict=True))
        return {
            "hash": self.hash,
            "n_images": len(self.keys),
            "counts": {s: {name: counts[s, label] for label, name in enumerate(CLASSES)} for s in SPLITS},
            "rejected": [{"key": key, "reason": reason} for key, reason in self.rejected],
            "metadata": {
                name: {"known": len(values) - values.count(""), "distinct": len(set(values) - {""})}
                for name, values in self.metadata.items()
            },
        }

    @classmethod
    def from_columns(cls, columns: Mapping[str, Any]) -> "Manifest":
        """Make a manifest from its attributes as lists, such as JSON gives them."""
        tables = ("metadata", "traces")
        attributes: dict[str, Any] = {name: tuple(column) for name, column in columns.items() if name not in tables}
        attributes["rejected"] = tuple((key, reason) for key, reason in attributes["rejected"])
        for table in tables:
            attributes[table] = {name: tuple(values) for name, values in columns[table].items()}
        return cls(**attributes)


def split_and_label(key: str) -> tuple[str, int]:
    """Return an image's split and label; without a split's folder, the split is "test"."""
    first, second = key.split("/")[:2]
    return (first, CLASSES.index(second)) if first in SPLITS else ("test", CLASSES.index(first))


def sealed(value: object) -> bytes:
    """Return a plain value as JSON, with its digest."""
    return json.dumps([value, digest(value)]).encode()


def unsealed(data: bytes) -> Any:
    """Return the value of `sealed`, with lists for tuples; ValueError if the bytes have changed."""
    try:
        value, check = json.loads(data)
    except TypeError as error:
        raise ValueError("it is no list") from error
    if check != digest(value):
        raise ValueError("its checksum is wrong")
    return value


def digest(value: object) -> str:
    """Return the SHA-256 of a plain value, in hex."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
