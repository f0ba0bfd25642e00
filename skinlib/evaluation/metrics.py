"""Metrics of a binary classifier: how each is computed, and when it is undefined."""

import math
from collections.abc import Sequence
from typing import Literal, TypedDict

import numpy as np

from skinlib.evaluation import intervals

SENSITIVITIES = SPECIFICITIES = (0.9, 0.95)
_THRESHOLDS = np.arange(1, 100) / 100


class Metrics(TypedDict):
    """The artifact `test_metrics`: the main figures without intervals; None where undefined."""

    n: int
    n_malignant: int
    threshold: float
    auroc: float | None
    accuracy: float | None
    sensitivity: float | None
    specificity: float | None


class DecisionCurve(TypedDict):
    """Net benefit by threshold, in true positives per image; classifying no image as malignant has net benefit 0."""

    threshold: list[float]
    model: list[float]
    all_malignant: list[float]


def auroc(labels: np.ndarray, probabilities: np.ndarray) -> float | None:
    """Area under the ROC curve, or None where one class is absent and it is undefined."""
    from sklearn.metrics import roc_auc_score

    if len(np.unique(labels)) < 2:
        return None
    return float(roc_auc_score(labels, probabilities))


def binary_metrics(labels: np.ndarray, probabilities: np.ndarray, threshold: float = 0.5) -> Metrics:
    """Score probabilities of malignancy against the truth.

    Args:
        labels: int (N,), 1 is malignant.
        probabilities: float (N,) in 0..1.
        threshold: a probability at or above it is called malignant.

    Returns:
        `n`, `n_malignant`, `threshold`, `auroc`, `accuracy`, `sensitivity` (share of the malignant that are
        called so), `specificity` (share of the benign that are called so); None where undefined.
    """
    malignant = np.asarray(labels) == 1
    called = np.asarray(probabilities) >= threshold

    def share(of: np.ndarray) -> float | None:
        return float(of.mean()) if of.size else None

    return {
        "n": int(malignant.size),
        "n_malignant": int(malignant.sum()),
        "threshold": float(threshold),
        "auroc": auroc(labels, probabilities),
        "accuracy": share(called == malignant),
        "sensitivity": share(called[malignant]),
        "specificity": share(~called[~malignant]),
    }


def operating_threshold(labels: np.ndarray, probabilities: np.ndarray, sensitivity: float = 0.95) -> float:
    """Find the highest threshold that calls at least this share of the malignant images malignant.

    Args:
        labels: int (N,), 1 is malignant, of which there is at least one; of validation images.
        probabilities: float (N,) in 0..1, as they are served.
        sensitivity: wanted, above 0, at most 1.
    """
    malignant = np.sort(np.asarray(probabilities)[np.asarray(labels) == 1])[::-1]
    return float(malignant[math.ceil(sensitivity * len(malignant) - 1e-9) - 1])


def decision_curve(labels: np.ndarray, probabilities: np.ndarray) -> DecisionCurve:
    """Net benefit of acting on a model, by the threshold at which one acts (Vickers and Elkin 2006).

    At a threshold t one thinks (1 - t) / t false alarms as bad as one missed melanoma; the benefit is in true
    positives per image (doi:10.1177/0272989X06295361). Acting on no image has none.

    Returns:
        `threshold`, 0.01, 0.02 ... 0.99, and the benefit at each of the `model` and of taking `all_malignant`.
    """
    malignant = np.asarray(labels) == 1
    called = (np.asarray(probabilities)[:, np.newaxis] >= _THRESHOLDS).astype(np.float64)
    odds = _THRESHOLDS / (1 - _THRESHOLDS)
    model = (malignant @ called - odds * (~malignant @ called)) / len(malignant)
    everything = malignant.mean() - odds * (~malignant).mean()
    return {"threshold": _THRESHOLDS.tolist(), "model": model.tolist(), "all_malignant": everything.tolist()}


class Ranking:
    """Images by falling score. It counts the calls at every threshold in many weighted copies of them at once."""

    def __init__(self, labels: np.ndarray, scores: np.ndarray) -> None:
        self._order = np.argsort(-np.asarray(scores), kind="stable")
        self._malignant = (np.asarray(labels) == 1)[self._order]
        # Images with the same score are called together.
        self._last = np.flatnonzero(np.diff(np.asarray(scores)[self._order], append=-np.inf))

    def calls(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Malignant and benign images called malignant, each (B, U), at the U scores from the highest down.

        Args:
            weights: float (B, N), how often each image is there.
        """
        ranked = weights[:, self._order]
        malignant = np.cumsum(ranked * self._malignant, axis=1)[:, self._last]
        return malignant, np.cumsum(ranked, axis=1)[:, self._last] - malignant


def ranking_auroc(malignant: np.ndarray, benign: np.ndarray) -> np.ndarray:
    before, steps = np.diff(malignant, prepend=0), np.diff(benign, prepend=0)
    with np.errstate(invalid="ignore"):
        return ((malignant - before / 2) * steps).sum(axis=1) / (malignant[:, -1] * benign[:, -1])


def average_precision(malignant: np.ndarray, benign: np.ndarray) -> np.ndarray:
    precision = malignant / np.maximum(malignant + benign, 1)
    with np.errstate(invalid="ignore"):
        average = (np.diff(malignant, prepend=0) * precision).sum(axis=1) / malignant[:, -1]
    # Without a benign image it would be 1, whatever the model is.
    return np.where(benign[:, -1] > 0, average, np.nan)


def sensitivity_at(malignant: np.ndarray, benign: np.ndarray, specificities: Sequence[float]) -> np.ndarray:
    """Highest sensitivity (B, K) of a threshold that keeps each of K specificities; no point between thresholds."""
    allowed = np.floor((1 - np.asarray(specificities)) * benign[:, -1:] + 1e-9)
    found = np.pad(malignant, ((0, 0), (1, 0)))
    reached = np.take_along_axis(found, _count_rows(benign, allowed, "right"), axis=1)
    with np.errstate(invalid="ignore"):
        return np.where(benign[:, -1:] > 0, reached / malignant[:, -1:], np.nan)


def specificity_at(malignant: np.ndarray, benign: np.ndarray, sensitivities: Sequence[float]) -> np.ndarray:
    """Highest specificity (B, K) of a threshold that reaches each of K sensitivities."""
    needed = np.ceil(np.asarray(sensitivities) * malignant[:, -1:] - 1e-9)
    reached = np.take_along_axis(benign, _count_rows(malignant, needed, "left"), axis=1)
    with np.errstate(invalid="ignore"):
        return np.where(malignant[:, -1:] > 0, 1 - reached / benign[:, -1:], np.nan)


def _count_rows(rising: np.ndarray, bounds: np.ndarray, side: Literal["left", "right"]) -> np.ndarray:
    """Number (B, K) of entries in each row of (B, U) below its bounds (B, K), whole; for "right", or at them."""
    n_rows, n_columns = rising.shape
    row = np.arange(n_rows)[:, np.newaxis]
    apart = row * (rising.max() + 1)  # makes of all rows one that rises
    return np.searchsorted((rising + apart).ravel(), bounds + apart, side) - row * n_columns


def auroc_estimate(
    labels: np.ndarray, probabilities: np.ndarray, groups: np.ndarray, seed: int = 0
) -> intervals.Estimate:
    """Area under the ROC curve with its interval by a bootstrap over groups, as in `report`."""
    ranking = Ranking(labels, probabilities)
    drawn = intervals.bootstrap(lambda weights: {"auroc": ranking_auroc(*ranking.calls(weights))}, groups, seed)
    return intervals.estimate(*drawn["auroc"])
