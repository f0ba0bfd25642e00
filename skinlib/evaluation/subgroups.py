"""How a classifier fares within each source, and for each group of patients that the metadata describes."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from skinlib.evaluation import intervals
from skinlib.evaluation.intervals import Estimate
from skinlib.evaluation.metrics import Ranking, auroc_estimate

UNKNOWN, OTHER = "unknown", "other"
MOST_VALUES = 20  # of a column; one with more, such as a file name, describes no groups
FEWEST_IMAGES = 10  # of a value; rarer ones are put together
SIGNIFICANT = 0.05  # of p-values after Holm's correction


class SourceScores(TypedDict):
    """The images of one source."""

    source: str
    n: int
    n_malignant: int
    auroc: Estimate  # within the source; undefined if it has one class only
    against_all_benign: Estimate  # AUROC of its malignant images against the benign images of all sources


class Subgroup(TypedDict):
    """The images with one value in a column of the metadata, at the operating point.

    The p-values are those of Fisher's exact test against all other images, after Holm's correction for all tests of the
    report; None where a class is absent on one side.
    """

    column: str
    value: str
    n: int
    n_malignant: int
    sensitivity: Estimate
    specificity: Estimate
    p_sensitivity: float | None
    p_specificity: float | None


def within_source(
    labels: NDArray[np.int64], probabilities: NDArray[np.float64], sources: NDArray[np.str_]
) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """Prepare to compute how often a malignant image scores higher than a benign one of the same source.

    That is the mean of the sources' AUROCs, weighted by their number of such pairs. Unlike the plain AUROC, it gains
    nothing from telling the sources apart.

    Args:
        labels: int (N,), 1 is malignant.
        probabilities: float (N,) in 0..1.
        sources: str (N,).

    Returns:
        Maps weights, float (B, N), how often each image is drawn in each of B resamples, to float (B,).
    """
    parts = [np.flatnonzero(sources == each) for each in np.unique(sources)]
    rankings = [Ranking(labels[part], probabilities[part]) for part in parts]

    def auroc(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        won, pairs = np.zeros(len(weights)), np.zeros(len(weights))
        for part, ranking in zip(parts, rankings, strict=True):
            positives = ranking.positives(weights[:, part])
            of_source = positives.true[:, -1] * positives.false[:, -1]
            won += np.where(of_source > 0, np.nan_to_num(positives.auroc()) * of_source, 0)
            pairs += of_source
        with np.errstate(invalid="ignore"):
            return np.asarray(won / pairs)

    return auroc


def by_source(
    labels: NDArray[np.int64], probabilities: NDArray[np.float64], groups: NDArray[np.int64], sources: NDArray[np.str_]
) -> list[SourceScores]:
    """Score each source, the largest first.

    Args:
        labels: int (N,), 1 is malignant.
        probabilities: float (N,) in 0..1.
        groups: int (N,), equal for images that are resampled together.
        sources: str (N,).
    """

    def auroc(chosen: NDArray[np.bool_]) -> Estimate:
        return auroc_estimate(labels[chosen], probabilities[chosen], groups[chosen])

    malignant, rows = labels == 1, list[SourceScores]()
    for source in np.unique(sources):
        here = sources == source
        rows.append(
            {
                "source": str(source) or UNKNOWN,
                "n": int(here.sum()),
                "n_malignant": int(malignant[here].sum()),
                "auroc": auroc(here),
                "against_all_benign": auroc((here & malignant) | ~malignant),
            }
        )
    return sorted(rows, key=lambda row: -row["n"])


def subgroups(
    labels: NDArray[np.int64],
    positive: NDArray[np.bool_],
    groups: NDArray[np.int64],
    metadata: Mapping[str, Sequence[str]],
) -> list[Subgroup]:
    """Compare the decisions between the values of each column that has few.

    Args:
        labels: int (N,), 1 is malignant.
        positive: bool (N,), whether each image is classified as malignant.
        groups: int (N,), equal for images of the same lesion.
        metadata: N values by column, "" where unknown. Numbers are put together in tens.
    """
    malignant, correct, rows, p_values = labels == 1, positive == (labels == 1), list[Subgroup](), list[float | None]()
    for column, raw in metadata.items():
        values = _merged(raw)
        names = sorted(set(values.tolist()) - {""})
        if not names or len(names) > MOST_VALUES or (len(names) == 1 and "" not in values):
            continue
        for name in [*names, *([""] if "" in values else [])]:
            here = values == name
            rows.append(
                {
                    "column": column,
                    "value": name or UNKNOWN,
                    "n": int(here.sum()),
                    "n_malignant": int(malignant[here].sum()),
                    "sensitivity": intervals.share(correct[here & malignant], groups[here & malignant]),
                    "specificity": intervals.share(correct[here & ~malignant], groups[here & ~malignant]),
                    "p_sensitivity": None,
                    "p_specificity": None,
                }
            )
            # Of two values, the second comparison is the first one reversed.
            repeated = len(set(values.tolist())) == 2 and name != names[0]
            p_values += [None if repeated else _fisher(correct, here, of) for of in (malignant, ~malignant)]
    corrected = holm(p_values)
    for row, p_sensitivity, p_specificity in zip(rows, corrected[::2], corrected[1::2], strict=True):
        row["p_sensitivity"], row["p_specificity"] = p_sensitivity, p_specificity
    return rows


def _merged(raw: Sequence[str]) -> NDArray[np.str_]:
    """Put numbers together in tens, and values with few images as `OTHER`."""
    try:
        numbers = {value: float(value) for value in set(raw) - {""}}
        if not all(map(math.isfinite, numbers.values())):
            raise ValueError
    except ValueError:
        numbers = {}
    if len(numbers) > 2:
        tens = {value: int(number // 10 * 10) for value, number in numbers.items()}
        width = len(str(max(tens.values())))
        raw = [f"{tens[value]:>{width}} to {tens[value] + 9}" if value else "" for value in raw]
    counts = Counter(raw)
    if len(counts) > MOST_VALUES:
        return np.array(raw)
    return np.array([value if not value or counts[value] >= FEWEST_IMAGES else OTHER for value in raw])


def _fisher(correct: NDArray[np.bool_], here: NDArray[np.bool_], of: NDArray[np.bool_]) -> float | None:
    from scipy.stats import fisher_exact

    table = [[int((correct[of & side] == right).sum()) for right in (True, False)] for side in (here, ~here)]
    return float(fisher_exact(table).pvalue) if all(map(sum, table)) else None


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Correct p-values for many tests (Holm 1979, https://www.jstor.org/stable/4615733); None stays None."""
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    out, highest = list(p_values), 0.0
    for rank, (p, i) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - rank) * p))
        out[i] = highest
    return out
