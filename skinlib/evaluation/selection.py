"""The leaderboard of a sweep, and its winner."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NotRequired, TypedDict, cast

import numpy as np
from numpy.typing import NDArray

from skinlib.errors import TrainingError
from skinlib.evaluation import intervals, metrics
from skinlib.training.result import Status, TrialSummary

if TYPE_CHECKING:
    import pandas as pd


class ShortcutComparison(TypedDict, total=False):
    """A trial and the colour baseline on the validation images; a failed trial has `shortcut_auroc` only.

    Undefined values are None.
    """

    shortcut_auroc: float | None  # of the baseline
    above_shortcut: float | None  # AUROC of the trial minus that of the baseline
    above_shortcut_low: float | None  # the ends of its 95% interval (DeLong)
    above_shortcut_high: float | None


class LeaderboardRow(ShortcutComparison):
    """One row of the artifact `leaderboard`; there, the trial's hyperparameters follow.

    Before `multiply_adds` it has the same four values as for the colour baseline for each other one, from
    `against_baselines`.

    A failed trial has none of the five that compare it with the best trial on the validation images. Only with several
    folds are there columns for them; each fold's AUROC is that of its network on its own validation images.
    """

    trial: str
    status: Status
    reason: str
    validation_auroc: NotRequired[float | None]
    low: NotRequired[float]  # the ends of its 95% interval, from a bootstrap over groups; NaN if undefined
    high: NotRequired[float]
    behind_best: NotRequired[float]  # AUROC of the best trial minus that of this one
    standard_error: NotRequired[float]  # of this paired difference (DeLong)
    folds: NotRequired[int]
    fold_mean: NotRequired[float]  # of the folds' AUROCs; this and the following are NaN if a fold failed
    fold_deviation: NotRequired[float]  # their standard deviation
    fold_lowest: NotRequired[float]
    fold_highest: NotRequired[float]
    multiply_adds: int  # of the forward pass of one image
    best_epoch: int  # from 1; 0 for a failed trial; with several folds their mean, rounded
    epochs_trained: int
    seconds: float  # of all epochs together


def leaderboard(
    trials: Mapping[str, Mapping[str, object]],
    results: Mapping[str, TrialSummary],
    labels: NDArray[np.int64],
    groups: NDArray[np.int64],
    shortcut: NDArray[np.float64],
    baselines: Mapping[str, NDArray[np.float64]] | None = None,
) -> "pd.DataFrame":
    """Choose the winner of a sweep, and rank the other trials below it.

    Of the trials within one standard error of the best validation AUROC, the one with the fewest multiply-adds wins:
    when noise hides the difference, the cheaper one wins (Breiman et al. 1984, the rule of one standard error). Among
    equally cheap trials, the best AUROC wins, and then the first key.

    Args:
        trials: the hyperparameters by trial key.
        results: the results by trial key, over all folds.
        labels: int (M,) of the validation images, 1 is malignant.
        groups: int (M,), equal for validation images of the same lesion.
        shortcut: float (M,), the colour baseline's probabilities for the validation images.
        baselines: float (M,) by name, likewise of other baselines.

    Returns:
        One row per trial: a `LeaderboardRow` and every hyperparameter. The winner is first, then the other trials by
        falling AUROC, then the failed ones. Absent and undefined values are NaN.

    Raises:
        TrainingError: no trial has a model.
    """
    import pandas as pd

    scored = {key: result for key, result in results.items() if result["best_epoch"] > 0}
    if not scored:
        reasons = "; ".join(f"{key} {result['status']}: {result['reason']}" for key, result in results.items())
        raise TrainingError(f"No trial gave a model ({reasons}); change the sweep config and run again.")
    ranked = sorted(scored, key=lambda key: (-scored[key]["validation_auroc"], key))
    best = scored[ranked[0]]["validation_probabilities"]

    def row(key: str, result: TrialSummary) -> LeaderboardRow:
        probabilities = result["validation_probabilities"]
        compared = _against_best(labels, probabilities, groups, best) if key in scored else {}
        row: dict[str, object] = {
            "trial": key,
            "status": result["status"],
            "reason": result["reason"],
            **compared,
            **against_shortcut(labels, probabilities, shortcut),
            **against_baselines(labels, probabilities, baselines or {}),
            **(_spread(result["fold_aurocs"]) if "fold_aurocs" in result else {}),
            "multiply_adds": result["multiply_adds"],
            "best_epoch": result["best_epoch"],
            "epochs_trained": len(result["history"]),
            "seconds": round(sum(epoch["seconds"] for epoch in result["history"]), 1),
        }
        return cast(LeaderboardRow, row)

    rows = {key: row(key, result) for key, result in results.items()}
    within = [key for key in ranked if rows[key]["behind_best"] <= rows[key]["standard_error"]]
    # The first of the cheapest, so that between equals the AUROC decides before the key.
    winner = min(within, key=lambda key: rows[key]["multiply_adds"])
    order = [winner, *(key for key in ranked if key != winner), *(key for key in results if key not in scored)]
    return pd.DataFrame([{**rows[key], **trials[key]} for key in order])


def _against_best(
    labels: NDArray[np.int64],
    probabilities: NDArray[np.float64],
    groups: NDArray[np.int64],
    best: NDArray[np.float64],
) -> dict[str, float | None]:
    auroc = metrics.auroc_estimate(labels, probabilities, groups)
    low, high = auroc["interval"] or (np.nan, np.nan)
    behind = intervals.delong(labels, best, probabilities)
    # The error is undefined if a class has a single image; then only an equal AUROC is within it.
    compared = {"behind_best": behind.difference, "standard_error": behind.standard_error or 0.0}
    return {"validation_auroc": auroc["value"], "low": low, "high": high, **compared}


def _spread(aurocs: Sequence[float]) -> dict[str, float]:
    return {
        "folds": len(aurocs),
        "fold_mean": float(np.mean(aurocs)),
        "fold_deviation": float(np.std(aurocs, ddof=1)),
        "fold_lowest": float(np.min(aurocs)),
        "fold_highest": float(np.max(aurocs)),
    }


def against_shortcut(
    labels: NDArray[np.int64], probabilities: NDArray[np.float64], shortcut: NDArray[np.float64]
) -> ShortcutComparison:
    """Compare a trial with the colour baseline on the same images.

    Args:
        labels: int (M,), 1 is malignant.
        probabilities: float (M,) of the trial, or empty if it failed.
        shortcut: float (M,) of the colour baseline.
    """
    if not len(probabilities):
        return {"shortcut_auroc": metrics.auroc(labels, shortcut)}
    above = intervals.delong(labels, probabilities, shortcut)
    low, high = above.interval or (None, None)
    return {
        "shortcut_auroc": above.second,
        "above_shortcut": above.difference,
        "above_shortcut_low": low,
        "above_shortcut_high": high,
    }


def against_baselines(
    labels: NDArray[np.int64], probabilities: NDArray[np.float64], baselines: Mapping[str, NDArray[np.float64]]
) -> dict[str, float | None]:
    """Compare a trial with further baselines on the same images, as `against_shortcut` does with that of the colours.

    Args:
        labels: int (M,), 1 is malignant.
        probabilities: float (M,) of the trial, or empty if it failed.
        baselines: float (M,) by name.

    Returns:
        For `file traces`, the values `file_traces_auroc`, `above_file_traces`, `above_file_traces_low` and
        `above_file_traces_high`; likewise for the others.
    """
    found: dict[str, float | None] = {}
    for name, scores in baselines.items():
        values = cast(dict[str, float | None], against_shortcut(labels, probabilities, scores))
        found |= {key.replace("shortcut", name.replace(" ", "_")): value for key, value in values.items()}
    return found


def explain_choice(board: "pd.DataFrame") -> str:
    """Explain why the first row of a leaderboard won."""
    winner, rivals = board.iloc[0], board.iloc[1:]
    within = rivals[rivals["behind_best"] <= rivals["standard_error"]]
    if rivals["validation_auroc"].isna().all():
        return f"{winner['trial']} is the only trial with a model."
    if within.empty:
        return f"{winner['trial']} is better than every other trial by more than one standard error."
    held_out = "out-of-fold" if "folds" in board else "validation"
    tie = (within["multiply_adds"] == winner["multiply_adds"]).any()
    return (
        f"{len(within) + 1} trials are within one standard error of the best {held_out} AUROC, so their differences "
        f"may be noise. Of these, {winner['trial']} is "
        f"{'the best of the cheapest ones' if tie else 'the cheapest to run'}."
    )
