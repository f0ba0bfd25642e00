"""What is wrong with a data set before anything is learnt from it: copies, leaks, labels, tell-tale colours."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from skinlib.audit import duplicates, shortcut
from skinlib.data.manifest import CLASSES, SPLITS, Counts
from skinlib.data.packing import PackedDataset
from skinlib.data.split import number_groups
from skinlib.errors import DataError
from skinlib.progress import Progress, silent

Statistics = dict[str, dict[str, dict[str, float]]]  # by split, class and name, from shortcut.STATISTICS
Pairs = list[tuple[str, str]]  # of keys relative to the data set's root, such as train/benign/1.jpg

class AuditSummary(TypedDict):
    """The artifact `audit`: an `Audit` without its arrays."""

    exact_duplicates: Pairs
    near_duplicates: Pairs
    leaks: Pairs
    label_conflicts: Pairs
    doubtful_labels: Pairs
    counts: Counts
    statistics: Statistics
    n_groups: int


_ARRAYS = ("groups", "twins", "colours")


@dataclass(frozen=True)
class Audit:
    """What was found; every list of pairs is sorted.

    Attributes:
        exact_duplicates: Images of identical pixels.
        near_duplicates: Images that show the same lesion in nearly the same photograph, without the identical ones.
        leaks: Pairs of either kind across the splits, the key in train first.
        label_conflicts: Images of identical pixels in both classes.
        doubtful_labels: Near-duplicates in both classes.
        counts: By split and class.
        statistics: By split, class and name (`shortcut.STATISTICS`), the mean over the images, in 0..1; a class
            without images is left out.
        groups: int64 (N,), equal for images that a chain of duplicates joins; numbered from 0 in the order of the keys.
        twins: bool (N,), images in test whose group reaches into train.
        colours: float64 (N, 6), from `shortcut.colours`.
    """

    exact_duplicates: Pairs
    near_duplicates: Pairs
    leaks: Pairs
    label_conflicts: Pairs
    doubtful_labels: Pairs
    counts: dict[str, dict[str, int]]
    statistics: dict[str, dict[str, dict[str, float]]]
    groups: NDArray[np.int64]
    twins: NDArray[np.bool_]
    colours: NDArray[np.float64]

    @property
    def n_groups(self) -> int:
        """How many different images there are, if duplicates count as one."""
        return len(np.unique(self.groups))

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the arrays as plain values, and `n_groups`."""
        return {k: v for k, v in vars(self).items() if k not in _ARRAYS} | {"n_groups": self.n_groups}

    def to_text(self, shortcut_auroc: float | None, limit: int = 20) -> str:
        """Say the same to a reader, naming `limit` pairs of each kind."""
        lines = [f"{len(self.groups):,} images, {self.n_groups:,} if near-duplicates count as one", ""]
        lines += [f"{'':8}" + "".join(f"{name:>12}" for name in CLASSES)]
        lines += [f"{s:8}" + "".join(f"{self.counts[s][name]:12,}" for name in CLASSES) for s in SPLITS]
        for title, pairs in (
            ("Identical", self.exact_duplicates),
            ("Nearly identical", self.near_duplicates),
            ("Either, across train and test", self.leaks),
            ("Identical, in both classes", self.label_conflicts),
            ("Nearly identical, in both classes", self.doubtful_labels),
        ):
            lines += ["", f"{title}: {_count(pairs)}", *(f"  {a}  {b}" for a, b in pairs[:limit])]
            lines += [f"  and {len(pairs) - limit:,} more, which --json names"] if len(pairs) > limit else []
        lines += ["", f"{'Mean over the images, of 1':28}" + "".join(f"{s + ' ' + c:>18}" for s, c in self._classes())]
        for name in shortcut.STATISTICS:
            values = (self.statistics[s][c][name] for s, c in self._classes())
            lines += [f"  {name:26}" + "".join(f"{value:18.3f}" for value in values)]
        auroc = console.number(shortcut_auroc)
        lines += [
            "",
            f"Colour alone, learnt on train, tells the classes of test apart with AUROC {auroc} (0.5 is chance):",
        ]
        lines += ["what a model must surpass before it has learnt anything of lesions."]
        return "\n".join(lines)

    def refuse_conflicts(self) -> None:
        """Raise DataError if identical images have different labels."""
        if self.label_conflicts:
            named = "; ".join(f"{a} and {b}" for a, b in self.label_conflicts[:3])
            raise DataError(
                f"{_count(self.label_conflicts)} of identical images stand in both classes, first {named}; "
                "remove the wrong one of each, or both."
            )

    def _classes(self) -> list[tuple[str, str]]:
        return [(split, name) for split in self.statistics for name in self.statistics[split]]


def audit_images(packed: PackedDataset, on_progress: Progress = silent) -> Audit:
    """Look for duplicates in a packed set, and at its colours.

    Args:
        packed: The whole data set, train and test.
        on_progress: Called with (images searched, all distinct images) now and then, and at the end.
    """
    keys, splits, labels = packed.manifest.keys, packed.manifest.splits, packed.manifest.labels
    exact = duplicates.identical(packed.images)
    every = duplicates.near(packed.images, on_progress)
    near = sorted(set(every).difference(exact))
    leaks = [pair if splits[pair[0]] == "train" else pair[::-1] for pair in every if splits[pair[0]] != splits[pair[1]]]
    groups, in_train = _components(every, len(keys)), np.array(splits) == "train"
    colours = shortcut.colours(packed.images)

    def named(pairs: Sequence[tuple[int, int]]) -> Pairs:
        return sorted((keys[i], keys[j]) for i, j in pairs)

    return Audit(
        exact_duplicates=named(exact),
        near_duplicates=named(near),
        leaks=named(leaks),
        label_conflicts=named([(i, j) for i, j in exact if labels[i] != labels[j]]),
        doubtful_labels=named([(i, j) for i, j in near if labels[i] != labels[j]]),
        counts=packed.manifest.summary()["counts"],
        statistics=_statistics(colours, np.array(splits), packed.labels),
        groups=groups,
        twins=~in_train & np.isin(groups, groups[in_train]),
        colours=colours,
    )


def _components(pairs: Sequence[tuple[int, int]], n: int) -> NDArray[np.int64]:
    """Number the connected components of a graph in the order of their first members: int64 (n,)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ends = np.array(pairs, np.int64).reshape(-1, 2).T
    _, component = connected_components(coo_array((np.ones(ends.shape[1]), ends), shape=(n, n)), directed=False)
    return number_groups(component)


def _statistics(
    colours: NDArray[np.float64], splits: NDArray[np.str_], labels: NDArray[np.int64]
) -> dict[str, dict[str, dict[str, float]]]:
    """Average the colours of each class of each split that has images."""
    out: dict[str, dict[str, dict[str, float]]] = {}
    for split in SPLITS:
        for label, name in enumerate(CLASSES):
            chosen = (splits == split) & (labels == label)
            if chosen.any():
                means = colours[chosen].mean(axis=0).tolist()
                out.setdefault(split, {})[name] = dict(zip(shortcut.STATISTICS, means, strict=True))
    return out


def _count(pairs: Pairs) -> str:
    return "1 pair" if len(pairs) == 1 else f"{len(pairs):,} pairs" if pairs else "none"
