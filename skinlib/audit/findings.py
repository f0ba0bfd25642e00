"""Problems of a data set that spoil training or evaluation: duplicates, leakage, wrong labels, tell-tale colours."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from skinlib.audit import shortcut
from skinlib.audit.lesions import Found
from skinlib.data.manifest import CLASSES, SPLITS, Counts
from skinlib.data.packing import PackedDataset
from skinlib.data.split import number_groups
from skinlib.errors import DataError

Statistics = dict[str, dict[str, dict[str, float]]]  # by split, class and name from `shortcut.STATISTICS`
Pairs = list[tuple[str, str]]  # of keys such as train/benign/1.jpg


class AuditSummary(TypedDict):
    """The artifact `audit`: what was found, as plain values; every list of pairs is sorted."""

    exact_duplicates: Pairs  # images with identical pixels
    same_lesions: Pairs  # images that show the same lesion, without the identical ones
    leaks: Pairs  # duplicates of both kinds across the splits, the key in train first
    label_conflicts: Pairs  # images with identical pixels in different classes
    doubtful_labels: Pairs  # images of the same lesion in different classes
    counts: Counts  # images by split and class
    statistics: Statistics  # means over the images, in 0..1; classes without images are left out
    n_groups: int  # images, if all duplicates of an image count as one


@dataclass(frozen=True)
class Audit:
    """What was found, and arrays for N images.

    Attributes:
        summary: As plain values.
        groups: int64 (N,), equal for images that a chain of duplicates or equal metadata joins; numbered from 0 in the
            order of the keys.
        twins: bool (N,), True for test images whose group has images in train.
        colours: float64 (N, 6), from `shortcut.colours`.
    """

    summary: AuditSummary
    groups: NDArray[np.int64]
    twins: NDArray[np.bool_]
    colours: NDArray[np.float64]

    def refuse_conflicts(self) -> None:
        """Raise DataError if identical images are in different classes."""
        if conflicts := self.summary["label_conflicts"]:
            named, n = "; ".join(f"{a} and {b}" for a, b in conflicts[:3]), len(conflicts)
            raise DataError(
                f"{n:,} pair{'s' if n > 1 else ''} of identical images are in different classes, such as {named}; "
                "remove the wrong one of each pair, or both."
            )


def audit_images(packed: PackedDataset, found: Found, group_by: Sequence[str] = ()) -> Audit:
    """Sort out what the search for the same lesions found in a packed data set, and measure its colours.

    Args:
        packed: The whole data set, train and test.
        found: From `lesions.search`.
        group_by: Columns of its metadata; images with an equal value in one of them belong to one group.
    """
    keys, splits, labels = packed.manifest.keys, packed.manifest.splits, packed.manifest.labels
    exact, every = found["identical"], found["same_lesions"]
    near = sorted(set(every).difference(exact))
    leaks = [pair if splits[pair[0]] == "train" else pair[::-1] for pair in every if splits[pair[0]] != splits[pair[1]]]
    linked = [pair for name in group_by for pair in _equal(packed.manifest.metadata[name])]
    groups, in_train = _components([*every, *linked], len(keys)), np.array(splits) == "train"
    colours = shortcut.colours(packed.images)

    def named(pairs: Sequence[tuple[int, int]]) -> Pairs:
        return sorted((keys[i], keys[j]) for i, j in pairs)

    summary: AuditSummary = {
        "exact_duplicates": named(exact),
        "same_lesions": named(near),
        "leaks": named(leaks),
        "label_conflicts": named([(i, j) for i, j in exact if labels[i] != labels[j]]),
        "doubtful_labels": named([(i, j) for i, j in near if labels[i] != labels[j]]),
        "counts": packed.manifest.summary()["counts"],
        "statistics": _statistics(colours, np.array(splits), packed.labels),
        "n_groups": len(np.unique(groups)),
    }
    return Audit(summary, groups, ~in_train & np.isin(groups, groups[in_train]), colours)


def by_reason(rejected: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Group the keys of rejected files by reason, without its details, such as sizes; the most frequent first."""
    keys: dict[str, list[str]] = {}
    for key, reason in rejected:
        keys.setdefault(re.split(r" \(|: ", reason)[0], []).append(key)
    return dict(sorted(keys.items(), key=lambda item: -len(item[1])))


def _equal(values: Sequence[str]) -> list[tuple[int, int]]:
    """Pair each image with the next one of the same value, "" excepted."""
    last: dict[str, int] = {}
    pairs = []
    for index, value in enumerate(values):
        if value in last:
            pairs.append((last[value], index))
        if value:
            last[value] = index
    return pairs


def _components(pairs: Sequence[tuple[int, int]], n: int) -> NDArray[np.int64]:
    """Number the connected components of a graph in the order of their first members, int64 (n,)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ends = np.array(pairs, np.int64).reshape(-1, 2).T
    _, component = connected_components(coo_array((np.ones(ends.shape[1]), ends), shape=(n, n)), directed=False)
    return number_groups(component)


def _statistics(colours: NDArray[np.float64], splits: NDArray[np.str_], labels: NDArray[np.int64]) -> Statistics:
    """Average the colour statistics over each class of each split, where it has images."""
    out: Statistics = {}
    for split in SPLITS:
        for label, name in enumerate(CLASSES):
            chosen = (splits == split) & (labels == label)
            if chosen.any():
                means = colours[chosen].mean(axis=0).tolist()
                out.setdefault(split, {})[name] = dict(zip(shortcut.STATISTICS, means, strict=True))
    return out
