"""Metrics of a binary classifier: what is reported, and when it is undefined."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from skinlib import calibration, intervals

SENSITIVITIES = SPECIFICITIES = (0.9, 0.95)
PREVALENCES = (0.02, 0.1, 0.45)  # about those of screening, of referrals, and of the images at hand
_FALSE_POSITIVE_RATES = [percent / 100 for percent in range(101)]
_THRESHOLDS = np.arange(1, 100) / 100


def auroc(labels: np.ndarray, probabilities: np.ndarray) -> float | None:
    """Area under the ROC curve, or None where one class is absent and it is undefined."""
    from sklearn.metrics import roc_auc_score

    if len(np.unique(labels)) < 2:
        return None
    return float(roc_auc_score(labels, probabilities))


def binary_metrics(labels: np.ndarray, probabilities: np.ndarray, threshold: float = 0.5) -> dict[str, Any]:
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


def auroc_estimate(
    labels: np.ndarray, probabilities: np.ndarray, groups: np.ndarray, seed: int = 0
) -> intervals.Estimate:
    """Area under the ROC curve with its interval by a bootstrap over groups, as in `report`."""
    ranking = _Ranking(labels, probabilities)
    drawn = intervals.bootstrap(lambda weights: {"auroc": _auroc(*ranking.calls(weights))}, groups, seed)
    return intervals.estimate(*drawn["auroc"])


def report(
    labels: np.ndarray,
    probabilities: np.ndarray,
    threshold: float,
    *,
    groups: np.ndarray,
    uncalibrated: np.ndarray | None = None,
    shortcut_probabilities: np.ndarray | None = None,
    twins: np.ndarray | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Report all that is known of a classifier on images that had no part in making it.

    Args:
        labels: int (N,), 1 is malignant.
        probabilities: float (N,) in 0..1, as they are served: after temperature scaling.
        threshold: a probability at or above it is called malignant; chosen on validation images.
        groups: int (N,), equal for near-duplicate images: these are resampled together.
        uncalibrated: float (N,), the probabilities before temperature scaling, if they are known.
        shortcut_probabilities: float (N,), what colour statistics alone give for the same images.
        twins: bool (N,), images that have a near-duplicate in the training set; None if nobody looked.
        seed: of the bootstrap.

    Returns:
        Plain values, ready for JSON. An ESTIMATE is `{"value": float | None, "interval": [low, high] | None}`; None
        stands for what is undefined. Intervals are of 95 %.

        {
            "threshold": float,
            "n_twins": int | None,  # images with a twin in the training set; None if nobody looked
            "all": SCORES,
            "without_twins": SCORES | None,  # the same without them; None if there are none or nobody looked
        }

        SCORES = {
            "n": int, "n_malignant": int, "n_groups": int,
            "auroc": ESTIMATE,
            "average_precision": ESTIMATE,
            "shortcut": None | {
                "auroc": ESTIMATE,
                "difference": ESTIMATE,  # model minus shortcut, paired (DeLong)
                "standard_error": float | None,  # of the difference
                "p": float | None,  # two-sided
            },
            "specificity_at_sensitivity": [{"sensitivity": 0.9, **ESTIMATE}, {"sensitivity": 0.95, **ESTIMATE}],
            "sensitivity_at_specificity": [{"specificity": 0.9, **ESTIMATE}, {"specificity": 0.95, **ESTIMATE}],
            "operating_point": {
                "threshold": float,
                "true_positives": int, "false_negatives": int, "true_negatives": int, "false_positives": int,
                "sensitivity": ESTIMATE, "specificity": ESTIMATE, "accuracy": ESTIMATE,
                "predictive_values": [  # at 2, 10 and 45 % prevalence
                    {"prevalence": 0.02, "ppv": ESTIMATE, "npv": ESTIMATE}, ...
                ],
            },
            "calibration": {  # "before" temperature scaling is None if `uncalibrated` is
                "before": CALIBRATION | None, "after": CALIBRATION,
            },
            "roc": {  # as many points as there are in "false_positive_rate", 0 to 1 in steps of 0.01
                "false_positive_rate": [float, ...],
                "sensitivity": [float, ...], "low": [float, ...], "high": [float, ...],  # band pointwise
            } | None,  # where a class is absent, or so rare that many resamples lack it
            "decision_curve": {  # net benefit by threshold 0.01, 0.02 ... 0.99, at the prevalence of these images
                "threshold": [float, ...], "model": [float, ...], "all_malignant": [float, ...],
            },  # calling none malignant has net benefit 0
        }

        CALIBRATION = {
            "brier": ESTIMATE,
            "ece": float | None,  # expected calibration error, 15 equal-width bins; it has no honest interval
            "ece_noise": float | None,  # 95 % of perfectly calibrated models would show less on as many images
            "bins": [  # of those 15 that hold images, in order
                {"predicted": float, "observed": float, "interval": [low, high], "n": int}, ...
            ],
        }
    """

    def scores(kept: np.ndarray) -> dict[str, Any]:
        return _scores(
            labels[kept],
            probabilities[kept],
            threshold,
            groups[kept],
            None if uncalibrated is None else uncalibrated[kept],
            None if shortcut_probabilities is None else shortcut_probabilities[kept],
            seed,
        )

    n_twins = None if twins is None else int(twins.sum())
    return {
        "threshold": float(threshold),
        "n_twins": n_twins,
        "all": scores(np.ones(len(labels), dtype=bool)),
        "without_twins": scores(~twins) if twins is not None and 0 < twins.sum() < len(labels) else None,
    }


