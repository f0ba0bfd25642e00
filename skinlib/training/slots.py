"""Which trial may use which device: parallel branches on one machine take turns through file locks.

The operating system releases a lock when its process ends, whatever the reason.
"""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from skinlib import machine

# A small ResNet gains little from more than 4 threads; training more trials at once uses all cores.
_MOST_THREADS = 4
# Of one trial's process: torch takes 0.8 GB, and scoring a batch of 64 images with ResNet-50 at 224 px another 0.7 GB.
_SLOT_BYTES = 2 << 30


@dataclass(frozen=True)
class Slot:
    """A device (`cpu`, `cuda:0`, ...) and its number of CPU threads.

    Both are recorded with the result: another order of summation changes the last bits, and training magnifies them.
    """

    device: str
    threads: int


def cpu_slots() -> list[Slot]:
    """Divide the CPU among as many trials as its cores and its memory allow at once."""
    cores = machine.cores()
    # Not all cores for one trial: at every layer the threads wait for the slowest one. If another process takes one of
    # two cores, two threads train ResNet-18 at 13 instead of 140 images/s, and one thread at 80.
    threads = min(_MOST_THREADS, max(1, cores // 2))
    return [Slot("cpu", threads)] * max(1, min(cores // threads, machine.memory() // _SLOT_BYTES))


def _slots() -> list[Slot]:
    """Return the devices of this machine: its GPUs, or else its CPU."""
    import torch

    if torch.cuda.is_available():
        return [Slot(f"cuda:{i}", cpu_slots()[0].threads) for i in range(torch.cuda.device_count())]
    return cpu_slots()


@contextmanager
def take_slot() -> Iterator[Slot]:
    """Wait for a free device (a GPU, or some threads of the CPU) and hold it inside the block."""
    folder = Path(tempfile.gettempdir()) / f"skinlib-slots-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    slots = _slots()
    waiting = False
    while True:
        for number, slot in enumerate(slots):
            lock = FileLock(folder / f"{slot.device.replace(':', '-')}-{number}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            try:
                yield slot
            finally:
                lock.release()
            return
        if not waiting:
            print(f"Waiting for one of {len(slots)} slots ({slots[0].device}) on this machine.", flush=True)
            waiting = True
        time.sleep(0.2)
