"""The model card: it is complete, its numbers are those it was given, and it fits into MLflow's description."""

import re
from collections import Counter
from copy import deepcopy
from types import SimpleNamespace

import numpy as np
import pytest
from markdown_it import MarkdownIt

from skinlib.reporting import model_card
from skinlib.reporting.report_tables import metric_rows
from skinlib.reporting.verdict import verdict
from skinlib.tracking import registry
from skinlib.training.trial import Trial
from tests.unit import results

PAIR = ("train/benign/1.jpg", "test/benign/2.jpg")
COUNTS = {"train": {"benign": 1152, "malignant": 958}, "test": {"benign": 288, "malignant": 239}}
RESULT = {
    "status": "finished",
    "reason": "all 60 epochs",
    "history": results.history(60),
    "best_epoch": 57,
    "validation_auroc": 0.9325,
    "validation_probabilities": results.PROBABILITIES,
    "setting": {"device": "cuda:0", "name": "NVIDIA H100 80GB HBM3", "threads": 16, "precision": "bfloat16"},
    "multiply_adds": 592_400_000,
}
ARTIFACTS = {
    "manifest": {
        "hash": "9f2c" * 16,
        "n_images": 2637,
        "counts": COUNTS,
        "rejected": [{"key": "train/benign/7.jpg", "reason": "truncated"}],
        "metadata": {},
    },
    "audit": {
        "exact_duplicates": [PAIR] * 2,
        "same_lesions": [PAIR] * 41,
        "leaks": [PAIR] * 19,
        "label_conflicts": [],
        "doubtful_labels": [PAIR] * 3,
        "counts": COUNTS,
        "statistics": {},
        "n_groups": 2600,
    },
    "standouts": [results.standout()],
    "split": {"train": np.arange(1793), "validation": np.arange(317)},
    "trials": dict.fromkeys(["resnet18-128px-1a2b3c4d", "b", "c", "d"], Trial().model_dump()),
    "best_trial": {"key": "resnet18-128px-1a2b3c4d"},
    "best_result": RESULT,
    "classifier": results.CLASSIFIER,
    "verdict": "Never use it.",
    "test_report": results.report(),
    "elsewhere_reports": {"s3://other/images": results.report("no twins")},
    "stress": results.STRESS,
    "git_commit": "7ca6f7c2ab" * 4 + "+changes",
    "seed": 11,
}
VERSIONS = {"python": "3.12.3", "torch": "2.15.0"}


def card(synthetic=False, versions=VERSIONS, **changes):
    """The model card of a run."""
    run = SimpleNamespace(**ARTIFACTS | changes)
    name = "SkinLesionFlow/1763900000000000"
    return model_card.render(run, "s3://some-bucket/skin-lesions", synthetic, name, versions)


def table(text, heading):
    """The rows of the first table after a heading, by their first cell."""
    lines = text[text.index(heading) :].split("\n|", 1)[1].split("\n\n")[0].split("\n")
    rows = [line.strip("|").split("|") for line in lines]
    return {row[0]: row[1:] for row in rows}


def with_report(kind):
    return card(test_report=results.report(kind))


def test_card_has_a_heading_for_every_part():
    headings = [line for line in card().split("\n") if line.startswith("#")]
    assert headings == [
        "# Model card: resnet18-128px-1a2b3c4d",
        "## Use",
        "## Data",
        "## Training",
        "## Results",
        "## By source",
        "## Elsewhere",
        "## Limits",
        "## Reproducibility",
        "## Robustness",
        "## Subgroups",
    ]


@pytest.mark.parametrize(
    "words",
    [
        "**Not for** diagnosis",
        "ISIC Archive",
        "CC BY-NC",
        "train: 1,152 benign, 958 malignant; test: 288 benign, 239 malignant",
        "rejected files: 1; exact duplicates: 2 pairs, 0 with conflicting labels",
        "same lesion: 41 pairs, 3 with conflicting labels; leakage between training and test: 19 pairs",
        "**Strongest trace**: 532 of 958 malignant and 35 of 1,152 benign training images have the chroma subsampling",
        "Chosen from 4 trials: the cheapest within one standard error of the best AUROC on 317 validation images",
        "(this model: 0.932, epoch 57). Trained on 1,793 images",
        "Temperature 1.700 and the threshold (sensitivity 95%)",
        "architecture resnet18, image size 128, epochs 20, batch size 64, optimiser adamw, learning rate 0.002",
        "device cuda:0, name NVIDIA H100 80GB HBM3, threads 16, precision bfloat16",
        "*benign* means nevus only",
        "such as skin tones, cannot be measured",
        "Commit `7ca6f7c2ab7ca6f7c2ab7ca6f7c2ab7ca6f7c2ab+changes`, data `9f2c",
        "seed 11, run `SkinLesionFlow/1763900000000000`; python 3.12.3, torch 2.15.0.",
        "(5 have a twin in training), at threshold 0.300",
    ],
)
def test_card_says(words):
    assert words in card()


