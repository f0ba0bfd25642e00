"""The model card: it says everything it should, with the numbers it was given, and fits where it goes."""

import pytest

from skinlib import model_card, stress
from skinlib.console import estimate
from skinlib.sweep import Trial
from tests.unit import results

PAIR = ("train/benign/1.jpg", "test/benign/2.jpg")
FACTS = {
    "name": "resnet18-128px-1a2b3c4d",
    "synthetic": False,
    "url": "s3://some-bucket/skin-lesions",
    "manifest": {
        "hash": "9f2c" * 16,
        "counts": {"train": {"benign": 1152, "malignant": 958}, "test": {"benign": 288, "malignant": 239}},
        "rejected": [{"key": "train/benign/7.jpg", "reason": "truncated"}],
    },
    "audit": {
        "exact_duplicates": [PAIR] * 2,
        "near_duplicates": [PAIR] * 41,
        "leaks": [PAIR] * 19,
        "label_conflicts": [],
        "doubtful_labels": [PAIR] * 3,
    },
    "split": {"train": range(1793), "validation": range(317), "test": range(527)},
    "trial": Trial().model_dump(),
    "n_trials": 4,
    "result": {
        "best_epoch": 57,
        "validation_auroc": 0.9325,
        "setting": {"device": "cuda:0", "name": "NVIDIA H100 80GB HBM3", "threads": 16, "precision": "bfloat16"},
    },
    "classifier": {"temperature": 1.217, "sensitivity": 0.95},
    "report": results.report(),
    "stress": results.STRESS,
    "commit": "7ca6f7c2ab" * 4 + "+changes",
    "run": "SkinLesionFlow/1763900000000000",
    "seed": 11,
    "versions": {"python": "3.12.3", "torch": "2.15.0"},
}


def table(card, heading):
    """The rows of the table that follows these words, by their first cell."""
    lines = card[card.index(heading) :].split("\n|", 1)[1].split("\n\n")[0].split("\n")
    rows = [line.strip("|").split("|") for line in lines]
    return {row[0]: row[1:] for row in rows}


def with_report(kind):
    return model_card.render(FACTS | {"report": results.report(kind)})


def test_card_has_a_heading_for_every_part():
    headings = [line for line in model_card.render(FACTS).split("\n") if line.startswith("#")]
    assert headings == [
        "# Model card: resnet18-128px-1a2b3c4d",
        "## Use",
        "## Data",
        "## Training",
        "## Results",
        "## Stress",
        "## Limits",
        "## Reproducibility",
    ]


@pytest.mark.parametrize(
    "words",
    [
        "**Not for** diagnosis",
        "ISIC Archive",
        "CC BY-NC",
        "train: 1,152 benign, 958 malignant; test: 288 benign, 239 malignant",
        "1 files rejected; 2 pairs of identical and 41 of nearly identical images; 19 pairs stand across",
        "labels contradict in 0 pairs of the former and 3 of the latter",
        "Chosen from 4 trials, the cheapest within one standard error of the best AUROC on 317 validation images",
        "Temperature 1.217 and the threshold (sensitivity 95%)",
        "optimiser adamw, learning rate 0.002",
        "precision bfloat16",
        "*benign* means nevus only",
        "Skin tone, age and sex are not known",
        "Commit `7ca6f7c2ab7ca6f7c2ab7ca6f7c2ab7ca6f7c2ab+changes`, data `9f2c",
        "seed 11, run `SkinLesionFlow/1763900000000000`; python 3.12.3, torch 2.15.0.",
        "(5 have a twin in training)",
    ],
)
def test_card_says(words):
    assert words in model_card.render(FACTS)


