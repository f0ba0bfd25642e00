"""The result of a trial over its folds."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from skinlib.data.split import Fold
from skinlib.training.result import Setting, TrialSummary, over_folds
from tests.unit.results import history

LABELS = np.array([0, 1, 0, 1, 0, 1, 1, 0, 0])  # the last image is for test
FOLDS: list[Fold] = [
    {"train": np.array([1, 2, 5, 6, 7]), "validation": np.array([0, 3, 4])},
    {"train": np.array([0, 3, 4, 5, 6]), "validation": np.array([1, 2, 7])},
    {"train": np.array([0, 1, 2, 3, 4, 7]), "validation": np.array([5, 6])},
]
PROBABILITIES = np.array([0.1, 0.9, 0.3, 0.4, 0.5, 0.8, 0.2, 0.6])
SETTING: Setting = {"device": "cpu", "name": "cpu", "threads": 1, "precision": "float32"}


def result(fold: Fold, epochs: int = 3) -> TrialSummary:
    return {
        "status": "finished",
        "reason": f"all {epochs} epochs",
        "history": history(epochs, final=0.9),
        "best_epoch": epochs,
        "validation_auroc": 0.9,
        "validation_probabilities": PROBABILITIES[fold["validation"]],
        "setting": SETTING,
        "multiply_adds": 100,
    }


FAILED: TrialSummary = {
    "status": "diverged",
    "reason": "the loss was nan",
    "history": [],
    "best_epoch": 0,
    "validation_auroc": np.nan,
    "validation_probabilities": np.zeros(0),
    "setting": SETTING,
    "multiply_adds": 100,
}


def test_each_image_has_the_probability_of_the_fold_that_held_it_out() -> None:
    together = over_folds([result(fold) for fold in FOLDS], FOLDS, LABELS)
    np.testing.assert_array_equal(together["validation_probabilities"], PROBABILITIES)
    assert together["validation_auroc"] == pytest.approx(roc_auc_score(LABELS[:8], PROBABILITIES))
    assert together["fold_aurocs"] == [0.9, 0.9, 0.9]
    assert (together["status"], together["reason"]) == ("finished", "all 3 epochs in each of 3 folds")
    assert together["multiply_adds"] == 300


def test_the_history_is_the_mean_over_the_folds_that_reached_an_epoch() -> None:
    together = over_folds([result(fold, epochs) for fold, epochs in zip(FOLDS, (3, 4, 3), strict=True)], FOLDS, LABELS)
    assert [epoch["epoch"] for epoch in together["history"]] == [1, 2, 3, 4]
    assert [epoch["seconds"] for epoch in together["history"]] == [180, 180, 180, 60]
    assert [epoch["validation_auroc"] for epoch in together["history"]] == pytest.approx(
        [2.63 / 3, 2.66 / 3, 2.69 / 3, 0.9]
    )
    assert together["best_epoch"] == 3
    assert together["reason"] == "all 3 epochs or all 4 epochs in each of 3 folds"


def test_a_trial_fails_with_its_first_failed_fold() -> None:
    together = over_folds([result(FOLDS[0]), FAILED, {**FAILED, "status": "out of memory"}], FOLDS, LABELS)
    assert (together["status"], together["reason"]) == ("diverged", "fold 2: the loss was nan")
    assert (together["best_epoch"], len(together["validation_probabilities"])) == (0, 0)
    assert np.isnan(together["validation_auroc"])
    assert len(together["history"]) == 3


def test_the_result_of_a_single_fold_stays_what_it_is() -> None:
    alone = result(FOLDS[0])
    assert over_folds([alone], FOLDS[:1], LABELS) is alone
