"""The tables of a report, which the cards, the model card and the printed reports render.

A table is a list of rows, the heads first.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

from skinlib.evaluation.scores import Report, Scores
from skinlib.evaluation.subgroups import SIGNIFICANT, Subgroup
from skinlib.reporting.baseline_words import BASELINES, TITLES
from skinlib.reporting.numbers import calibration_error, estimate, number

Section = Literal["Ranking", "Operating point", "Predictive values", "Calibration"]

ELSEWHERE = "The same model on other labelled images, which had no part in its training, selection and threshold."


class MetricRow(NamedTuple):
    """One metric of a set of images.

    Attributes:
        section: the part of a report that shows it.
        name: the same in every report.
        meaning: a phrase for readers who do not know the name.
        words: its value with the 95% interval.
    """

    section: Section
    name: str
    meaning: str
    words: str


def metric_columns(report: Report) -> dict[str, list[MetricRow]]:
    """List the metrics of all test images and, where some have twins, of the others: the same rows in each column."""
    columns = {"all test images": metric_rows(report["all"])}
    if report["without_twins"] is not None:
        columns["without twins in training"] = metric_rows(report["without_twins"])
    return columns


def metric_rows(scores: Scores) -> list[MetricRow]:
    """List the metrics of a set of images by section."""
    point = scores["operating_point"]
    decisions = (
        ("sensitivity", "malignant images classified as malignant", point["sensitivity"]),
        ("specificity", "benign images classified as benign", point["specificity"]),
        ("accuracy", "correctly classified images", point["accuracy"]),
        ("uncertain", "images near the threshold, where answers are as often wrong as right", scores["uncertain"]),
        ("unfamiliar", "images unlike the training images", scores["unfamiliar"]),
        ("unsupported", "images like those of sources with one class only in training", scores["unsupported"]),
    )
    rows = [MetricRow("Ranking", *row) for row in _ranking(scores)]
    rows += [MetricRow("Operating point", name, meaning, estimate(value)) for name, meaning, value in decisions]
    values = [(f"{of['prevalence']:.0%} prevalence", of["ppv"], of["npv"]) for of in point["predictive_values"]]
    meaning = "malignant lesions among those classified as malignant"
    rows += [MetricRow("Predictive values", f"PPV at {at}", meaning, estimate(ppv)) for at, ppv, _ in values]
    meaning = "benign lesions among those classified as benign"
    rows += [MetricRow("Predictive values", f"NPV at {at}", meaning, estimate(npv)) for at, _, npv in values]
    calibration = scores["calibration"]
    for when, each in (("before", calibration["before"]), ("after", calibration["after"])):
        meaning = "mean squared error of the probability; 0 is perfect"
        rows.append(MetricRow("Calibration", f"Brier score {when} scaling", meaning, estimate(each["brier"])))
        meaning = "mean distance between predicted and observed rates in 15 bins; 0 is perfect"
        rows.append(MetricRow("Calibration", f"ECE {when} scaling", meaning, calibration_error(each)))
    return rows


def _ranking(scores: Scores) -> Iterator[tuple[str, str, str]]:
    """Yield names, meanings and values."""
    yield "AUROC", "probability that a malignant image scores higher than a benign one", estimate(scores["auroc"])
    if scores["within_source"]:
        meaning = "the same for images of one source, so that telling sources apart gains nothing"
        yield "AUROC within source", meaning, estimate(scores["within_source"])
    for baseline, of in scores["baselines"].items():
        title, meaning = TITLES[baseline], "paired difference of the two AUROCs (DeLong)"
        yield f"AUROC of the {title}", BASELINES[baseline], estimate(of["auroc"])
        yield f"gain over the {title.removesuffix(' alone')}", meaning, estimate(of["difference"])
    yield "average precision", "PPV averaged over all sensitivities", estimate(scores["average_precision"])
    for at_sensitivity in scores["specificity_at_sensitivity"]:
        level = f"{at_sensitivity['sensitivity']:.0%}"
        meaning = f"benign images classified as benign when {level} of the malignant ones are found"
        yield f"specificity at {level} sensitivity", meaning, estimate(at_sensitivity)
    for at_specificity in scores["sensitivity_at_specificity"]:
        level = f"{at_specificity['specificity']:.0%}"
        meaning = f"malignant images found when {level} of the benign ones are classified as benign"
        yield f"sensitivity at {level} specificity", meaning, estimate(at_specificity)


def sources(report: Report) -> list[list[str]]:
    """Return one row per source."""
    rows = [["source", "images (malignant)", "AUROC within it", "AUROC against all benign"]]
    for of in report["sources"]:
        rows.append([of["source"], size(of), estimate(of["auroc"]), estimate(of["against_all_benign"])])
    return rows


def subgroups(report: Report) -> list[list[str]]:
    """Return one row per subgroup."""
    rows = [["subgroup", "images (malignant)", "sensitivity", "specificity", "p-values"]]
    for of in report["subgroups"]:
        shares = estimate(of["sensitivity"]), estimate(of["specificity"])
        p_values = f"{_p(of['p_sensitivity'])}, {_p(of['p_specificity'])}"
        rows.append([f"{of['column']}: {of['value']}", size(of), *shares, p_values])
    return rows


def elsewhere(reports: Mapping[str, Report]) -> list[list[str]]:
    """Return one row per set of images from elsewhere, given by their URL."""
    heads = "AUROC", "sensitivity", "specificity", "unfamiliar", "unsupported"
    rows = [["images from", "images (malignant)", *heads]]
    for url, report in reports.items():
        scores = report["all"]
        values = {row.name: row.words for row in metric_rows(scores)}
        rows.append([url, size(scores), *(values[head] for head in heads)])
    return rows


def size(of: Mapping[str, Any]) -> str:
    """Say how many images there are, and how many of them are malignant."""
    return f"{of['n']:,} ({of['n_malignant']:,})"


def differences(report: Report) -> str:
    """Name the subgroups that differ from the other images by more than noise."""
    found = [words for of in report["subgroups"] for words in _differing(of)]
    if not found:
        return "No subgroup differs from the other images by more than noise."
    return f"These differ from the other images by more than noise: {'; '.join(found)}."


def _differing(of: Subgroup) -> Iterator[str]:
    shares = {
        "sensitivity": (of["sensitivity"], of["p_sensitivity"]),
        "specificity": (of["specificity"], of["p_specificity"]),
    }
    for name, (share, p) in shares.items():
        if p is not None and p < SIGNIFICANT:
            yield f"{name} of {of['column']} {of['value']}, {number(share['value'])}"


def _p(value: float | None) -> str:
    return "-" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"
