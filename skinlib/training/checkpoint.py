"""The state of a trial from which a killed attempt continues."""

import hashlib
import io
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict, cast

from skinlib.config import checkpoint_seconds
from skinlib.data.split import Fold
from skinlib.data.storage import Store
from skinlib.errors import StorageError
from skinlib.training.result import Epoch

if TYPE_CHECKING:
    import torch

CHECKPOINT_SECONDS = checkpoint_seconds()
_CHECKSUM_BYTES = 32
_MOST_FAILURES = 3  # before the first success; a store that never worked will not work later either


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
        notice: A file that appears when this machine will soon be taken away; from then on, every epoch is saved.
    """

    store: Store
    key: str
    seconds: float = CHECKPOINT_SECONDS
    notice: str | None = None

    def load(self) -> TrialState | None:
        """Read the state that a killed attempt left; None if there is none or its bytes have changed."""
        import torch

        if not self.store.exists(self.key):
            return None
        content = self.store.read(self.key)
        checksum, data = content[:_CHECKSUM_BYTES], content[_CHECKSUM_BYTES:]
        if hashlib.sha256(data).digest() != checksum:
            print(f"The checkpoint {self.store.url}/{self.key} is damaged; the training starts anew.", flush=True)
            return None
        return cast(TrialState, torch.load(io.BytesIO(data), map_location="cpu", weights_only=True))

    def is_due(self, seconds: float) -> bool:
        """Return whether to save now, so many seconds after the last save."""
        return seconds >= self.seconds or (self.notice is not None and os.path.exists(self.notice))

    def save(self, data: bytes) -> None:
        """Write a state, as `torch.save` gives it, after its SHA-256; torch itself does not notice a changed bit."""
        self.store.write(self.key, hashlib.sha256(data).digest() + data)


class BackgroundSaver:
    """Saves the states of a trial that trains on meanwhile, one at a time; from `saving_in_background`."""

    def __init__(self, checkpoint: Checkpoint, on_saved: Callable[[list[Epoch]], None], thread: ThreadPoolExecutor):
        self._checkpoint, self._on_saved, self._thread = checkpoint, on_saved, thread
        self._began = time.monotonic()  # the last save, or the training
        self._saving: tuple[Future[None], list[Epoch]] | None = None
        self._failures, self._works = 0, False

    def save(self, state: TrialState, last: bool) -> None:
        """Start to save a state, unless the previous save is too recent or goes on; wait for it if it is the last one.

        A save that fails is only a warning, because the next one replaces it.

        Raises:
            StorageError: No state could be saved: not the last one, or not one of the first three.
        """
        import torch

        if self._saving and (last or self._saving[0].done()):
            self._settle(*self._saving, last=False)
        if not last and (self._saving or not self._checkpoint.is_due(time.monotonic() - self._began)):
            return
        self._began = time.monotonic()
        # The bytes are a copy, which the training does not change.
        data = io.BytesIO()
        torch.save(state, data)
        history = list(state["history"])
        self._saving = self._thread.submit(self._write, data.getvalue(), history), history
        if last:
            self._settle(*self._saving, last=True)

    def _write(self, data: bytes, history: list[Epoch]) -> None:
        self._checkpoint.save(data)
        self._on_saved(history)  # here too, since what it calls may answer slowly

    def _settle(self, writing: Future[None], history: list[Epoch], last: bool) -> None:
        self._saving = None
        try:
            writing.result()
        except StorageError as error:
            self._failures += 1
            if not self._works and (last or self._failures == _MOST_FAILURES):
                raise
            print(f"Going on without the checkpoint of epoch {len(history)}. {error}", flush=True)
        else:
            self._works = True


@contextmanager
def saving_in_background(checkpoint: Checkpoint, on_saved: Callable[[list[Epoch]], None]) -> Iterator[BackgroundSaver]:
    """Give a saver that calls `on_saved`, in its own thread, with the history of each saved state.

    At the end, wait for the last save.
    """
    with ThreadPoolExecutor(1) as thread:
        yield BackgroundSaver(checkpoint, on_saved, thread)


def checkpoint_folder(run_key: str) -> str:
    """Return the prefix of the checkpoints of a run's trials, below the root of its datastore."""
    return f"skinlib/checkpoints/{run_key}"


def checkpoint_key(run_key: str, branch: str, data_hash: str, fold: Fold) -> str:
    """Return the key of the checkpoint of a branch, which is named as in `sweep.branches`.

    It names the images and their split, since `resume ingest` may find other images or run other code.
    """
    images = hashlib.sha256(data_hash.encode())
    for part, index in (("train", fold["train"]), ("validation", fold["validation"])):
        images.update(f"{part}: {index.tolist()}".encode())
    return f"{checkpoint_folder(run_key)}/{branch}-{images.hexdigest()[:12]}.pt"