def figures(report: Mapping[str, Any]) -> dict[str, float | None]:
    """Flatten the main figures of a `report` for a tracker of numbers by name.

    Returns:
        Of each of `auroc`, `average_precision`, `sensitivity`, `specificity`, `accuracy`, `brier`, `shortcut_auroc`,
        `above_shortcut` and `auroc_without_twins` that the report has, the value and its interval's ends as `_low`
        and `_high`; and `ece`. None where undefined.
    """
    scores, shortcut, without = report["all"], report["all"]["shortcut"], report["without_twins"]
    after = scores["calibration"]["after"]
    estimates = {name: scores[name] for name in ("auroc", "average_precision")}
    estimates |= {name: scores["operating_point"][name] for name in ("sensitivity", "specificity", "accuracy")}
    estimates["brier"] = after["brier"]
    if shortcut:
        estimates |= {"shortcut_auroc": shortcut["auroc"], "above_shortcut": shortcut["difference"]}
    if without:
        estimates["auroc_without_twins"] = without["auroc"]
    flat: dict[str, float | None] = {"ece": after["ece"]}
    for name, estimate in estimates.items():
        low, high = estimate["interval"] or (None, None)
        flat |= {name: estimate["value"], f"{name}_low": low, f"{name}_high": high}
    return flat


def _scores(
    labels: np.ndarray,
    probabilities: np.ndarray,
    threshold: float,
    groups: np.ndarray,
    uncalibrated: np.ndarray | None,
    shortcut: np.ndarray | None,
    seed: int,
) -> dict[str, Any]:
    ranking = _Ranking(labels, probabilities)
    shortcut_ranking = None if shortcut is None else _Ranking(labels, shortcut)
    predicted = {"after": probabilities} | ({} if uncalibrated is None else {"before": uncalibrated})

    def statistics(weights: np.ndarray) -> dict[str, np.ndarray]:
        malignant, benign = ranking.calls(weights)
        out = {
            "auroc": _auroc(malignant, benign),
            "average_precision": _average_precision(malignant, benign),
            "roc": _sensitivity_at(malignant, benign, [1 - rate for rate in _FALSE_POSITIVE_RATES]),
            "sensitivity": _sensitivity_at(malignant, benign, SPECIFICITIES),
            "specificity": _specificity_at(malignant, benign, SENSITIVITIES),
        }
        # The mean squared error of probabilities is Brier's score.
        out |= {name: weights @ (values - labels) ** 2 / weights.sum(axis=1) for name, values in predicted.items()}
        if shortcut_ranking is not None:
            out["shortcut"] = _auroc(*shortcut_ranking.calls(weights))
        return out

    drawn = intervals.bootstrap(statistics, groups, seed)
    rates = {"false_positive_rate": _FALSE_POSITIVE_RATES}
    band = dict(zip(("sensitivity", "low", "high"), drawn["roc"].tolist(), strict=True))
    reliability = {
        name: {
            "brier": intervals.estimate(*drawn[name]),
            **calibration.reliability(labels, values, groups, seed),
        }
        for name, values in predicted.items()
    }
    return {
        "n": len(labels),
        "n_malignant": int((labels == 1).sum()),
        "n_groups": len(np.unique(groups)),
        "auroc": intervals.estimate(*drawn["auroc"]),
        "average_precision": intervals.estimate(*drawn["average_precision"]),
        "shortcut": None if shortcut is None else _against_shortcut(labels, probabilities, shortcut, drawn["shortcut"]),
        "specificity_at_sensitivity": [
            {"sensitivity": at, **intervals.estimate(*drawn["specificity"][:, column])}
            for column, at in enumerate(SENSITIVITIES)
        ],
        "sensitivity_at_specificity": [
            {"specificity": at, **intervals.estimate(*drawn["sensitivity"][:, column])}
            for column, at in enumerate(SPECIFICITIES)
        ],
        "operating_point": _operating_point(labels, probabilities >= threshold, groups, threshold),
        "calibration": {"before": reliability.get("before"), "after": reliability["after"]},
        "roc": None if np.isnan(drawn["roc"]).any() else rates | band,
        "decision_curve": decision_curve(labels, probabilities),
    }


