"""Metrics of a binary classifier: how each is computed, and when it is undefined."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

from skinlib.evaluation import intervals

SENSITIVITIES = SPECIFICITIES = (0.9, 0.95)
_THRESHOLDS = np.arange(1, 100) / 100


class Metrics(TypedDict):
    """The artifact `test_metrics`: the main metrics without intervals, in 0..1; None where undefined."""

    n: int
    n_malignant: int
    threshold: float
    auroc: float | None
    accuracy: float | None
    sensitivity: float | None  # share of the malignant images that are classified as malignant
    specificity: float | None  # share of the benign images that are classified as benign


class DecisionCurve(TypedDict):
    """Net benefit at each threshold, in true positives per image; it is 0 if no image is classified as malignant."""

    threshold: list[float]  # 0.01, 0.02 ... 0.99
    model: list[float]
    all_malignant: list[float]  # of classifying every image as malignant


def auroc(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float | None:
    """Area under the ROC curve; None if a class is absent, because it is undefined then."""
    from sklearn.metrics import roc_auc_score

    if len(np.unique(labels)) < 2:
        return None
    return float(roc_auc_score(labels, probabilities))


def binary_metrics(labels: NDArray[np.int64], probabilities: NDArray[np.float64], threshold: float = 0.5) -> Metrics:
    """Compare probabilities of malignancy with the labels.

    Args:
        labels: int (N,), 1 is malignant.
        probabilities: float (N,) in 0..1.
        threshold: images with this probability or a higher one are classified as malignant.
    """
    malignant, positive = labels == 1, probabilities >= threshold

    def share(hits: NDArray[np.bool_]) -> float | None:
        return float(hits.mean()) if hits.size else None

    return {
        "n": int(malignant.size),
        "n_malignant": int(malignant.sum()),
        "threshold": float(threshold),
        "auroc": auroc(labels, probabilities),
        "accuracy": share(positive == malignant),
        "sensitivity": share(positive[malignant]),
        "specificity": share(~positive[~malignant]),
    }


def decision_curve(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> DecisionCurve:
    """Compute the net benefit of a model (Vickers and Elkin 2006, doi:10.1177/0272989X06295361).

    With TP true and FP false positives among N images, the net benefit at threshold t is TP / N - FP / N * t / (1 - t).
    Whoever chooses t thinks that one missed melanoma is as bad as (1 - t) / t false alarms.
    """
    malignant = labels == 1
    positive = (probabilities[:, np.newaxis] >= _THRESHOLDS).astype(np.float64)
    odds = _THRESHOLDS / (1 - _THRESHOLDS)
    model = (malignant @ positive - odds * (~malignant @ positive)) / len(malignant)
    all_malignant = malignant.mean() - odds * (~malignant).mean()
    return {"threshold": _THRESHOLDS.tolist(), "model": model.tolist(), "all_malignant": all_malignant.tolist()}


class Ranking:
    """Images in order of falling score, to count the positives at every threshold in many resamples at once.

    >>> ranking = Ranking(labels=np.array([1, 0, 1, 0]), scores=np.array([0.9, 0.5, 0.5, 0.1]))
    >>> once_each, resample = [1, 1, 1, 1], [0, 2, 1, 1]  # how often each image was drawn
    >>> positives = ranking.positives(np.array([once_each, resample], dtype=float))
    >>> positives.true  # at the thresholds 0.9, 0.5 and 0.1
    array([[1., 2., 2.],
           [0., 1., 1.]])
    >>> positives.false
    array([[0., 1., 2.],
           [0., 2., 3.]])
    >>> positives.sensitivity_at([1.0, 0.5])
    array([[0.5, 1. ],
           [0. , 0. ]])
    """

    def __init__(self, labels: NDArray[np.int64], scores: NDArray[np.float64]) -> None:
        self._order = np.argsort(-scores, kind="stable")
        self._malignant = (labels == 1)[self._order]
        # Images with equal scores become positive together, so only the last of them counts.
        self._last = np.flatnonzero(np.diff(scores[self._order], append=-np.inf))

    def positives(self, weights: NDArray[np.float64]) -> "Positives":
        """Count positives at each distinct score.

        Args:
            weights: float (B, N), how often each image occurs in each of B resamples.
        """
        ranked = weights[:, self._order]
        true = np.cumsum(ranked * self._malignant, axis=1)[:, self._last]
        return Positives(true, np.cumsum(ranked, axis=1)[:, self._last] - true)


@dataclass(frozen=True)
class Positives:
    """Numbers of images classified as malignant at each of U thresholds, from the highest down, in B resamples.

    At the lowest threshold, in the last column, every image is positive. All metrics are NaN where undefined.

    Attributes:
        true: float (B, U), how many of them are malignant.
        false: float (B, U), how many of them are benign.
    """

    true: NDArray[np.float64]
    false: NDArray[np.float64]

    def auroc(self) -> NDArray[np.float64]:
        """Area under the ROC curve (B,)."""
        # A benign image ranks below the malignant ones with a higher score and, counted as half, those with the same.
        above = self.true - np.diff(self.true, prepend=0) / 2
        with np.errstate(invalid="ignore"):
            pairs = (above * np.diff(self.false, prepend=0)).sum(axis=1)
            return np.asarray(pairs / (self.true[:, -1] * self.false[:, -1]))

    def average_precision(self) -> NDArray[np.float64]:
        """Average precision (B,); undefined without benign images, since any model would reach 1."""
        precision = self.true / np.maximum(self.true + self.false, 1)
        with np.errstate(invalid="ignore"):
            average = (np.diff(self.true, prepend=0) * precision).sum(axis=1) / self.true[:, -1]
        return np.where(self.false[:, -1] > 0, average, np.nan)

    def sensitivity_at(self, specificities: Sequence[float]) -> NDArray[np.float64]:
        """Highest sensitivity (B, K) of the thresholds with at least each of K specificities, not interpolated."""
        n_malignant, n_benign = self.true[:, -1:], self.false[:, -1:]
        allowed = np.floor((1 - np.asarray(specificities)) * n_benign + 1e-9)
        n_thresholds = _search_rows(self.false, allowed, "right")
        from_none = np.pad(self.true, ((0, 0), (1, 0)))  # column i: at the i-th highest threshold; 0: no positives
        with np.errstate(invalid="ignore"):
            reached = np.take_along_axis(from_none, n_thresholds, axis=1) / n_malignant
        return np.where(n_benign > 0, reached, np.nan)

    def specificity_at(self, sensitivities: Sequence[float]) -> NDArray[np.float64]:
        """Highest specificity (B, K) of the thresholds with at least each of K sensitivities, not interpolated."""
        n_malignant, n_benign = self.true[:, -1:], self.false[:, -1:]
        needed = np.ceil(np.asarray(sensitivities) * n_malignant - 1e-9)
        highest = _search_rows(self.true, needed, "left")
        with np.errstate(invalid="ignore"):
            reached = 1 - np.take_along_axis(self.false, highest, axis=1) / n_benign
        return np.where(n_malignant > 0, reached, np.nan)


def _search_rows(
    rows: NDArray[np.float64], values: NDArray[np.float64], side: Literal["left", "right"]
) -> NDArray[np.intp]:
    """Apply `np.searchsorted` to each sorted row (U,) of (B, U) with its own values (K,)."""
    return np.stack([np.searchsorted(row, wanted, side) for row, wanted in zip(rows, values, strict=True)])


def auroc_estimate(
    labels: NDArray[np.int64], probabilities: NDArray[np.float64], groups: NDArray[np.int64], seed: int = 0
) -> intervals.Estimate:
    """Area under the ROC curve with its interval from a bootstrap over groups, as in `scores.build_report`."""
    ranking = Ranking(labels, probabilities)
    drawn = intervals.bootstrap(lambda weights: {"auroc": ranking.positives(weights).auroc()}, groups, seed)
    return intervals.estimate(*drawn["auroc"])
