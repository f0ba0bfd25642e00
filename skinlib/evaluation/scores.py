"""The test report: every metric of a classifier on a set of images, with intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

import numpy as np
from numpy.typing import NDArray

from skinlib.audit.baselines import column
from skinlib.evaluation import calibration, intervals, subgroups
from skinlib.evaluation.calibration import Reliability
from skinlib.evaluation.intervals import Estimate
from skinlib.evaluation.metrics import SENSITIVITIES, SPECIFICITIES, DecisionCurve, Ranking, decision_curve
from skinlib.evaluation.subgroups import SourceScores, Subgroup
from skinlib.evaluation.threshold import Operation

if TYPE_CHECKING:
    import pandas as pd

HISTOGRAM_BINS = 50
PREVALENCES = (0.02, 0.1, 0.45)  # about those of screening, of referrals, and of the images at hand
_FALSE_POSITIVE_RATES = [percent / 100 for percent in range(101)]


class Histograms(TypedDict):
    """Numbers of images of each class in `HISTOGRAM_BINS` bins of equal width, from probability 0 to 1."""

    benign: list[int]
    malignant: list[int]


class AtSensitivity(Estimate):
    """The highest specificity of the thresholds with at least this sensitivity."""

    sensitivity: float


class AtSpecificity(Estimate):
    """The highest sensitivity of the thresholds with at least this specificity."""

    specificity: float


class AgainstBaseline(TypedDict):
    """A baseline that sees no lesion on the same images, and how much better the model is (DeLong)."""

    auroc: Estimate  # of the baseline
    difference: Estimate  # AUROC of the model minus that of the baseline


class PredictiveValues(TypedDict):
    """Positive and negative predictive value at one prevalence of malignant images."""

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
    predictive_values: list[PredictiveValues]  # one entry for each of PREVALENCES


class Calibration(Reliability):
    """Brier score and reliability of the probabilities."""

    brier: Estimate


class BeforeAndAfter(TypedDict):
    """Calibration before and after temperature scaling."""

    before: Calibration
    after: Calibration


class Roc(TypedDict):
    """The ROC curve at 101 false positive rates, with a pointwise 95% band."""

    false_positive_rate: list[float]  # 0, 0.01 ... 1
    sensitivity: list[float]
    low: list[float]
    high: list[float]


class Scores(TypedDict):
    """Every metric on one set of images."""

    n: int
    n_malignant: int
    n_groups: int  # images of the same lesion form a group
    auroc: Estimate
    within_source: (
        Estimate | None
    )  # AUROC of pairs from one source; None if the images have one source, or unknown ones
    average_precision: Estimate
    baselines: dict[str, AgainstBaseline]  # by name from `audit.baselines`
    specificity_at_sensitivity: list[AtSensitivity]  # one entry for each of SENSITIVITIES
    sensitivity_at_specificity: list[AtSpecificity]  # one entry for each of SPECIFICITIES
    operating_point: OperatingPoint
    uncertain: Estimate  # share of the images
    unfamiliar: Estimate  # likewise
    unsupported: Estimate  # likewise
    calibration: BeforeAndAfter
    roc: Roc | None  # None if a class is absent, or so rare that many resamples do not contain it
    decision_curve: DecisionCurve  # at the prevalence of these images


class Report(TypedDict):
    """The artifact `test_report`: plain values, ready for JSON; undefined metrics are None.

    `n_twins` is the number of images with a twin in the training set, None if that was not checked.
    `without_twins` is None if there are no twins or only twins, or if that was not checked. `sources` is empty if the
    images have one source, or unknown ones, and `subgroups` without metadata that has few different values.
    """

    threshold: float
    n_twins: int | None
    all: Scores
    without_twins: Scores | None
    sources: list[SourceScores]
    subgroups: list[Subgroup]


@dataclass(frozen=True)
class _Images:
    """What is known about N images: the arguments of `build_report`; `answers` has the column `uncalibrated`, too."""

    labels: NDArray[np.int64]
    answers: "pd.DataFrame"
    groups: NDArray[np.int64]
    sources: NDArray[np.str_]
    baselines: Mapping[str, NDArray[np.float64]]

    @property
    def probabilities(self) -> NDArray[np.float64]:
        return np.asarray(self.answers["probability"])

    @property
    def uncalibrated(self) -> NDArray[np.float64]:
        return np.asarray(self.answers["uncalibrated"])

    def keep(self, kept: NDArray[np.bool_]) -> "_Images":
        baselines = {name: each[kept] for name, each in self.baselines.items()}
        return _Images(self.labels[kept], self.answers[kept], self.groups[kept], self.sources[kept], baselines)


def build_report(
    labels: NDArray[np.int64],
    answers: "pd.DataFrame",
    settings: Operation,
    groups: NDArray[np.int64],
    baselines: Mapping[str, NDArray[np.float64]],
    *,
    twins: NDArray[np.bool_] | None = None,
    metadata: Mapping[str, Sequence[str]] | None = None,
    source: str | None = None,
) -> Report:
    """Compute every metric of a classifier on held-out images.

    Args:
        labels: int (N,), 1 is malignant.
        answers: Of the classifier, N rows: `probability`, float in 0..1 after temperature scaling, and the warnings
            `uncertain`, `unfamiliar` and `unsupported`, bool.
        settings: Of the classifier: its temperature and threshold, from validation images.
        groups: int (N,), equal for images of the same lesion, which are resampled together.
        baselines: float (N,) by name, the probabilities of baselines for the same images.
        twins: bool (N,), whether each image has a twin in the training set; None if that was not checked.
        metadata: N values by column, "" where unknown.
        source: the column that names each image's source, if there is one.
    """
    sources = np.array(metadata[source] if metadata and source else [""] * len(labels), np.str_)
    probabilities, threshold = answers["probability"].to_numpy(), settings["threshold"]
    answers = answers.assign(uncalibrated=calibration.calibrate(probabilities, 1 / settings["temperature"]))
    images = _Images(labels, answers, groups, sources, baselines)
    without_twins = None
    if twins is not None and 0 < twins.sum() < len(labels):
        without_twins = _scores(images.keep(~twins), threshold)
    return {
        "threshold": float(threshold),
        "n_twins": None if twins is None else int(twins.sum()),
        "all": _scores(images, threshold),
        "without_twins": without_twins,
        "sources": subgroups.by_source(labels, probabilities, groups, sources) if len(set(sources)) > 1 else [],
        "subgroups": subgroups.subgroups(labels, probabilities >= threshold, groups, metadata or {}),
    }


def histograms(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> Histograms:
    """Count the images of each class by probability; labels are int (N,), 1 is malignant."""
    counts = [np.histogram(probabilities[labels == label], HISTOGRAM_BINS, (0, 1))[0].tolist() for label in (0, 1)]
    return {"benign": counts[0], "malignant": counts[1]}


def flat_metrics(report: Report) -> dict[str, float | None]:
    """Flatten the main metrics of a report, as MLflow stores them.

    Returns:
        The value of `auroc`, `average_precision`, `sensitivity`, `specificity`, `accuracy`, `brier`, `uncertain`,
        `unfamiliar`, `unsupported` and, if the report has them, `auroc_within_source` and `auroc_without_twins`; of
        each baseline, such as `file_traces_auroc` and `above_file_traces`; the ends of their intervals under the same
        names with `_low` and `_high`; and `ece`. None where undefined.
    """
    scores, without = report["all"], report["without_twins"]
    point, after = scores["operating_point"], scores["calibration"]["after"]
    estimates = {
        "auroc": scores["auroc"],
        "average_precision": scores["average_precision"],
        "sensitivity": point["sensitivity"],
        "specificity": point["specificity"],
        "accuracy": point["accuracy"],
        "brier": after["brier"],
        "uncertain": scores["uncertain"],
        "unfamiliar": scores["unfamiliar"],
        "unsupported": scores["unsupported"],
    }
    if scores["within_source"]:
        estimates["auroc_within_source"] = scores["within_source"]
    for baseline, of in scores["baselines"].items():
        estimates |= {f"{column(baseline)}_auroc": of["auroc"], f"above_{column(baseline)}": of["difference"]}
    if without:
        estimates["auroc_without_twins"] = without["auroc"]
    flat: dict[str, float | None] = {"ece": after["ece"]}
    for name, estimate in estimates.items():
        low, high = estimate["interval"] or (None, None)
        flat |= {name: estimate["value"], f"{name}_low": low, f"{name}_high": high}
    return flat


def _scores(images: _Images, threshold: float) -> Scores:
    drawn = _bootstrap(images)
    flags = {name: images.answers[name].to_numpy() for name in ("uncertain", "unfamiliar", "unsupported")}
    return {
        "n": len(images.labels),
        "n_malignant": int((images.labels == 1).sum()),
        "n_groups": len(np.unique(images.groups)),
        "auroc": intervals.estimate(*drawn["auroc"]),
        "within_source": intervals.estimate(*drawn["within source"]) if "within source" in drawn else None,
        "average_precision": intervals.estimate(*drawn["average_precision"]),
        "baselines": {name: _against(images, each, drawn[_drawn(name)]) for name, each in images.baselines.items()},
        "specificity_at_sensitivity": [
            {"sensitivity": level, **intervals.estimate(*drawn["specificity"][:, column])}
            for column, level in enumerate(SENSITIVITIES)
        ],
        "sensitivity_at_specificity": [
            {"specificity": level, **intervals.estimate(*drawn["sensitivity"][:, column])}
            for column, level in enumerate(SPECIFICITIES)
        ],
        "operating_point": _operating_point(images, threshold),
        "uncertain": intervals.share(flags["uncertain"], images.groups),
        "unfamiliar": intervals.share(flags["unfamiliar"], images.groups),
        "unsupported": intervals.share(flags["unsupported"], images.groups),
        "calibration": _calibration(images, drawn),
        "roc": _roc(drawn),
        "decision_curve": decision_curve(images.labels, images.probabilities),
    }


def _bootstrap(images: _Images) -> dict[str, NDArray[np.float64]]:
    """Compute all metrics that have a bootstrap interval, in the form that `intervals.bootstrap` returns."""
    ranking = Ranking(images.labels, images.probabilities)
    rankings = {_drawn(name): Ranking(images.labels, each) for name, each in images.baselines.items()}
    within_source = None
    if len(set(images.sources)) > 1:
        within_source = subgroups.within_source(images.labels, images.probabilities, images.sources)
    predicted = {"brier before": images.uncalibrated, "brier after": images.probabilities}

    def statistics(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        positives = ranking.positives(weights)
        briers = {name: weights @ (each - images.labels) ** 2 / weights.sum(axis=1) for name, each in predicted.items()}
        return briers | {
            "auroc": positives.auroc(),
            "average_precision": positives.average_precision(),
            "roc": positives.sensitivity_at([1 - rate for rate in _FALSE_POSITIVE_RATES]),
            "sensitivity": positives.sensitivity_at(SPECIFICITIES),
            "specificity": positives.specificity_at(SENSITIVITIES),
            **{name: each.positives(weights).auroc() for name, each in rankings.items()},
            **({"within source": within_source(weights)} if within_source else {}),
        }

    return intervals.bootstrap(statistics, images.groups)


def _drawn(baseline: str) -> str:
    return f"baseline {baseline}"  # no metric has this name


def _against(images: _Images, baseline: NDArray[np.float64], drawn: NDArray[np.float64]) -> AgainstBaseline:
    paired = intervals.delong(images.labels, images.probabilities, baseline)
    return {
        "auroc": intervals.estimate(*drawn),
        "difference": {"value": paired.difference, "interval": paired.interval},
    }


def _calibration(images: _Images, drawn: dict[str, NDArray[np.float64]]) -> BeforeAndAfter:
    def measured(when: str, probabilities: NDArray[np.float64]) -> Calibration:
        reliability = calibration.reliability(images.labels, probabilities, images.groups)
        return {"brier": intervals.estimate(*drawn[f"brier {when}"]), **reliability}

    return {"before": measured("before", images.uncalibrated), "after": measured("after", images.probabilities)}


def _roc(drawn: dict[str, NDArray[np.float64]]) -> Roc | None:
    if np.isnan(drawn["roc"]).any():
        return None
    sensitivity, low, high = drawn["roc"].tolist()
    return {"false_positive_rate": _FALSE_POSITIVE_RATES, "sensitivity": sensitivity, "low": low, "high": high}


def _operating_point(images: _Images, threshold: float) -> OperatingPoint:
    malignant, positive = images.labels == 1, images.probabilities >= threshold
    found, found_groups = positive[malignant], images.groups[malignant]
    cleared, cleared_groups = ~positive[~malignant], images.groups[~malignant]
    return {
        "threshold": float(threshold),
        "true_positives": int(found.sum()),
        "false_negatives": int((~found).sum()),
        "true_negatives": int(cleared.sum()),
        "false_positives": int((~cleared).sum()),
        "sensitivity": intervals.share(found, found_groups),
        "specificity": intervals.share(cleared, cleared_groups),
        "accuracy": intervals.share(positive == malignant, images.groups),
        "predictive_values": [
            {
                "prevalence": prevalence,
                "ppv": intervals.predictive_value(found, found_groups, ~cleared, cleared_groups, prevalence),
                "npv": intervals.predictive_value(cleared, cleared_groups, ~found, found_groups, 1 - prevalence),
            }
            for prevalence in PREVALENCES
        ],
    }
