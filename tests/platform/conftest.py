"""One platform for all tests in this folder, started, used and stopped as by a user."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Platform:
    """A platform's folder, and the commands of its user."""

    home: Path

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "infra.local.services", "--home", str(self.home), *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)

    def environment(self) -> dict[str, str]:
        """Return what a shell has after `source env`, without the caller's own settings."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("METAFLOW_", "MLFLOW_", "AWS_"))}
        command = ["bash", "-c", 'source "$1"; env -0', "bash", str(self.home / "env")]
        output = subprocess.run(command, env=clean, capture_output=True, text=True, check=True).stdout
        return dict(pair.split("=", 1) for pair in output.split("\0") if "=" in pair)

    def state(self) -> dict[str, Any]:
        return json.loads((self.home / "state.json").read_text())

    def process(self, name: str) -> psutil.Process:
        return psutil.Process(self.state()["processes"][name]["pid"])

    def jobs(self, backend: str) -> list[dict[str, Any]]:
        """Return every job that was submitted to `batch` or `kubernetes`, oldest first."""
        paths = sorted((self.home / backend).glob("*/job.json"), key=lambda path: path.parent.stat().st_ctime)
        return [json.loads(path.read_text()) for path in paths]


def wait_until(holds: Callable[[], bool], seconds: float = 20) -> None:
    """Wait until another process has made a condition true."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not true within {seconds} s"
        time.sleep(0.05)


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """The running platform; a test that stops a part must start it again."""
    platform = Platform(tmp_path_factory.mktemp("platform"))
    started = platform.command("start")
    assert started.returncode == 0, started.stdout + started.stderr
    yield platform
    platform.command("stop")


@pytest.fixture
def user(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> Platform:
    """The platform, in a process that has sourced its `env`."""
    for name in os.environ:
        if name.startswith(("METAFLOW_", "MLFLOW_", "AWS_")):
            monkeypatch.delenv(name)
    for name, value in platform.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # it caches the credentials
    return platform
