"""A flow with one remote step, on both backends: killed once and retried, with its card."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.platform.conftest import Platform

FLOW = Path(__file__).with_name("flow.py")

# Runs in a separate process, because Metaflow reads its settings when it is imported.
READ = """
import base64, json, re, sys
from metaflow import Run, namespace
from metaflow.cards import get_cards
namespace(None)
run = Run(sys.argv[1])
task = run["work"].task
parts = re.findall(r'__MF_DATA__\\["[^"]+"\\] = "([^"]+)"', get_cards(task)[0].get())
card = b"".join(map(base64.b64decode, parts))
facts = {"attempt": task["attempt"].data, "directory": task["directory"].data}
facts |= {"ok": run.successful, "card": b"written remotely" in card}
facts |= {"metadata": task.metadata_dict, "artifacts": [artifact.id for artifact in task]}
print(json.dumps(facts))
"""


def run_flow(platform: Platform, folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Run the flow successfully, and return what the Client then reads from its middle step."""
    env = {**platform.environment(), "METAFLOW_USER": "tester", "METAFLOW_CLIENT_CACHE_PATH": str(folder / "client")}
    options = ["--config-value", "compute", json.dumps(config), "run", "--run-id-file", "id.txt"]
    done = subprocess.run(
        [sys.executable, str(FLOW), *options], cwd=folder, env=env, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr
    run = f"PlatformFlow/{(folder / 'id.txt').read_text()}"
    read = subprocess.run(
        [sys.executable, "-c", READ, run], cwd=folder, env=env, capture_output=True, text=True, timeout=300
    )
    assert read.returncode == 0, read.stderr
    return json.loads(read.stdout.splitlines()[-1])


@pytest.mark.parametrize("backend", ["batch", "kubernetes"])
def test_a_remote_step_is_retried_after_a_kill_and_keeps_its_card(
    platform: Platform, tmp_path: Path, backend: str
) -> None:
    before = len(platform.jobs(backend))
    facts = run_flow(platform, tmp_path, {"backend": backend, "killed_once": True})
    assert facts["ok"]
    assert facts["card"]
    assert facts["attempt"] == 1
    assert Path(facts["directory"]).is_relative_to(platform.home / backend)
    assert facts["metadata"]["ds-type"] == "s3"

    first, second = platform.jobs(backend)[before:]
    if backend == "batch":
        assert [job["exitCode"] for job in (first, second)] == [137, 0]
        assert {"type": "GPU", "value": "1"} in second["containerOverrides"]["resourceRequirements"]
    else:
        assert [job["status"] for job in (first, second)] == [{"failed": 1}, {"succeeded": 1}]
        container = second["spec"]["template"]["spec"]["containers"][0]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_the_client_reads_only_the_last_attempt(platform: Platform, tmp_path: Path) -> None:
    facts = run_flow(platform, tmp_path, {"backend": "local", "fails_once": True})
    assert facts["attempt"] == 1
    assert "only_first" not in facts["artifacts"]
