"""Which trial may use which device: parallel branches on one machine take turns through file locks.

The system frees a lock when its process ends, however it ends.
"""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

# Beyond 4 threads a small ResNet gains little, and more trials at once gain in full.
_MOST_THREADS = 4


@dataclass(frozen=True)
class Slot:
    """A device (`cpu`, `cuda:0`, ...) and the number of CPU threads that go with it.

    Both are recorded with the result: sums in another order give other last bits, and training magnifies them.
    """

    device: str
    threads: int


def limit_threads() -> int:
    """Let torch use as many CPU threads as a trial gets, and return how often that goes into the machine's cores."""
    import torch

    cores = _cores()
    torch.set_num_threads(_threads(cores))
    return cores // _threads(cores)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _threads(cores: int) -> int:
    # Not all cores for one trial: threads wait for the slowest of them at every layer, so that where another process
    # takes one of two cores, two threads train ResNet-18 with 13 instead of 140 images/s, and one thread with 80.
    return min(_MOST_THREADS, max(1, cores // 2))


def _slots() -> list[Slot]:
    import torch

    cores = _cores()
    threads = _threads(cores)
    if torch.cuda.is_available():
        return [Slot(f"cuda:{i}", threads) for i in range(torch.cuda.device_count())]
    return [Slot("cpu", threads)] * (cores // threads)


@contextmanager
def take_slot() -> Iterator[Slot]:
    """Wait for a free device, one trial a GPU or a few threads of the CPU, and hold it for the block."""
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