def _against_shortcut(
    labels: np.ndarray, probabilities: np.ndarray, shortcut: np.ndarray, drawn: np.ndarray
) -> dict[str, Any]:
    paired = intervals.delong(labels, probabilities, shortcut)
    return {
        "auroc": intervals.estimate(*drawn),
        "difference": {"value": paired.difference, "interval": paired.interval},
        "standard_error": paired.standard_error,
        "p": paired.p,
    }


def _operating_point(labels: np.ndarray, called: np.ndarray, groups: np.ndarray, threshold: float) -> dict[str, Any]:
    malignant = labels == 1
    found, found_groups = called[malignant], groups[malignant]
    cleared, cleared_groups = ~called[~malignant], groups[~malignant]
    return {
        "threshold": float(threshold),
        "true_positives": int(found.sum()),
        "false_negatives": int((~found).sum()),
        "true_negatives": int(cleared.sum()),
        "false_positives": int((~cleared).sum()),
        "sensitivity": intervals.share(found, found_groups),
        "specificity": intervals.share(cleared, cleared_groups),
        "accuracy": intervals.share(called == malignant, groups),
        "predictive_values": [
            {
                "prevalence": prevalence,
                "ppv": intervals.predictive_value(found, found_groups, ~cleared, cleared_groups, prevalence),
                "npv": intervals.predictive_value(cleared, cleared_groups, ~found, found_groups, 1 - prevalence),
            }
            for prevalence in PREVALENCES
        ],
    }


def decision_curve(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, list[float]]:
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


class _Ranking:
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


def _auroc(malignant: np.ndarray, benign: np.ndarray) -> np.ndarray:
    before, steps = np.diff(malignant, prepend=0), np.diff(benign, prepend=0)
    with np.errstate(invalid="ignore"):
        return ((malignant - before / 2) * steps).sum(axis=1) / (malignant[:, -1] * benign[:, -1])


def _average_precision(malignant: np.ndarray, benign: np.ndarray) -> np.ndarray:
    precision = malignant / np.maximum(malignant + benign, 1)
    with np.errstate(invalid="ignore"):
        average = (np.diff(malignant, prepend=0) * precision).sum(axis=1) / malignant[:, -1]
    # Without a benign image it would be 1, whatever the model is.
    return np.where(benign[:, -1] > 0, average, np.nan)


def _sensitivity_at(malignant: np.ndarray, benign: np.ndarray, specificities: Sequence[float]) -> np.ndarray:
    """Highest sensitivity (B, K) of a threshold that keeps each of K specificities; no point between thresholds."""
    allowed = np.floor((1 - np.asarray(specificities)) * benign[:, -1:] + 1e-9)
    found = np.pad(malignant, ((0, 0), (1, 0)))
    reached = np.take_along_axis(found, _count_rows(benign, allowed, "right"), axis=1)
    with np.errstate(invalid="ignore"):
        return np.where(benign[:, -1:] > 0, reached / malignant[:, -1:], np.nan)


def _specificity_at(malignant: np.ndarray, benign: np.ndarray, sensitivities: Sequence[float]) -> np.ndarray:
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
