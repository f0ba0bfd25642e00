"""The card of the step `evaluate`: everything known about the chosen model."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from metaflow.cards import Markdown
from numpy.typing import NDArray

from skinlib.evaluation.scores import Report
from skinlib.evaluation.stress import StressRow
from skinlib.reporting import figures
from skinlib.reporting.components import SYNTHETIC, Card, gain_note, picture, table, unbroken
from skinlib.reporting.metric_table import Section, metric_columns
from skinlib.reporting.text import COLOUR_BASELINE, estimate, metric, number

OUTCOMES = {
    (1, False): "false negative",
    (0, True): "false positive",
    (1, True): "true positive",
    (0, False): "true negative",
}
GRAD_CAM = """Each image is shown with its Grad-CAM map. Brighter parts contributed more to the decision; the line
encloses the parts with at least half of the strongest contribution. The caption gives the outcome and the predicted
probability of malignancy. A *false negative* is a missed malignant lesion, a *false positive* is a false alarm. The
most confident decisions of each kind are shown, so these images are not typical.

Limits of the method: the map is coarse (one cell covers 32 pixels of the network's input). It shows where the model
looked, not which feature it used. Heat on the lesion does not prove a medical reason: a model that uses only colour
would give the same map. Heat outside the lesion, on hair, a ruler or a dark corner, is a warning. A map without heat
means that nothing in the last layers supported the decision."""


@dataclass(frozen=True)
class TestFindings:
    """What the test card shows.

    Attributes:
        report: of all test images.
        labels: of all test images.
        probabilities: of all test images, calibrated.
        stress: from `stress.table`.
        examples: int (k,), indices of up to 16 test images, as from `saliency.examples`.
        images: uint8 (k, 224, 224, 3), the examples.
        heat: float32 (k, 224, 224), from `saliency.grad_cam`.
        title: of the model, such as its trial's key.
        model_card: in Markdown.
        synthetic: whether the images are the generated sample.
    """

    report: Report
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    stress: Sequence[StressRow]
    examples: NDArray[np.int64]
    images: NDArray[np.uint8]
    heat: NDArray[np.float32]
    title: str
    model_card: str
    synthetic: bool


def show(card: Card, findings: TestFindings) -> None:
    """Show everything known about a model on the test images."""
    card.append(Markdown(f"# Test: {findings.title}\n\n{SYNTHETIC if findings.synthetic else ''}"))
    _ranking(card, findings)
    _operating_point(card, findings)
    _usefulness(card, findings)
    _calibration(card, findings)
    _robustness(card, findings)
    _saliency(card, findings)
    card.append(Markdown(findings.model_card))


def _ranking(card: Card, findings: TestFindings) -> None:
    report, scores = findings.report, findings.report["all"]
    images = f"{scores['n']:,} test images, {scores['n_malignant']:,} malignant"
    parts = [f"**AUROC {estimate(scores['auroc'])}** on {images}; with 95% intervals in brackets."]
    if (shortcut := scores["shortcut"]) is not None:
        parts.append(f"{gain_note(shortcut['auroc'], shortcut['difference'])} {COLOUR_BASELINE}")
    parts.append(_twins(report["n_twins"]))
    card.append(Markdown("\n\n".join(parts)))
    _metrics(card, report, "Ranking")
    card.append(picture(figures.roc_figure(scores)))


def _twins(n: int | None) -> str:
    if n is None:
        return "Near-duplicates of test images in training were not checked."
    if n == 0:
        return "No test image has a near-duplicate in training."
    return f"Test images with a twin (a near-duplicate) in training: {n:,}. They can inflate the results."


def _operating_point(card: Card, findings: TestFindings) -> None:
    report, scores = findings.report, findings.report["all"]
    point, threshold = scores["operating_point"], report["threshold"]
    words = f"""An image with a probability of {threshold:.3f} or higher is classified as malignant. The threshold was \
chosen on validation images.

False negatives (missed malignant images): {point["false_negatives"]:,} of {scores["n_malignant"]:,}. False positives \
(false alarms): {point["false_positives"]:,} of {scores["n"] - scores["n_malignant"]:,} benign images."""
    card.append(Markdown(f"## Operating point: threshold {threshold:.3f}\n\n{words}"))
    _metrics(card, report, "Operating point")
    card.append(picture(figures.confusion_figure(findings.labels, findings.probabilities, threshold)))
    card.append(picture(figures.score_histogram(findings.labels, findings.probabilities, threshold)))


def _usefulness(card: Card, findings: TestFindings) -> None:
    report = findings.report
    words = "How often a decision is correct depends on the prevalence of malignant lesions among the patients."
    card.append(Markdown(f"## Predictive values\n\n{words}"))
    _metrics(card, report, "Predictive values")
    words = """Net benefit is the number of true positives per image, minus the false positives, weighted by the odds \
of the decision threshold. The model is useful at thresholds where its line is the highest. The curve holds for the \
prevalence of these test images, which is much higher than in practice."""
    card.append(Markdown(f"## Decision curve\n\n{words}"))
    card.append(picture(figures.decision_figure(report["all"]["decision_curve"], report["threshold"])))


def _calibration(card: Card, findings: TestFindings) -> None:
    calibration = findings.report["all"]["calibration"]
    words = "In a calibrated model, about 80% of the images with a probability of 0.8 are malignant. ECE is the "
    words += "expected calibration error; the value in brackets is what 95% of perfectly calibrated models stay below."
    if calibration["before"] is not None:
        words += " The temperature was fitted on validation images."
    card.append(Markdown(f"## Calibration\n\n{words}"))
    _metrics(card, findings.report, "Calibration")
    card.append(picture(figures.reliability_figure(calibration)))


def _robustness(card: Card, findings: TestFindings) -> None:
    words = "The same test images as another camera, clinic or operator would take them."
    card.append(Markdown(f"## Robustness\n\n{words}"))
    card.append(picture(figures.stress_figure(findings.stress)))
    rows = [
        [
            row["name"],
            number(row["auroc"]),
            number(row["auroc_change"]),
            number(row["sensitivity"]),
            number(row["specificity"]),
            number(row["probability_change"]),
        ]
        for row in findings.stress
    ]
    heads = ["images", "AUROC", "AUROC change", "sensitivity", "specificity", "mean probability change"]
    card.append(table(rows, heads))


def _saliency(card: Card, findings: TestFindings) -> None:
    card.append(Markdown(f"## Grad-CAM: what the model looked at\n\n{GRAD_CAM}"))
    if len(findings.examples):
        truths, shown = findings.labels[findings.examples], findings.probabilities[findings.examples]
        positive = shown >= findings.report["threshold"]
        captions = [
            f"{OUTCOMES[int(truth), bool(malignant)]} ({probability:.2f})"
            for truth, malignant, probability in zip(truths, positive, shown, strict=True)
        ]
        card.append(picture(figures.heat_grid(findings.images, findings.heat, truths, captions), "jpeg"))


def _metrics(card: Card, report: Report, section: Section) -> None:
    """Show the metrics of a section, with and without the twins."""
    columns = metric_columns(report)
    rows = [
        [row[0].name, *(unbroken(metric(of)) for of in row), row[0].meaning]
        for row in zip(*columns.values(), strict=True)
        if row[0].section == section
    ]
    card.append(table(rows, ["metric", *columns, "meaning"]))
