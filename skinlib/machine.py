"""What this process may use of its machine: in a container less than the machine has."""

import os
from collections.abc import Iterator
from pathlib import Path

_PROCESS, _CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def cores() -> int:
    """Count the CPU cores of the process's affinity, at most as many as the CPU quota of its cgroups allows.

    A part of a core is not counted: a thread that exceeds the quota stops for the rest of a period, and others wait.
    """
    found = _affinity()
    for folder in _folders("cpu"):
        # Version 2 has one file with "max" or the quota, and the period; version 1 has a file for each, and -1 for no
        # limit.
        limit = _numbers(folder / "cpu.max") or _numbers(folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us")
        if limit and min(limit) > 0:
            found = min(found, limit[0] // limit[1])
    return max(1, found)


def memory() -> int:
    """Return the bytes of memory: of the machine, or of the strictest of the process's cgroups."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    files = ("memory.max", "memory.limit_in_bytes")
    limits = [limit for folder in _folders("memory") for name in files for limit in _numbers(folder / name)]
    return min([total, *limits])


def workers(bytes_each: int) -> int:
    """Return how many workers may run at once: one for each core, if each may take that many bytes of memory."""
    return max(1, min(cores(), memory() // bytes_each))


def limit_threads() -> None:
    """Tell OpenMP of a CPU quota, and so torch, NumPy and scikit-learn; by themselves they know the affinity only.

    They read the variable when they are imported.
    """
    if cores() < _affinity():
        os.environ.setdefault("OMP_NUM_THREADS", str(cores()))


def _affinity() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _folders(controller: str) -> Iterator[Path]:
    """Yield the folders of this process's cgroups that limit a resource, and of all cgroups above them."""
    try:
        lines = _PROCESS.read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = _CGROUPS / controller if controllers else _CGROUPS
        inner = root / path.lstrip("/")
        # In a container, the path may be that on its host; the root is then the container's own cgroup.
        yield from (folder for folder in (inner, *inner.parents) if folder.is_relative_to(root))


def _numbers(*files: Path) -> tuple[int, ...]:
    """Return the numbers in some files; none if one does not exist or says "max"."""
    try:
        return tuple(int(word) for file in files for word in file.read_text().split())
    except (OSError, ValueError):
        return ()
