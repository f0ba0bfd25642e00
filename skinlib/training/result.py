"""What a trial gives: its history, held-out probabilities and weights; and its result over the folds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Literal, NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from skinlib.data.split import Fold, out_of_fold

Status = Literal["finished", "diverged", "out of memory", "timed out"]


class Epoch(TypedDict):
    """One epoch of a trial.

    `epoch` counts from 1, and `time_ms` is the Unix time at its end. `peak_share` is the share of the GPU's bf16 peak,
    if that peak is known.
    """

    epoch: int
    time_ms: int
    train_loss: float
    validation_loss: float
    validation_auroc: float
    learning_rate: float
    images_per_second: float
    seconds: float
    peak_share: NotRequired[float]


class Setting(TypedDict):
    """Device, threads and precision of a training; only a repetition with the same ones gives the same bits."""

    device: str
    name: str
    threads: int
    precision: Literal["bfloat16", "float32"]


class TrialSummary(TypedDict):
    """The artifact `result`: a `TrialResult` without its weights; or what `over_folds` makes of several.

    `fold_aurocs` has the validation AUROC of each fold, NaN for one that failed.
    """

    status: Status
    reason: str
    history: list[Epoch]
    best_epoch: int
    validation_auroc: float
    validation_probabilities: NDArray[np.float64]
    setting: Setting
    multiply_adds: int
    fold_aurocs: NotRequired[list[float]]


@dataclass(frozen=True)
class TrialResult:
    """What a trial gave.

    Attributes:
        status: How it ended.
        reason: Why it ended so, in a sentence; for a finished trial, whether it stopped early, and its precision.
        setting: The setting of the training.
        multiply_adds: Of one image's forward pass.
        history: All epochs in order.
        best_epoch: The epoch with the best validation AUROC; 0 if the trial failed.
        validation_auroc: AUROC of the best epoch's averaged weights, in 0..1; NaN if the trial failed.
        validation_probabilities: float64 (M,), in the order of the validation images; empty if the trial failed.
        weights: The best epoch's averaged weights, float32 by name; empty if the trial failed.
    """

    status: Status
    reason: str
    setting: Setting
    multiply_adds: int
    history: list[Epoch] = field(default_factory=list)
    best_epoch: int = 0
    validation_auroc: float = math.nan
    validation_probabilities: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    weights: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    def summary(self) -> TrialSummary:
        """Return everything except the weights, as plain values."""
        return {
            "status": self.status,
            "reason": self.reason,
            "history": self.history,
            "best_epoch": self.best_epoch,
            "validation_auroc": self.validation_auroc,
            "validation_probabilities": self.validation_probabilities,
            "setting": self.setting,
            "multiply_adds": self.multiply_adds,
        }


def over_folds(results: Sequence[TrialSummary], folds: Sequence[Fold], labels: NDArray[np.int64]) -> TrialSummary:
    """Put the results of a trial on all folds together; that of a single fold stays what it is.

    The probabilities are out-of-fold: each image has that of the network that did not learn from it. The AUROC is that
    of all of them together. An epoch of the history is the mean over the folds that reached it, and its seconds their
    sum. `best_epoch` is the mean, rounded; `multiply_adds` are those of all networks.

    If a fold failed, the trial failed, with the reason of the first such fold.

    Args:
        results: one for each fold, in their order.
        folds: from `split.folds`.
        labels: int64 (N,) of all images, 1 is malignant.
    """
    if len(results) == 1:
        return results[0]
    from sklearn.metrics import roc_auc_score

    together: TrialSummary = {
        **results[0],
        "history": [_mean([epoch for epoch in row if epoch]) for row in zip_longest(*(r["history"] for r in results))],
        "multiply_adds": sum(result["multiply_adds"] for result in results),
        "fold_aurocs": [result["validation_auroc"] for result in results],
    }
    for number, result in enumerate(results, start=1):
        if result["status"] != "finished":
            together["status"], together["reason"] = result["status"], f"fold {number}: {result['reason']}"
            together["best_epoch"], together["validation_auroc"] = 0, math.nan
            together["validation_probabilities"] = np.zeros(0)
            return together
    held_out = [labels[fold["validation"]] for fold in folds]
    reasons = list(dict.fromkeys(result["reason"] for result in results))
    probabilities = out_of_fold(folds, [result["validation_probabilities"] for result in results])
    together["reason"] = f"{' or '.join(reasons)} in each of {len(results)} folds"
    together["best_epoch"] = round(np.mean([result["best_epoch"] for result in results]))
    together["validation_auroc"] = float(roc_auc_score(out_of_fold(folds, held_out), probabilities))
    together["validation_probabilities"] = probabilities
    return together


def _mean(epochs: Sequence[Epoch]) -> Epoch:
    return {
        "epoch": epochs[0]["epoch"],
        "time_ms": max(epoch["time_ms"] for epoch in epochs),
        "train_loss": float(np.mean([epoch["train_loss"] for epoch in epochs])),
        "validation_loss": float(np.mean([epoch["validation_loss"] for epoch in epochs])),
        "validation_auroc": float(np.mean([epoch["validation_auroc"] for epoch in epochs])),
        "learning_rate": float(np.mean([epoch["learning_rate"] for epoch in epochs])),
        "images_per_second": float(np.mean([epoch["images_per_second"] for epoch in epochs])),
        "seconds": sum(epoch["seconds"] for epoch in epochs),
    }