def test_results_stand_with_their_intervals_and_without_twins():
    shown = table(model_card.render(FACTS), "## Results")
    for name, path in {
        "AUROC": ("auroc",),
        "AUROC of colour alone": ("shortcut", "auroc"),
        "difference": ("shortcut", "difference"),
        "average precision": ("average_precision",),
        "specificity at 95% sensitivity": ("specificity_at_sensitivity", 1),
        "sensitivity at 90% specificity": ("sensitivity_at_specificity", 0),
        "sensitivity at 0.300": ("operating_point", "sensitivity"),
        "accuracy at 0.300": ("operating_point", "accuracy"),
        "Brier score before scaling": ("calibration", "before", "brier"),
        "Brier score after scaling": ("calibration", "after", "brier"),
    }.items():
        for cell, which in zip(shown[name], ("all", "without_twins"), strict=True):
            of = results.report()[which]
            for key in path:
                of = of[key]
            low, high = of["interval"]
            assert cell == f"{of['value']:.3f} ({low:.3f} to {high:.3f})"


def test_calibration_error_stands_beside_what_chance_alone_gives():
    of = results.report()["all"]["calibration"]["after"]
    cell = table(model_card.render(FACTS), "## Results")["ECE after scaling"][0]
    assert cell == f"{of['ece']:.3f} (to {of['ece_noise']:.3f} by chance)"


def test_predictive_values_are_given_by_prevalence():
    shown = table(model_card.render(FACTS), "## Results")
    names = [f"{name}, {at} malignant" for name in ("PPV", "NPV") for at in ("2%", "10%", "45%")]
    assert [name for name in shown if "PV" in name] == names
    for cell, which in zip(shown["NPV, 10% malignant"], ("all", "without_twins"), strict=True):
        assert cell == estimate(results.report()[which]["operating_point"]["predictive_values"][1]["npv"])


def test_stress_table_leaves_nothing_out_and_names_what_is_undefined():
    shown = table(model_card.render(FACTS), "## Stress")
    assert shown["cooler"] == ["0.936", "0.895", "0.799"]
    assert shown["hair"] == ["undefined", "undefined", "0.736"]


def test_without_shortcut_twins_or_temperature_the_card_says_so():
    card = with_report("bare")
    shown = table(card, "## Results")
    assert "(nobody looked for twins)" in card
    assert shown["AUROC of colour alone"] == ["undefined"]
    assert "ECE before scaling" not in shown


def test_metrics_of_one_class_are_undefined():
    shown = table(with_report("benign"), "## Results")
    assert shown["AUROC"] == shown["sensitivity at 0.300"] == ["undefined"]


def test_every_row_of_a_table_has_as_many_cells_as_its_heading():
    for kind in ("full", "bare", "benign"):
        for block in with_report(kind).split("\n\n"):
            widths = {line.count("|") for line in block.split("\n") if line.startswith("|")}
            assert len(widths) <= 1, block


def test_card_of_synthetic_images_says_so_first_and_claims_nothing_about_skin():
    card = model_card.render(FACTS | {"synthetic": True})
    assert "SYNTHETIC" in card[:120]
    assert "ISIC" not in card
    assert "nevus" not in card


def test_unknown_commit_is_called_unknown():
    card = model_card.render(FACTS | {"commit": None})
    assert "Commit `unknown`" in card


def test_a_usual_card_fits_into_mlflow_s_description():
    rows = [results.STRESS[1] | {"name": name} for name in ("unchanged", *stress.SHIFTS)]
    packages = ("python", "torch", "torchvision", "numpy", "scikit-learn", "metaflow", "mlflow")
    card = model_card.render(FACTS | {"stress": rows, "versions": dict.fromkeys(packages, "12.10.13")})
    assert model_card.excerpt(card) == card


def test_a_longer_card_is_cut_between_lines_and_says_so():
    card = model_card.render(FACTS | {"name": "x" * 200, "stress": results.STRESS * 50})
    excerpt = model_card.excerpt(card)
    kept, note = excerpt.rsplit("\nThe rest", 1)
    assert len(card) > model_card.LIMIT >= len(excerpt)
    assert card.startswith(kept + "\n")
    assert "artifacts" in note
