"""Runs of the real flow, each in a place of its own: folder, datastore, MLflow database, caches."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
TINY = {"architecture": "resnet10", "image_size": 32, "epochs": 2, "batch_size": 16}


def sweep(*trials: dict) -> dict:
    """A sweep config of the smallest trials there are, each with some settings of its own."""
    return {"strategy": "list", "base": TINY, "trials": list(trials) or [{}]}


@dataclass
class Place:
    """A user's working directory, and what is run there."""

    folder: Path
    env: dict[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        temporary = self.folder / "tmp"
        temporary.mkdir(exist_ok=True)
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("METAFLOW_", "MLFLOW_", "AWS_"))}
        own = {
            "METAFLOW_USER": "tester",
            "METAFLOW_HOME": str(self.folder / "home"),
            "XDG_CACHE_HOME": str(self.folder / "cache"),
            "SKINLIB_CHECKPOINT_SECONDS": "0",
            # The slots of a machine are locks in there: tests that run side by side must not wait for each other's.
            "TMPDIR": str(temporary),
            # A profile or a role of this machine must not decide a test.
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        return clean | own | self.env

    def config(self, config: dict) -> str:
        path = self.folder / "sweep.json"
        path.write_text(json.dumps(config))
        return str(path)

    def start(self, *command: str) -> subprocess.Popen[str]:
        return self.launch([sys.executable, *command])

    def launch(self, command: list[str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def call(self, *command: str) -> tuple[int, str]:
        return self.finish(self.start(*command), seconds=900)

    def finish(self, process: subprocess.Popen[str], seconds: float) -> tuple[int, str]:
        """Wait for the end of a command; kill it with its children, and show what it printed, if it takes too long."""
        try:
            output, _ = process.communicate(timeout=seconds)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                pytest.fail(f"{process.args} did not end within {seconds} seconds:\n{process.communicate()[0]}")
            raise
        return process.returncode, output

    def flow_command(self, *arguments: str, config: dict | None = None, data: Path | str | None = None) -> list[str]:
        options = ["--config", "sweep", self.config(config)] if config else []
        data_option = ["--data", str(data)] if data else []
        return [str(ROOT / "flows" / "train.py"), *options, "run", *data_option, *arguments]

    def flow(self, *arguments: str, config: dict | None = None, data: Path | str | None = None) -> tuple[int, str]:
        return self.call(*self.flow_command(*arguments, config=config, data=data))

    def call_skinlib(self, *arguments: str) -> tuple[int, str]:
        """`python -m skinlib` as from the repository's root; only its standard output."""
        result = subprocess.run(
            [sys.executable, "-m", "skinlib", *arguments],
            cwd=self.folder,
            env={**self.environment(), "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=900,
        )
        return result.returncode, result.stdout + (result.stderr if result.returncode else "")

    resume_script = str(ROOT / "flows" / "resume.py")

    def resume(self, *arguments: str) -> tuple[int, str]:
        return self.call(self.resume_script, *arguments)

    def run_ids(self) -> list[str]:
        flow = self.folder / ".metaflow" / "SkinLesionFlow"
        return sorted((path.name for path in flow.glob("[0-9]*")), key=int) if flow.exists() else []

    def checkpoints(self) -> list[Path]:
        return sorted(self.folder.glob(".metaflow/skinlib/checkpoints/*/*.pt"))

    def steps(self, name: str) -> list[psutil.Process]:
        """The processes that execute a step here now."""
        found = []
        for process in psutil.process_iter(["cmdline", "cwd"]):
            words = process.info["cmdline"] or []
            here = process.info["cwd"] == str(self.folder)
            if here and "step" in words and words[words.index("step") + 1] == name:
                found.append(process)
        return found


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[str], seconds: float = 120) -> Any:
    """Wait until the condition holds; fails at once if the process that should bring it about has ended."""
    end = time.monotonic() + seconds
    while not (result := condition()):
        assert process.poll() is None, f"the flow ended first:\n{process.stdout.read() if process.stdout else ''}"
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.03)
    return result


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """An empty working directory."""
    yield Place(tmp_path)
    for process in psutil.process_iter(["cwd"]):
        if process.info["cwd"] == str(tmp_path):
            process.kill()
