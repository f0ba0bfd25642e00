"""What a trial gives: its history, held-out probabilities and weights."""

import math
from dataclasses import dataclass, field
from typing import Literal, NotRequired, TypedDict, cast

import numpy as np
from numpy.typing import NDArray

Status = Literal["finished", "diverged", "out of memory"]


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
    """The artifact `result`: a `TrialResult` without its weights."""

    status: Status
    reason: str
    history: list[Epoch]
    best_epoch: int
    validation_auroc: float
    validation_probabilities: NDArray[np.float64]
    setting: Setting
    multiply_adds: int


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
        return cast(TrialSummary, {name: getattr(self, name) for name in TrialSummary.__annotations__})
