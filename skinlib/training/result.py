"""What a trial gives: its history, held-out probabilities and weights."""

import math
from dataclasses import dataclass, field
from typing import Literal, NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

Status = Literal["finished", "diverged", "out of memory"]


class Epoch(TypedDict):
    """One epoch of a trial.

    `epoch` counts from 1, `time_ms` is Unix time at its end. `peak_share` is the share of the GPU's bf16 peak, where
    that peak is known.
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
    """Device, threads and precision of a training; a repetition needs the same ones to give the same bits."""

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
        status: `finished`, `diverged` or `out of memory`.
        reason: why it ended as it did, in a sentence; for a finished trial, whether it stopped early.
        history: an entry an epoch: `epoch` (from 1), `time_ms` (Unix, milliseconds), `train_loss`,
            `validation_loss`, `validation_auroc`, `learning_rate`, `images_per_second`, `seconds`, and on a known
            GPU `peak_share`, the share of its bf16 peak.
        best_epoch: the epoch with the best validation AUROC, 0 if there is none.
        validation_auroc: of the best epoch's averaged weights, in 0..1; NaN if the trial failed.
        validation_probabilities: float64, in the order of the validation images; empty if the trial failed.
        weights: the best epoch's averaged weights, float32 by name; empty if the trial failed.
        setting: device, threads and precision, which a repetition must share to give the same bits.
        multiply_adds: of one image's forward pass.
    """

    status: str
    reason: str
    history: list[Epoch] = field(default_factory=list)
    best_epoch: int = 0
    validation_auroc: float = math.nan
    validation_probabilities: np.ndarray = field(default_factory=lambda: np.zeros(0))
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    setting: Setting | None = None
    multiply_adds: int = 0

    def summary(self) -> TrialSummary:
        """Everything but the weights, as plain values."""
        return {name: value for name, value in vars(self).items() if name != "weights"}
