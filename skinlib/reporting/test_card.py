"""The card of the step `evaluate`: everything known about the chosen model."""

from collections.abc import Mapping

import numpy as np

from skinlib.audit.baselines import COLOURS
from skinlib.evaluation.assessment import Assessment
from skinlib.evaluation.scores import Report
from skinlib.reporting import figures, report_tables
from skinlib.reporting.components import Card, gain_note, markdown, picture, table, unbroken
from skinlib.reporting.numbers import estimate, number
from skinlib.reporting.report_tables import Section, metric_columns
from skinlib.reporting.text import COLOUR_BASELINE

STRANGEST = 8  # images that are the least familiar
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


def show(
    card: Card,
    assessment: Assessment,
    title: str,
    verdict: str,
    elsewhere: Mapping[str, Report],
    model_card: str,
) -> None:
    """Show everything known about a model on the test images and elsewhere; `title` names the model."""
    card.append(markdown(f"# Test: {title}\n\n**{verdict}**"))
    _ranking(card, assessment)
    _operating_point(card, assessment)
    _subgroups(card, assessment)
    if elsewhere:
        card.append(markdown(f"## Elsewhere\n\n{report_tables.ELSEWHERE}"))
        card.append(table(report_tables.elsewhere(elsewhere)))
    _usefulness(card, assessment)
    _calibration(card, assessment)
    _robustness(card, assessment)
    _saliency(card, assessment)
    _familiarity(card, assessment)
    card.append(markdown(model_card))


def _ranking(card: Card, assessment: Assessment) -> None:
    report, scores = assessment.report, assessment.report["all"]
    images = f"{scores['n']:,} test images, {scores['n_malignant']:,} malignant"
    parts = [
        f"**AUROC {estimate(scores['auroc'])}** on {images}; with 95% intervals in brackets.",
        f"{gain_note(scores['baselines'][COLOURS])} {COLOUR_BASELINE}",
        _twins(report["n_twins"]),
    ]
    card.append(markdown("\n\n".join(parts)))
    _metrics(card, report, "Ranking")
    card.append(picture(figures.roc_figure(scores)))


def _twins(n: int | None) -> str:
    if n is None:
        return "Whether test images show lesions of the training images was not checked."
    if n == 0:
        return "No test image shows a lesion that is known to be in training."
    return f"Test images with a twin (the same lesion) in training: {n:,}. They can inflate the results."


def _operating_point(card: Card, assessment: Assessment) -> None:
    report, scores = assessment.report, assessment.report["all"]
    point, threshold = scores["operating_point"], report["threshold"]
    words = f"""An image with a probability of {threshold:.3f} or higher is classified as malignant. The threshold was \
chosen on validation images.

False negatives (missed malignant images): {point["false_negatives"]:,} of {scores["n_malignant"]:,}. False positives \
(false alarms): {point["false_positives"]:,} of {scores["n"] - scores["n_malignant"]:,} benign images."""
    card.append(markdown(f"## Operating point: threshold {threshold:.3f}\n\n{words}"))
    _metrics(card, report, "Operating point")
    card.append(picture(figures.confusion_figure(assessment.labels, assessment.probabilities, threshold)))
    card.append(picture(figures.score_histogram(assessment.labels, assessment.probabilities, threshold)))


def _subgroups(card: Card, assessment: Assessment) -> None:
    report = assessment.report
    if report["sources"]:
        words = (
            "The AUROC within a source cannot come from telling sources apart. The last column compares "
            "its malignant images with the benign images of all sources."
        )
        card.append(markdown(f"## By source\n\n{words}"))
        card.append(table(report_tables.sources(report)))
    if report["subgroups"]:
        words = f"""At the operating point, by the columns of `metadata.csv`. {report_tables.differences(report)} The \
p-values, of sensitivity and specificity, are those of Fisher's exact test against all other images, corrected for the \
number of tests (Holm)."""
        card.append(markdown(f"## Subgroups\n\n{words}"))
        card.append(table(report_tables.subgroups(report)))


def _usefulness(card: Card, assessment: Assessment) -> None:
    report = assessment.report
    words = "How often a decision is correct depends on the prevalence of malignant lesions among the patients."
    card.append(markdown(f"## Predictive values\n\n{words}"))
    _metrics(card, report, "Predictive values")
    words = """Net benefit is the number of true positives per image, minus the false positives, weighted by the odds \
of the decision threshold. The model is useful at thresholds where its line is the highest. The curve holds for the \
prevalence of these test images, which is much higher than in practice."""
    card.append(markdown(f"## Decision curve\n\n{words}"))
    card.append(picture(figures.decision_figure(report["all"]["decision_curve"], report["threshold"])))


def _calibration(card: Card, assessment: Assessment) -> None:
    calibration = assessment.report["all"]["calibration"]
    words = """In a calibrated model, about 80% of the images with a probability of 0.8 are malignant. ECE is the \
expected calibration error; the value in brackets is what 95% of perfectly calibrated models stay below. The \
temperature was fitted on validation images."""
    card.append(markdown(f"## Calibration\n\n{words}"))
    _metrics(card, assessment.report, "Calibration")
    card.append(picture(figures.reliability_figure(calibration)))


def _robustness(card: Card, assessment: Assessment) -> None:
    words = "The same test images as another camera, clinic or operator would take them."
    card.append(markdown(f"## Robustness\n\n{words}"))
    card.append(picture(figures.stress_figure(assessment.stress)))
    rows = [["images", "AUROC", "AUROC change", "sensitivity", "specificity", "mean probability change"]]
    for row in assessment.stress:
        values = row["auroc"], row["auroc_change"], row["sensitivity"], row["specificity"], row["probability_change"]
        rows.append([row["name"], *map(number, values)])
    card.append(table(rows))


def _saliency(card: Card, assessment: Assessment) -> None:
    card.append(markdown(f"## Grad-CAM: what the model looked at\n\n{GRAD_CAM}"))
    if len(assessment.examples):
        truths, shown = assessment.labels[assessment.examples], assessment.probabilities[assessment.examples]
        positive = shown >= assessment.report["threshold"]
        captions = [
            f"{OUTCOMES[int(truth), bool(malignant)]} ({probability:.2f})"
            for truth, malignant, probability in zip(truths, positive, shown, strict=True)
        ]
        images = assessment.images[assessment.examples]
        card.append(picture(figures.image_grid(images, truths, captions, assessment.heat), "jpeg"))


def _familiarity(card: Card, assessment: Assessment) -> None:
    n = int((assessment.unfamiliarity > 1).sum())
    words = f"""The least familiar test images, with their distance to the training images. A distance above 1 is \
unfamiliar: 5% of the validation images exceed it. The model calls {n:,} of {len(assessment.labels):,} test images \
unfamiliar; its answers for such images must not be used."""
    card.append(markdown(f"## Familiarity: images unlike the training images\n\n{words}"))
    strangest = np.argsort(-assessment.unfamiliarity, kind="stable")[:STRANGEST]
    captions = [f"{distance:.2f}" for distance in assessment.unfamiliarity[strangest]]
    grid = figures.image_grid(assessment.images[strangest], assessment.labels[strangest], captions)
    card.append(picture(grid, "jpeg"))


def _metrics(card: Card, report: Report, section: Section) -> None:
    """Show the metrics of a section, with and without the twins."""
    columns = metric_columns(report)
    rows = [
        [row[0].name, *(unbroken(of.words) for of in row), row[0].meaning]
        for row in zip(*columns.values(), strict=True)
        if row[0].section == section
    ]
    card.append(table([["metric", *columns, "meaning"], *rows]))
