"""Which trial may use which device: parallel branches on one machine take turns through file locks.

The operating system releases a lock when its process ends, whatever the reason.
"""

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from skinlib import machine

# A small ResNet gains little from more than 4 threads; training more trials at once uses all cores.
_THREADS = 4
# Of one trial's process: torch takes 0.8 GB, and scoring a batch of 64 images with ResNet-50 at 224 px another 0.7 GB.
_SLOT_BYTES = 2 << 30


@dataclass(frozen=True)
class Slot:
    """A device (`cpu`, `cuda:0`, ...) and its number of CPU threads.

    Both are recorded with the result: another order of summation changes the last bits, and training magnifies them.
    """

    device: str
    threads: int


def cpu_slots(branches: int) -> list[Slot]:
    """Divide the cores among the branches of a run, but make no more slots than the memory allows.

    The division depends on their number only, not on which of them run: otherwise the threads of a branch, and so
    the last bits of its result, would be a matter of chance.
    """
    cores = machine.cores()
    most = max(1, cores // min(_THREADS, max(1, cores // 2)))
    n = max(1, min(branches, most, machine.memory() // _SLOT_BYTES))
    return [Slot("cpu", cores // n)] * n


def _slots(branches: int) -> list[Slot]:
    """Return the devices of this machine: its GPUs, or else its CPU."""
    import torch

    if torch.cuda.is_available():
        threads = max(1, machine.cores() // torch.cuda.device_count())
        return [Slot(f"cuda:{i}", min(_THREADS, threads)) for i in range(torch.cuda.device_count())]
    return cpu_slots(branches)


@contextmanager
def take_slot(branches: int) -> Iterator[Slot]:
    """Wait for a free device (a GPU, or some cores of the CPU) and hold it inside the block.

    Args:
        branches: How many branches of the run may train on this machine.
    """
    folder = Path(tempfile.gettempdir()) / f"skinlib-slots-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    slots = _slots(branches)
    waiting = False
    while True:
        for number, slot in enumerate(slots):
            with ExitStack() as held:
                if _lock(held, [folder / name for name in _locks(number, slot)]):
                    yield slot
                    return
        if not waiting:
            print(f"Waiting for one of {len(slots)} slots ({slots[0].device}) on this machine.", flush=True)
            waiting = True
        time.sleep(0.2)


def _locks(number: int, slot: Slot) -> list[str]:
    """Name the locks of a slot: one for a GPU, and one for each core, since the slots of another run may be larger."""
    if slot.device != "cpu":
        return [f"{slot.device.replace(':', '-')}.lock"]
    return [f"core-{core}.lock" for core in range(number * slot.threads, (number + 1) * slot.threads)]


def _lock(held: ExitStack, files: Sequence[Path]) -> bool:
    """Acquire locks until the end of a block; return whether all were free."""
    try:
        for file in files:
            held.enter_context(FileLock(file).acquire(timeout=0))
    except Timeout:
        return False
    return True
