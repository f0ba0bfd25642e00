"""Processes that outlive the command that started them, and are known again by number and time of creation."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict

# Far less than the system needs to come round to the same number again; a set clock moves what psutil reports.
_SAME_SECONDS = 2.0
# SeaweedFS takes three seconds to end.
_GRACE_SECONDS = 10.0


class Started(BaseModel):
    """A process that leads a process group of its own.

    Attributes:
        pid: Its number, and its group's.
        created: When it was created, in seconds since 1970.
    """

    model_config = ConfigDict(frozen=True)

    pid: int
    created: float


def start(command: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path) -> Started:
    """Start a command in a folder, as the leader of a session, with all that it prints at the end of a log."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Started(pid=process.pid, created=psutil.Process(process.pid).create_time())


def runs(started: Started) -> bool:
    """Tell whether a process still runs; another that got its number since does not count."""
    try:
        process = psutil.Process(started.pid)
        same = abs(process.create_time() - started.created) < _SAME_SECONDS
        # In a container there may be nobody who takes the dead away.
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def stop(processes: Iterable[Started]) -> None:
    """End process groups: all are asked at once, and after some seconds whatever is left of them is killed.

    Workers that outlived their leader end too.
    """
    groups = [process for process in processes if _members(process)]
    for number, patience in ((signal.SIGTERM, _GRACE_SECONDS), (signal.SIGKILL, _GRACE_SECONDS)):
        for group in groups:
            with suppress(ProcessLookupError):
                os.killpg(group.pid, number)
        deadline = time.monotonic() + patience
        while (groups := [group for group in groups if _members(group)]) and time.monotonic() < deadline:
            time.sleep(0.05)


def _members(started: Started) -> list[int]:
    """Return the living processes of a group; none if its number has passed to another process."""
    try:
        if abs(psutil.Process(started.pid).create_time() - started.created) >= _SAME_SECONDS:
            return []
    except psutil.NoSuchProcess:
        pass  # while others of the group live, nobody can get its number
    found = []
    for pid in psutil.pids():
        with suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getpgid(pid) == started.pid and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
    return found


def is_free(port: int) -> bool:
    """Tell whether nobody listens at a port of this machine."""
    with socket.socket() as probe:
        # As servers do: connections that an earlier one left to time out are no hindrance.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
