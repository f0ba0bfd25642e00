"""Metrics of a binary classifier: what is reported, and when it is undefined."""

from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

import numpy as np

from skinlib.evaluation import calibration, intervals
from skinlib.evaluation.calibration import Reliability
from skinlib.evaluation.intervals import Estimate
from skinlib.evaluation.metrics import (
    SENSITIVITIES,
    SPECIFICITIES,
    Ranking,
    average_precision,
    DecisionCurve,
    decision_curve,
    ranking_auroc,
    sensitivity_at,
    specificity_at,
)

PREVALENCES = (0.02, 0.1, 0.45)  # about those of screening, of referrals, and of the images at hand
_FALSE_POSITIVE_RATES = [percent / 100 for percent in range(101)]


class AtLevel(Estimate):
    """A metric at a required level of another one; one of `sensitivity` and `specificity` is given."""

    sensitivity: NotRequired[float]
    specificity: NotRequired[float]


class AgainstShortcut(TypedDict):
    """The colour baseline on the same images, and the model's paired difference to it (DeLong)."""

    auroc: Estimate
    difference: Estimate
    standard_error: float | None
    p: float | None  # two-sided


class PredictiveValues(TypedDict):
    """Positive and negative predictive value at one prevalence."""

    prevalence: float
    ppv: Estimate
    npv: Estimate


class OperatingPoint(TypedDict):
    """The decisions at the threshold."""

    threshold: float
    true_positives: int
    false_negatives: int
    true_negatives: int
    false_positives: int
    sensitivity: Estimate
    specificity: Estimate
    accuracy: Estimate
    predictive_values: list[PredictiveValues]


class Calibration(Reliability):
    """Brier score and reliability of the probabilities."""

    brier: Estimate


class BeforeAndAfter(TypedDict):
    """Calibration before and after temperature scaling; `before` is None if those probabilities are not known."""

    before: Calibration | None
    after: Calibration


class Roc(TypedDict):
    """The ROC curve at false positive rates 0, 0.01 ... 1, with a pointwise 95% band."""

    false_positive_rate: list[float]
    sensitivity: list[float]
    low: list[float]
    high: list[float]


class Scores(TypedDict):
    """Every metric on one set of images."""

    n: int
    n_malignant: int
    n_groups: int
    auroc: Estimate
    average_precision: Estimate
    shortcut: AgainstShortcut | None
    specificity_at_sensitivity: list[AtLevel]
    sensitivity_at_specificity: list[AtLevel]
    operating_point: OperatingPoint
    calibration: BeforeAndAfter
    roc: Roc | None  # None if a class is absent, or so rare that many resamples do not contain it
    decision_curve: DecisionCurve


class Report(TypedDict):
    """The artifact `test_report`.

    `n_twins` is the number of images with a near-duplicate in the training set, None if that was not checked.
    `without_twins` is None if there are none or that was not checked.
    """

    threshold: float
    n_twins: int | None
    all: Scores
    without_twins: Scores | None


def build_report(
    labels: np.ndarray,
    probabilities: np.ndarray,
    threshold: float,
    *,
    groups: np.ndarray,
    uncalibrated: np.ndarray | None = None,
    shortcut_probabilities: np.ndarray | None = None,
    twins: np.ndarray | None = None,
    seed: int = 0,
) -> Report:
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


def flat_metrics(report: Mapping[str, Any]) -> dict[str, float | None]:
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
    ranking = Ranking(labels, probabilities)
    shortcut_ranking = None if shortcut is None else Ranking(labels, shortcut)
    predicted = {"after": probabilities} | ({} if uncalibrated is None else {"before": uncalibrated})

    def statistics(weights: np.ndarray) -> dict[str, np.ndarray]:
        malignant, benign = ranking.calls(weights)
        out = {
            "auroc": ranking_auroc(malignant, benign),
            "average_precision": average_precision(malignant, benign),
            "roc": sensitivity_at(malignant, benign, [1 - rate for rate in _FALSE_POSITIVE_RATES]),
            "sensitivity": sensitivity_at(malignant, benign, SPECIFICITIES),
            "specificity": specificity_at(malignant, benign, SENSITIVITIES),
        }
        # The mean squared error of probabilities is Brier's score.
        out |= {name: weights @ (values - labels) ** 2 / weights.sum(axis=1) for name, values in predicted.items()}
        if shortcut_ranking is not None:
            out["shortcut"] = ranking_auroc(*shortcut_ranking.calls(weights))
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