def test_results_have_every_metric_with_and_without_twins():
    shown = table(card(), "## Results")
    columns = [metric_rows(results.report()[which]) for which in ("all", "without_twins")]
    expected = {row[0].name: [of.words for of in row] for row in zip(*columns, strict=True)}
    expected = {
        name: cells for name, cells in expected.items() if not name.endswith(("before scaling", "at 45% prevalence"))
    }
    assert {"AUROC of the file traces alone", "gain over the source"} <= expected.keys()
    assert {name: cells for name, cells in shown.items() if name in expected} == expected
    assert list(shown)[2:] == ["images (malignant)", *expected]
    assert shown["images (malignant)"] == ["100 (40)", "95 (38)"]


def test_intervals_are_in_brackets():
    of = results.report()["all"]["auroc"]
    cell = table(card(), "## Results")["AUROC"][0]
    assert cell == f"{of['value']:.3f} ({of['interval'][0]:.3f} to {of['interval'][1]:.3f})"


def test_calibration_error_is_shown_with_what_chance_gives():
    of = results.report()["all"]["calibration"]["after"]
    cell = table(card(), "## Results")["ECE after scaling"][0]
    assert cell == f"{of['ece']:.3f} (up to {of['ece_noise']:.3f} by chance)"


def test_robustness_table_has_every_row_and_shows_undefined_metrics_as_undefined():
    shown = table(card(), "## Robustness")
    assert shown["cooler"] == ["0.936", "0.895", "0.799"]
    assert shown["hair"] == ["undefined", "undefined", "0.736"]


def test_card_says_that_twins_were_not_checked():
    assert "(twins in training were not checked)" in with_report("no twins")


def test_metrics_of_one_class_are_undefined():
    shown = table(with_report("benign"), "## Results")
    assert shown["AUROC"] == shown["sensitivity"] == ["undefined"]


def test_every_row_of_a_table_has_as_many_cells_as_its_heading():
    for kind in ("full", "no twins", "benign"):
        for block in with_report(kind).split("\n\n"):
            widths = {line.count("|") for line in block.split("\n") if line.startswith("|")}
            assert len(widths) <= 1, block


def test_card_of_synthetic_images_says_so_first_and_claims_nothing_about_skin():
    text = card(synthetic=True)
    assert "SYNTHETIC" in text[:120]
    assert "ISIC" not in text
    assert "nevus" not in text


def test_unknown_commit_is_shown_as_unknown():
    assert "Commit `unknown`" in card(git_commit=None)


def test_a_usual_card_fits_into_mlflow_s_description_up_to_its_long_tables():
    packages = ("python", "torch", "torchvision", "numpy", "scikit-learn", "metaflow", "mlflow")
    usual = verdict(ARTIFACTS["test_report"], ARTIFACTS["elsewhere_reports"], [])
    text = card(versions=dict.fromkeys(packages, "12.10.13"), verdict=usual)
    assert text.index("## By source") < registry.DESCRIPTION_LIMIT - 200


def test_card_of_an_ensemble_says_what_it_is_the_mean_of_and_where_its_threshold_comes_from():
    split = {"train": np.arange(2110), "validation": np.arange(2110)}
    text = card(split=split, best_result={**RESULT, "fold_aurocs": [0.931, 0.94, 0.951]})
    for words in (
        "the best AUROC of out-of-fold predictions for 2,110 training images",
        "(this model: 0.932; its folds: 0.931 to 0.951). The mean of 3 networks, each trained on 2 of 3 folds;",
        "come from the out-of-fold predictions, which are those of single networks.",
    ):
        assert words in text


def test_names_in_the_card_are_words_only():
    name = '<img src="x">|[a](https://example.org)|![b](https://example.org/b.png)|<script>alert(1)</script>'
    usual, report = ARTIFACTS["test_report"], deepcopy(results.report())
    report["sources"][0]["source"] = report["subgroups"][0]["value"] = name

    def tags(markdown):
        return Counter(re.findall(r"<(\w+)", MarkdownIt("commonmark").enable("table").render(markdown)))

    crafted = card(verdict=name, test_report=report, elsewhere_reports={name: usual})
    assert tags(crafted) == tags(card(elsewhere_reports={"there": usual}))
