"""Ends the jobs of an emulator that is gone, however it went; `jobs.Jobs` starts it as a process of its own."""

import os
import signal
import sys
from collections.abc import Iterable
from contextlib import suppress


def kill_left_over(lines: Iterable[str]) -> None:
    """Follow the emulator's reports to their end, which is its own, and kill the jobs that still run then.

    Args:
        lines: `+GROUP` when the process group of a job begins, `-GROUP` when it has ended.
    """
    running = set()
    for line in lines:
        group = int(line[1:])
        if line.startswith("+"):
            running.add(group)
        else:
            running.discard(group)
    for group in running:
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    kill_left_over(sys.stdin)
