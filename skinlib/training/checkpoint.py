"""The state of a trial from which a killed attempt continues."""

import io
import os
from dataclasses import dataclass

import torch

from skinlib.data.storage import Store

# Tests set it to 0, so that each epoch can be killed and continued.
CHECKPOINT_SECONDS = float(os.environ.get("SKINLIB_CHECKPOINT_SECONDS", "30"))


@dataclass(frozen=True)
class Checkpoint:
    """Where a trial keeps its state, and how often at the most (seconds)."""

    store: Store
    key: str
    seconds: float = CHECKPOINT_SECONDS

    def load(self) -> dict[str, Any] | None:
        """Read the state that a killed attempt left, or None."""
        if not self.store.exists(self.key):
            return None
        data = io.BytesIO(self.store.read(self.key))
        return dict(torch.load(data, map_location="cpu", weights_only=True))

    def save(self, state: dict[str, Any]) -> None:
        """Replace the state in one step."""
        data = io.BytesIO()
        torch.save(state, data)
        self.store.write(self.key, data.getvalue())
