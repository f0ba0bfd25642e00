"""The leaderboard of a sweep, and its winner."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skinlib.errors import TrainingError
from skinlib.evaluation import intervals, metrics

if TYPE_CHECKING:
    import pandas as pd


def leaderboard(
    trials: Mapping[str, dict[str, Any]],
    results: Mapping[str, dict[str, Any]],
    labels: NDArray[np.int64],
    groups: NDArray[np.int64],
    shortcut: NDArray[np.float64],
) -> "pd.DataFrame":
    """Choose the winner of a sweep, and rank the other trials below it.

    Of the trials within one standard error of the best validation AUROC the one with the fewest multiply-adds wins,
    then the one whose key comes first: what noise cannot tell apart, cost may (Breiman et al. 1984, the rule of one
    standard error). The error is that of the paired difference to the best, by DeLong's method.

    Args:
        trials: the hyperparameters by the trial's key.
        results: what `TrialResult.summary` gives, by the trial's key.
        labels: int (M,) of the validation images, 1 is malignant.
        groups: int (M,), equal for near-duplicate validation images.
        shortcut: float (M,), what colours alone say of the validation images.

    Returns:
        A row a trial, the winner first, then by falling AUROC, the failed ones last: `trial`, `status`, `reason`;
        `validation_auroc` (0..1) with `low` and `high`, its 95 % interval by a bootstrap over groups; `behind_best`,
        the paired difference to the best AUROC, and its `standard_error`; `shortcut_auroc`; `above_shortcut`, the
        paired difference to that, with `above_shortcut_low` and `above_shortcut_high`; `multiply_adds` of an image;
        `best_epoch`, `epochs_trained`, `seconds`; then every hyperparameter. NaN stands for what is undefined.

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
    rows = {
        key: {
            "trial": key,
            "status": result["status"],
            "reason": result["reason"],
            **(_scores(labels, result["validation_probabilities"], groups, best) if key in scored else {}),
            **against_shortcut(labels, result["validation_probabilities"], shortcut),
            "multiply_adds": result["multiply_adds"],
            "best_epoch": result["best_epoch"],
            "epochs_trained": len(result["history"]),
            "seconds": round(sum(epoch["seconds"] for epoch in result["history"]), 1),
            **trials[key],
        }
        for key, result in results.items()
    }
    within = [key for key in ranked if rows[key]["behind_best"] <= rows[key]["standard_error"]]
    winner = min(within, key=lambda key: (rows[key]["multiply_adds"], key))
    order = [winner, *(key for key in ranked if key != winner), *(key for key in results if key not in scored)]
    return pd.DataFrame([rows[key] for key in order])


def _scores(
    labels: NDArray[np.int64],
    probabilities: NDArray[np.float64],
    groups: NDArray[np.int64],
    best: NDArray[np.float64],
) -> dict[str, Any]:
    auroc = metrics.auroc_estimate(labels, probabilities, groups)
    low, high = auroc["interval"] or (np.nan, np.nan)
    behind = intervals.delong(labels, best, probabilities)
    return {
        "validation_auroc": auroc["value"],
        "low": low,
        "high": high,
        "behind_best": behind.difference,
        # With one image of a class there is none; then only an equal AUROC is as good.
        "standard_error": behind.standard_error or 0.0,
    }


def against_shortcut(
    labels: NDArray[np.int64], probabilities: NDArray[np.float64], shortcut: NDArray[np.float64]
) -> dict[str, float | None]:
    """Compare a trial with what colours alone tell of the same images.

    Returns:
        `shortcut_auroc`; `above_shortcut`, the trial's AUROC minus that; and the ends of that difference's 95 %
        interval (DeLong), `above_shortcut_low` and `above_shortcut_high`. What is undefined is None. For a failed
        trial, which has no probabilities, there is the first alone.
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


def choice(board: "pd.DataFrame") -> str:
    """Say in a sentence why the first row of a leaderboard won."""
    winner, rivals = board.iloc[0], board.iloc[1:]
    within = rivals[rivals["behind_best"] <= rivals["standard_error"]]
    if rivals["validation_auroc"].isna().all():
        return f"{winner['trial']} is the only trial that gave a model."
    if within.empty:
        return f"{winner['trial']} is better than every other trial by more than one standard error."
    tie = (within["multiply_adds"] == winner["multiply_adds"]).any()
    return (
        f"{len(within) + 1} trials lie within one standard error of the best validation AUROC, which may be noise; of "
        f"these {winner['trial']} {'is as cheap as any, and the first by key' if tie else 'is the cheapest'}."
    )
