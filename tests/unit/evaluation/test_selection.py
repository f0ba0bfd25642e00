"""The leaderboard: which trial wins, and what each row tells."""

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from skinlib.errors import TrainingError
from skinlib.evaluation import intervals, selection
from skinlib.training.result import TrialSummary

LABELS = np.array([0] * 60 + [1] * 40)
GROUPS = np.arange(100)
NOISE = np.random.default_rng(0).normal(size=100)
COLOURS = np.clip(0.5 + 0.1 * LABELS + 0.2 * np.random.default_rng(1).normal(size=100), 0, 1)


def scores(skill: float, seed: int) -> np.ndarray:
    """Probabilities that are better with more skill; trials differ by a little noise of their own."""
    own = np.random.default_rng(seed).normal(size=100)
    return 1 / (1 + np.exp(-(skill * (LABELS - 0.5) + NOISE + 0.2 * own)))


def result(probabilities: np.ndarray, multiply_adds: int = 1000) -> TrialSummary:
    return {
        "status": "finished",
        "reason": "all 2 epochs",
        "history": [{"seconds": 1.5}, {"seconds": 1.26}],
        "best_epoch": 2,
        "validation_auroc": roc_auc_score(LABELS, probabilities),
        "validation_probabilities": probabilities,
        "setting": {"device": "cpu", "name": "", "threads": 1, "precision": "float32"},
        "multiply_adds": multiply_adds,
    }


FAILED: TrialSummary = {
    "status": "diverged",
    "reason": "the loss was nan",
    "history": [],
    "best_epoch": 0,
    "validation_auroc": np.nan,
    "validation_probabilities": np.zeros(0),
    "setting": {"device": "cpu", "name": "", "threads": 1, "precision": "float32"},
    "multiply_adds": 10,
}


def rank(results: dict[str, TrialSummary], **hyperparameters: Any) -> Any:
    trials = {key: {"learning_rate": 0.001} | hyperparameters for key in results}
    return selection.leaderboard(trials, results, LABELS, GROUPS, {"colours": COLOURS})


def test_the_best_trial_wins_if_it_is_better_by_more_than_noise() -> None:
    board = rank({"a": result(scores(0.5, 1), 1), "b": result(scores(3, 2), 1000), "c": FAILED})
    assert list(board["trial"]) == ["b", "a", "c"]
    assert selection.explain_choice(board) == "b is better than every other trial by more than one standard error."


def test_within_one_standard_error_of_the_best_the_cheapest_wins() -> None:
    results = {"dear": result(scores(2, 1), 900), "cheap": result(scores(2.07, 2), 100), "bad": result(scores(0, 3), 1)}
    board = rank(results)
    dear = board.set_index("trial").loc["dear"]
    cheap = board.set_index("trial").loc["cheap"]
    assert dear["validation_auroc"] > cheap["validation_auroc"] > dear["validation_auroc"] - cheap["standard_error"]
    assert list(board["trial"]) == ["cheap", "dear", "bad"]
    assert selection.explain_choice(board).startswith(
        "2 trials are within one standard error of the best validation AUROC"
    )
    assert selection.explain_choice(board).endswith("Of these, cheap is the cheapest to run.")


def test_among_equally_cheap_trials_the_best_auroc_wins() -> None:
    board = rank({"a": result(scores(2.07, 2)), "b": result(scores(2, 1))})
    worse = board.set_index("trial").loc["a"]
    assert 0 < worse["behind_best"] <= worse["standard_error"]
    assert list(board["trial"]) == ["b", "a"]
    assert selection.explain_choice(board).endswith("Of these, b is the best of the cheapest ones.")


def test_among_equal_trials_the_first_key_wins() -> None:
    board = rank({"b": result(scores(2, 1)), "a": result(scores(2, 1))})
    assert list(board["trial"]) == ["a", "b"]


def test_the_standard_error_is_that_of_the_paired_difference() -> None:
    first, second = scores(2, 1), scores(1.5, 2)
    board = rank({"first": result(first), "second": result(second)}).set_index("trial")
    paired = intervals.delong(LABELS, first, second)
    assert board.loc["second", "behind_best"] == paired.difference
    assert board.loc["second", "standard_error"] == paired.standard_error
    assert board.loc["first", "behind_best"] == 0


