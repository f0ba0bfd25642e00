"""The metrics of a report as one list of rows, which the test card, the model card and the printed reports render."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from skinlib.evaluation.intervals import Estimate
from skinlib.evaluation.scores import Report, Scores
from skinlib.reporting.baseline_words import BASELINES, TITLES

Section = Literal["Ranking", "Operating point", "Predictive values", "Calibration"]


@dataclass(frozen=True)
class MetricRow:
    """One metric of a set of images.

    Attributes:
        section: the part of a report that shows it.
        name: the same in every report.
        meaning: a phrase for readers who do not know the name.
        value: with its 95% interval; None where undefined.
        noise: for a calibration error, what 95% of perfectly calibrated models stay below; None for other metrics.
    """

    section: Section
    name: str
    meaning: str
    value: Estimate
    noise: float | None = None


def metric_rows(scores: Scores) -> list[MetricRow]:
    """List the metrics of a set of images by section."""
    return [*_ranking(scores), *_operating_point(scores), *_predictive_values(scores), *_calibration(scores)]


def metric_columns(report: Report) -> dict[str, list[MetricRow]]:
    """List the metrics of all test images and, where some have twins, of the others: the same rows in each column."""
    columns = {"all test images": metric_rows(report["all"])}
    if report["without_twins"] is not None:
        columns["without twins in training"] = metric_rows(report["without_twins"])
    return columns


def _ranking(scores: Scores) -> Iterator[MetricRow]:
    def row(name: str, meaning: str, value: Estimate) -> MetricRow:
        return MetricRow("Ranking", name, meaning, value)

    yield row("AUROC", "probability that a malignant image scores higher than a benign one", scores["auroc"])
    if scores["within_source"]:
        meaning = "the same for images of one source, so that telling sources apart gains nothing"
        yield row("AUROC within source", meaning, scores["within_source"])
    for name, of in scores["baselines"].items():
        title, meaning = TITLES[name], "paired difference of the two AUROCs (DeLong)"
        yield row(f"AUROC of the {title}", BASELINES[name], of["auroc"])
        yield row(f"gain over the {title.removesuffix(' alone')}", meaning, of["difference"])
    yield row("average precision", "PPV averaged over all sensitivities", scores["average_precision"])
    for at_sensitivity in scores["specificity_at_sensitivity"]:
        level = f"{at_sensitivity['sensitivity']:.0%}"
        meaning = f"benign images classified as benign when {level} of the malignant ones are found"
        yield row(f"specificity at {level} sensitivity", meaning, at_sensitivity)
    for at_specificity in scores["sensitivity_at_specificity"]:
        level = f"{at_specificity['specificity']:.0%}"
        meaning = f"malignant images found when {level} of the benign ones are classified as benign"
        yield row(f"sensitivity at {level} specificity", meaning, at_specificity)


def _operating_point(scores: Scores) -> Iterator[MetricRow]:
    point = scores["operating_point"]
    for name, meaning, value in (
        ("sensitivity", "malignant images classified as malignant", point["sensitivity"]),
        ("specificity", "benign images classified as benign", point["specificity"]),
        ("accuracy", "correctly classified images", point["accuracy"]),
        ("uncertain", "images near the threshold, where answers are as often wrong as right", scores["uncertain"]),
        ("unfamiliar", "images unlike the training images", scores["unfamiliar"]),
        ("unsupported", "images like those of sources with one class only in training", scores["unsupported"]),
    ):
        yield MetricRow("Operating point", name, meaning, value)


def _predictive_values(scores: Scores) -> Iterator[MetricRow]:
    values = scores["operating_point"]["predictive_values"]
    for of in values:
        meaning = "malignant lesions among those classified as malignant"
        yield MetricRow("Predictive values", f"PPV at {of['prevalence']:.0%} prevalence", meaning, of["ppv"])
    for of in values:
        meaning = "benign lesions among those classified as benign"
        yield MetricRow("Predictive values", f"NPV at {of['prevalence']:.0%} prevalence", meaning, of["npv"])


def _calibration(scores: Scores) -> Iterator[MetricRow]:
    for when, of in (("before", scores["calibration"]["before"]), ("after", scores["calibration"]["after"])):
        meaning = "mean squared error of the probability; 0 is perfect"
        yield MetricRow("Calibration", f"Brier score {when} scaling", meaning, of["brier"])
        meaning = "mean distance between predicted and observed rates in 15 bins; 0 is perfect"
        error: Estimate = {"value": of["ece"], "interval": None}
        yield MetricRow("Calibration", f"ECE {when} scaling", meaning, error, of["ece_noise"])
