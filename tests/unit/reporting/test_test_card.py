import dataclasses

import numpy as np
import pytest

from skinlib.evaluation.assessment import Assessment
from skinlib.evaluation.metrics import binary_metrics
from skinlib.reporting import figures, test_card
from skinlib.reporting.numbers import estimate
from skinlib.reporting.report_tables import metric_rows
from tests.unit import results
from tests.unit.reporting.recording import RecordingCard
from tests.unit.results import LABELS, PROBABILITIES

ASSESSMENT = Assessment(
    labels=LABELS,
    probabilities=PROBABILITIES,
    metrics=binary_metrics(LABELS, PROBABILITIES, results.THRESHOLD),
    report=results.report(),
    stress=results.STRESS,
    images=results.photographs(100),
    examples=np.zeros(0, int),
    heat=np.zeros((0, 224, 224), np.float32),
    unfamiliarity=np.linspace(0.2, 1.1, 100),
)
MODEL_CARD = "# Model card\n\n|a|b|\n|-|-:|\n|1|2|\n"


def show(card, **changed):
    assessment = dataclasses.replace(ASSESSMENT, **changed)
    elsewhere = {"s3://other/images": results.report("no twins")}
    test_card.show(card, assessment, "resnet18-128px", "Never use it.", elsewhere, MODEL_CARD)


def examples(*indices):
    return {"examples": np.array(indices), "heat": results.heat(len(indices))}


@pytest.fixture(scope="module")
def full():
    """The card of `results.report()`; drawn once, since that takes half a second."""
    card = RecordingCard()
    show(card)
    return card


def test_card_opens_with_the_model_and_the_colour_baseline(full):
    scores = results.report()["all"]
    colours = scores["baselines"]["colours"]
    for words in (
        "Test: resnet18-128px",
        "**Never use it.**",
        f"**AUROC {estimate(scores['auroc'])}** on 100 test images, 40 malignant",
        f"**Colour baseline: AUROC {estimate(colours['auroc'])}.** The model's gain over it is "
        f"{estimate(colours['difference'])}",
        "Test images with a twin (the same lesion) in training: 5.",
    ):
        assert words in full.text()


@pytest.mark.parametrize("row", metric_rows(results.report()["all"]), ids=lambda row: row.name)
def test_card_gives_every_metric_with_and_without_twins_and_its_meaning(full, row):
    (other,) = [each for each in metric_rows(results.report()["without_twins"]) if each.name == row.name]
    heading = "AUROC" if row.section == "Ranking" else f"## {row.section}"
    assert full.table(heading)[row.name] == [row.words, other.words, row.meaning]


def test_card_counts_false_negatives_and_false_positives(full):
    point = results.report()["all"]["operating_point"]
    assert f"False negatives (missed malignant images): {point['false_negatives']} of 40." in full.text()
    assert f"False positives (false alarms): {point['false_positives']} of 60 benign images." in full.text()


def test_card_shows_undefined_metrics_as_undefined(card):
    benign = {"labels": LABELS[:60], "probabilities": PROBABILITIES[:60], "unfamiliarity": np.zeros(60)}
    show(card, report=results.report("benign"), **benign)
    assert "AUROC undefined" in card.text()
    assert card.table("AUROC")["AUROC"][0] == "undefined"
    assert card.table("## Operating point")["sensitivity"][0] == "undefined"


def test_card_says_that_twins_were_not_checked(card):
    show(card, report=results.report("no twins"))
    assert "Whether test images show lesions of the training images was not checked." in card.text()
    assert len(card.table("AUROC")["AUROC"]) == 2


def test_card_shows_the_robustness_table(full):
    assert full.table("## Robustness")["cooler"] == ["0.936", "-0.019", "0.895", "0.799", "0.071"]
    assert full.table("## Robustness")["hair"] == ["undefined", "undefined", "undefined", "0.736", "0.075"]


def test_card_names_the_outcome_of_each_example_and_shows_the_least_familiar_images_first(card, monkeypatch):
    shown = []
    draw = figures.image_grid
    monkeypatch.setattr(figures, "image_grid", lambda *given: shown.append(given[1:3]) or draw(*given))
    labels, probabilities = np.array([0, 1, 0, 1, 0]), np.array([0.6, 0.1, 0.2, 0.9, 0.29])
    distances = np.array([0.1, 0.5, 0.3, 1.2, 0.4])
    show(card, labels=labels, probabilities=probabilities, unfamiliarity=distances, **examples(1, 0, 3, 2))
    truths, captions = shown[0]
    assert list(truths) == [1, 0, 1, 0]
    assert captions == [
        "false negative (0.10)",
        "false positive (0.60)",
        "true positive (0.90)",
        "true negative (0.20)",
    ]
    assert shown[1][1] == ["1.20", "0.50", "0.40", "0.30", "0.10"]


def test_card_ends_with_the_model_card(full):
    assert full.components[-1].render()["source"].startswith("# Model card\n\n|a|b|\n")


def test_card_takes_less_than_a_megabyte_and_a_half(card):
    show(card, **examples(*range(16)))
    assert card.n_bytes() < 1_500_000
