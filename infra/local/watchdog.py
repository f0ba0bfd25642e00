"""A process that kills the jobs of an emulator after the emulator has ended or was killed; `jobs.Jobs` starts it."""

import os
import signal
import sys
from collections.abc import Iterable
from contextlib import suppress


def kill_left_over(lines: Iterable[str]) -> None:
    """Read the emulator's reports until the pipe closes, then kill the jobs that still run.

    Args:
        lines: `+GROUP` when the process group of a job starts, `-GROUP` when it has ended.
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
