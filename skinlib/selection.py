"""The leaderboard of a sweep, and its winner."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from skinlib.errors import TrainingError

if TYPE_CHECKING:
    import pandas as pd


def leaderboard(trials: Mapping[str, dict[str, Any]], results: Mapping[str, dict[str, Any]]) -> "pd.DataFrame":
    """Rank the trials of a sweep by their validation AUROC, the failed ones last.

    Args:
        trials: the hyperparameters by the trial's key.
        results: what `TrialResult.summary` gives, by the trial's key.

    Returns:
        A row a trial: `trial`, `status`, `reason`, `validation_auroc` (0..1, NaN for a failed trial),
        `best_epoch`, `epochs_trained`, `seconds`, then every hyperparameter.

    Raises:
        TrainingError: no trial has a model.
    """
    import pandas as pd

    rows = [
        {
            "trial": key,
            "status": result["status"],
            "reason": result["reason"],
            "validation_auroc": result["validation_auroc"],
            "best_epoch": result["best_epoch"],
            "epochs_trained": len(result["history"]),
            "seconds": round(sum(epoch["seconds"] for epoch in result["history"]), 1),
            **trials[key],
        }
        for key, result in results.items()
    ]
    board = pd.DataFrame(rows).sort_values(
        ["validation_auroc", "trial"], ascending=[False, True], na_position="last", ignore_index=True
    )
    if not np.isfinite(board["validation_auroc"]).any():
        reasons = "; ".join(f"{row.trial} {row.status}: {row.reason}" for row in board.itertuples())
        raise TrainingError(f"No trial gave a model ({reasons}); change the sweep config and run again.")
    return board
