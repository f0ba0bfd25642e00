"""Jobs as subprocesses: both emulators start these instead of containers."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import uvicorn
from fastapi import FastAPI, Request, Response

from infra.local import watchdog

Json: TypeAlias = dict[str, Any]  # a request or job in the form of AWS or Kubernetes, which have no types for it

_GRACE_SECONDS = 3.0  # between SIGTERM and SIGKILL, for a step to save its last logs


class Jobs:
    """The jobs of one emulator. They start immediately, each in an empty directory, and never outlive the emulator.

    A job leaves `FOLDER/NAME/job.json`, the request with its outcome, and `FOLDER/NAME/log.txt`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._stopped: set[str] = set()
        self._watchdog = subprocess.Popen(
            [sys.executable, "-I", watchdog.__file__], stdin=subprocess.PIPE, start_new_session=True
        )

    def record(self, name: str, job: Json) -> None:
        """Write a job's `job.json` atomically."""
        path = self.folder / name / "job.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(job, indent=1))
        partial.replace(path)

    def run(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> int:
        """Run a job's command and wait until it ends.

        The command gets the emulator's environment, as a container gets its image's, and the job's own.

        Returns:
            The exit code, as from a container runtime: 128 + the signal number if a signal ended the command (137
            for SIGKILL), 127 if there is no such command.
        """
        work = self.folder / name / "work"
        work.mkdir(parents=True)
        try:
            with (self.folder / name / "log.txt").open("wb") as log:
                return self._run(name, command, {**os.environ, "HOME": str(work), **environment}, work, log.fileno())
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _run(self, name: str, command: Sequence[str], environment: dict[str, str], work: Path, log: int) -> int:
        with self._lock:
            if name in self._stopped:
                return 128 + signal.SIGTERM
            try:
                process = subprocess.Popen(
                    command,
                    cwd=work,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                os.write(log, f"{error}\n".encode())
                return 127
            self._running[name] = process
            self._report(f"+{process.pid}")
        # Do not reap it yet: until then, no other process group can get its number.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with self._lock:
            del self._running[name]
            _signal(process, signal.SIGKILL)  # as a container ends with its first process
            self._report(f"-{process.pid}")
            code = process.wait()
        return code if code >= 0 else 128 - code

    def stop(self, name: str) -> None:
        """Send SIGTERM to a job now and SIGKILL after a few seconds; if it has not started yet, it never will."""
        with self._lock:
            self._stopped.add(name)
            process = self._running.get(name)
            if process:
                _signal(process, signal.SIGTERM)
                timer = threading.Timer(_GRACE_SECONDS, self._kill, [name])
                timer.daemon = True
                timer.start()

    def _kill(self, name: str) -> None:
        with self._lock:
            if name in self._running:
                _signal(self._running[name], signal.SIGKILL)

    def _report(self, line: str) -> None:
        assert self._watchdog.stdin is not None
        self._watchdog.stdin.write(f"{line}\n".encode())
        self._watchdog.stdin.flush()


def serve(app: FastAPI, port: int, *, open_to_all: str) -> None:
    """Serve an emulator on 127.0.0.1 until the process ends.

    Jobs run commands, so other users of the machine, and web pages in its browsers, must not post any: each request
    needs the platform's generated access key in its `Authorization` header.

    Args:
        app: The emulator.
        port: Its port.
        open_to_all: The prefix of the paths that need no key.
    """
    key = os.environ["AWS_ACCESS_KEY_ID"]

    @app.middleware("http")
    async def check_key(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        if request.url.path.startswith(open_to_all) or key in request.headers.get("authorization", ""):
            return await answer(request)
        return Response('{"message": "the access key of the platform is missing"}', 401, media_type="application/json")

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", timeout_graceful_shutdown=1)


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)
