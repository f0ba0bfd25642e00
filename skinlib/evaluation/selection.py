"""The leaderboard of a sweep, and its winner."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skinlib.audit.baselines import column
from skinlib.errors import TrainingError
from skinlib.evaluation import intervals, metrics
from skinlib.training.result import TrialSummary

if TYPE_CHECKING:
    import pandas as pd


def leaderboard(
    trials: Mapping[str, Mapping[str, object]],
    results: Mapping[str, TrialSummary],
    labels: NDArray[np.int64],
    groups: NDArray[np.int64],
    baselines: Mapping[str, NDArray[np.float64]],
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
        baselines: float (M,) by name, the probabilities of baselines for the validation images.

    Returns:
        The artifact `leaderboard`, one row per trial: the winner first, then the other trials by falling AUROC, then
        the failed ones. Absent and undefined values are NaN. The columns, before one for each hyperparameter, are

            trial, status, reason            as in `TrialResult`
            validation_auroc, low, high      with the ends of its 95% interval, from a bootstrap over groups
            behind_best, standard_error      paired difference of the best AUROC and that of this trial (DeLong)
            colours_auroc, above_colours...  from `against_baselines`, four for each
            folds, fold_mean, fold_deviation, fold_lowest, fold_highest
                                             only with several: of the AUROCs of each fold's network on its own images
            multiply_adds                    of the forward pass of one image
            best_epoch                       from 1; 0 for a failed trial; with several folds their mean, rounded
            epochs_trained, seconds          of all epochs together

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

    def row(key: str, result: TrialSummary) -> dict[str, Any]:
        probabilities = result["validation_probabilities"]
        compared = _against_best(labels, probabilities, groups, best) if key in scored else {}
        return {
            "trial": key,
            "status": result["status"],
            "reason": result["reason"],
            **compared,
            **against_baselines(labels, probabilities, baselines),
            **(_spread(result["fold_aurocs"]) if "fold_aurocs" in result else {}),
            "multiply_adds": result["multiply_adds"],
            "best_epoch": result["best_epoch"],
            "epochs_trained": len(result["history"]),
            "seconds": round(sum(epoch["seconds"] for epoch in result["history"]), 1),
        }

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


def against_baselines(
    labels: NDArray[np.int64], probabilities: NDArray[np.float64], baselines: Mapping[str, NDArray[np.float64]]
) -> dict[str, float | None]:
    """Compare a trial with the baselines that see no lesion, on the same images.

    Args:
        labels: int (M,), 1 is malignant.
        probabilities: float (M,) of the trial, or empty if it failed.
        baselines: float (M,) by name.

    Returns:
        For the baseline `file traces` its AUROC, `file_traces_auroc`, how much higher that of the trial is,
        `above_file_traces`, and the ends of the 95% interval of this difference (DeLong), `above_file_traces_low` and
        `above_file_traces_high`; likewise for the others. None where undefined; a failed trial has the AUROCs only.
    """
    found: dict[str, float | None] = {}
    for name, scores in baselines.items():
        key = column(name)
        if not len(probabilities):
            found[f"{key}_auroc"] = metrics.auroc(labels, scores)
            continue
        above = intervals.delong(labels, probabilities, scores)
        low, high = above.interval or (None, None)
        found |= {f"{key}_auroc": above.second, f"above_{key}": above.difference}
        found |= {f"above_{key}_low": low, f"above_{key}_high": high}
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
