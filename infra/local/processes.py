"""Processes that outlive the command that started them; a later command identifies them by pid and creation time."""

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

# Creation times differ after the clock was set; a system needs much longer than this to reuse a pid.
_SAME_SECONDS = 2.0
_GRACE_SECONDS = 10.0  # SeaweedFS takes three seconds to end


class Started(BaseModel):
    """The leader of a process group.

    Attributes:
        pid: The id of the process and of its group.
        created: Its creation time, in seconds since 1970.
    """

    model_config = ConfigDict(frozen=True)

    pid: int
    created: float


def start(command: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path) -> Started:
    """Start a command in a folder, as the leader of a session, and append its output to a log."""
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
    """Tell whether a process still runs; a different process with the same pid does not count."""
    try:
        process = psutil.Process(started.pid)
        same = abs(process.create_time() - started.created) < _SAME_SECONDS
        # A container may have no init process that reaps zombies.
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def stop(processes: Iterable[Started]) -> None:
    """End process groups, including children that outlived their leader: SIGTERM first, SIGKILL after 10 seconds."""
    groups = [process for process in processes if _members(process)]
    for number, patience in ((signal.SIGTERM, _GRACE_SECONDS), (signal.SIGKILL, _GRACE_SECONDS)):
        for group in groups:
            with suppress(ProcessLookupError):
                os.killpg(group.pid, number)
        deadline = time.monotonic() + patience
        while (groups := [group for group in groups if _members(group)]) and time.monotonic() < deadline:
            time.sleep(0.05)


def _members(started: Started) -> list[int]:
    """Return the living processes of a group; none if another process got its leader's pid."""
    try:
        if abs(psutil.Process(started.pid).create_time() - started.created) >= _SAME_SECONDS:
            return []
    except psutil.NoSuchProcess:
        pass  # no new process gets this pid while members of its group live
    found = []
    for pid in psutil.pids():
        with suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getpgid(pid) == started.pid and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
    return found


def is_free(port: int) -> bool:
    """Tell whether no process listens on a port of this machine."""
    with socket.socket() as probe:
        # As servers do, to ignore old connections in TIME_WAIT.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