def test_a_row_has_the_interval_of_the_auroc_and_the_difference_to_a_baseline() -> None:
    probabilities = scores(2, 1)
    row = rank({"a": result(probabilities)}).iloc[0]
    assert row["validation_auroc"] == pytest.approx(roc_auc_score(LABELS, probabilities))
    assert row["low"] < row["validation_auroc"] < row["high"]
    assert row["colours_auroc"] == pytest.approx(roc_auc_score(LABELS, COLOURS))
    assert row["above_colours"] == pytest.approx(row["validation_auroc"] - row["colours_auroc"])
    assert row["above_colours_low"] < row["above_colours"] < row["above_colours_high"]


def test_a_trial_that_separates_perfectly_has_no_interval() -> None:
    row = rank({"a": result(LABELS.astype(float))}).iloc[0]
    assert row["validation_auroc"] == 1
    assert np.isnan([row["low"], row["high"]]).all()


def test_failed_trials_are_last_with_their_reason() -> None:
    board = rank({"a": FAILED, "b": result(scores(1, 1))})
    last = board.iloc[-1]
    assert (last["trial"], last["status"], last["reason"]) == ("a", "diverged", "the loss was nan")
    assert np.isnan(last["validation_auroc"])
    assert selection.explain_choice(board) == "b is the only trial with a model."


def test_a_row_has_time_and_hyperparameters() -> None:
    row = rank({"a": result(scores(1, 1))}, batch_size=32).iloc[0]
    assert (row["epochs_trained"], row["seconds"], row["batch_size"]) == (2, 2.8, 32)


def test_a_sweep_without_a_model_says_why_each_trial_failed() -> None:
    with pytest.raises(TrainingError, match=r"a diverged: the loss was nan; b diverged: the loss was nan"):
        rank({"a": FAILED, "b": FAILED})


def test_a_row_has_the_difference_to_every_baseline() -> None:
    probabilities, others = scores(2, 1), {"file traces": scores(1, 3), "source": COLOURS}
    results = {"a": result(probabilities)}
    board = selection.leaderboard({"a": {"epochs": 2}}, results, LABELS, GROUPS, {"colours": COLOURS, **others})
    row = board.iloc[0]
    assert row["file_traces_auroc"] == pytest.approx(roc_auc_score(LABELS, others["file traces"]))
    assert row["above_file_traces"] == pytest.approx(row["validation_auroc"] - row["file_traces_auroc"])
    assert row["above_file_traces_low"] < row["above_file_traces"] < row["above_file_traces_high"]
    assert row["source_auroc"] == row["colours_auroc"]
    assert list(board.columns[list(board.columns).index("seconds") + 1 :]) == ["epochs"]


def test_a_failed_trial_has_the_auroc_of_the_baselines_only() -> None:
    found = selection.against_baselines(LABELS, np.zeros(0), {"colours": COLOURS})
    assert found == {"colours_auroc": pytest.approx(roc_auc_score(LABELS, COLOURS))}


def test_a_row_of_a_cross_validated_trial_has_the_spread_over_its_folds() -> None:
    aurocs = [0.9, 0.8, 0.85]
    board = rank({"a": {**result(scores(1, 1)), "fold_aurocs": aurocs}, "b": {**FAILED, "fold_aurocs": [0.9, np.nan]}})
    row, failed = board.iloc[0], board.iloc[1]
    assert (row["folds"], row["fold_lowest"], row["fold_highest"]) == (3, 0.8, 0.9)
    assert row["fold_mean"] == pytest.approx(0.85)
    assert row["fold_deviation"] == pytest.approx(np.std(aurocs, ddof=1))
    assert np.isnan(failed[["fold_mean", "fold_deviation", "fold_lowest", "fold_highest"]].astype(float)).all()


def test_a_trial_of_one_fold_has_no_columns_for_folds() -> None:
    assert not [name for name in rank({"a": result(scores(1, 1))}) if name.startswith("fold")]


def test_the_choice_among_cross_validated_trials_names_the_out_of_fold_auroc() -> None:
    results = {key: {**result(scores(2, 1)), "fold_aurocs": [0.9, 0.8]} for key in "ab"}
    assert "one standard error of the best out-of-fold AUROC" in selection.explain_choice(rank(results))
