"""The state of a trial from which a killed attempt continues."""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict, cast

import numpy as np
from numpy.typing import NDArray

from skinlib.config import checkpoint_seconds
from skinlib.data.storage import Store
from skinlib.training.result import Epoch

if TYPE_CHECKING:
    import torch

CHECKPOINT_SECONDS = checkpoint_seconds()


class TrialState(TypedDict):
    """Everything that changes while a trial trains; the loop needs neither random states nor a scheduler."""

    network: dict[str, "torch.Tensor"]
    average: dict[str, "torch.Tensor"]
    optimiser: dict[str, object]
    history: list[Epoch]
    best: dict[str, "torch.Tensor"]
    best_epoch: int


@dataclass(frozen=True)
class Checkpoint:
    """Where a trial keeps its state.

    Attributes:
        store: The store that holds it.
        key: Its key in the store.
        seconds: Least time between two saves.
    """

    store: Store
    key: str
    seconds: float = CHECKPOINT_SECONDS

    def load(self) -> TrialState | None:
        """Read the state that a killed attempt left, or None."""
        import torch

        if not self.store.exists(self.key):
            return None
        data = io.BytesIO(self.store.read(self.key))
        return cast(TrialState, torch.load(data, map_location="cpu", weights_only=True))

    def save(self, state: TrialState) -> None:
        """Replace the state in one step."""
        import torch

        data = io.BytesIO()
        torch.save(state, data)
        self.store.write(self.key, data.getvalue())


def checkpoint_folder(run_key: str) -> str:
    """Return the prefix of the checkpoints of a run's trials, below the root of its datastore."""
    return f"skinlib/checkpoints/{run_key}"


def checkpoint_key(run_key: str, trial_key: str, data_hash: str, split: Mapping[str, NDArray[np.integer]]) -> str:
    """Return the key of a trial's checkpoint.

    It names the images and their split, since `resume ingest` may find other images or run other code.
    """
    images = hashlib.sha256(data_hash.encode())
    for part in ("train", "validation"):
        images.update(f"{part}: {split[part].tolist()}".encode())
    return f"{checkpoint_folder(run_key)}/{trial_key}-{images.hexdigest()[:12]}.pt"
