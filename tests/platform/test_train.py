"""The flow on the platform: only training is remote, survives kills, and resumes on another backend."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import boto3
import mlflow
import psutil
import pytest

from infra.local.access import DATASTORE_BUCKET
from tests.flow.conftest import Place, sweep, wait_for
from tests.platform.conftest import Platform

LONG = {"epochs": 15}
COMPUTE = {
    "batch": {"backend": "batch", "gpu": 2, "memory": 9000, "environment": {"SKINLIB_CHECKPOINT_SECONDS": "0"}},
    "kubernetes": {"backend": "kubernetes", "gpu": 1, "environment": {"SKINLIB_CHECKPOINT_SECONDS": "0"}},
}
READ = """
import base64, json, re
from metaflow import Flow, namespace
from metaflow.cards import get_cards
namespace(None)
run = Flow("SkinLesionFlow").latest_run
def card(task):
    page = get_cards(task)[0].get()
    return "".join(base64.b64decode(b).decode() for b in re.findall(r'__MF_DATA__\\["[^"]+"\\] = "([^"]+)"', page))
print(json.dumps({}))
"""


@pytest.fixture
def place(platform: Platform, tmp_path: Path) -> Place:
    """A user's directory, in a shell after `source env`."""
    names = ("METAFLOW_", "MLFLOW_", "AWS_", "KUBECONFIG")
    env = {name: value for name, value in platform.environment().items() if name.startswith(names)}
    for name, config in COMPUTE.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(config))
    return Place(tmp_path, env)


def flow(place: Place, backend: str, data: Path, experiment: str, *trials: dict[str, Any]) -> list[str]:
    command = place.flow_command("--experiment", experiment, config=sweep(*trials), data=data)
    return [command[0], "--config", "compute", f"{backend}.json", *command[1:]]


def read(place: Place, expression: str) -> Any:
    """Return what the Client reads from `run`, the latest; `card(task)` is the text of a task's card."""
    code, output = place.call("-c", READ.format(expression))
    assert code == 0, output
    return json.loads(output.splitlines()[-1])


def recorded(place: Place, experiment: str) -> tuple[list[Any], list[Any]]:
    """Return MLflow's parent runs and child runs."""
    client = mlflow.MlflowClient(place.env["MLFLOW_TRACKING_URI"])
    runs = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    return [run for run in runs if run not in children], children


def trainings(platform: Platform, backend: str) -> list[psutil.Process]:
    """Return the processes of jobs that train now."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        words, folder = process.info["cmdline"] or [], process.info["cwd"] or ""
        in_job = folder.startswith(str(platform.home / backend))
        if in_job and "step" in words and "python" in words[0] and words[words.index("step") + 1] == "train":
            found.append(process)
    return found


def newest_log(platform: Platform, backend: str) -> str:
    return max((platform.home / backend).glob("*/log.txt"), key=lambda path: path.parent.stat().st_ctime).read_text()


def checkpoints() -> int:
    """Return how many checkpoints the datastore holds."""
    found = boto3.client("s3").list_objects_v2(Bucket=DATASTORE_BUCKET, Prefix="metaflow/skinlib/checkpoints/")
    return int(found["KeyCount"])


def test_only_training_runs_on_batch_and_gives_the_same_results_as_a_local_run(
    platform: Platform, place: Place, tiny_images: Path
) -> None:
    before = len(platform.jobs("batch"))
    code, output = place.call(*flow(place, "batch", tiny_images, "on-batch", {}, {"epochs": 3}))
    assert code == 0, output
    jobs = platform.jobs("batch")[before:]
    assert len(jobs) == 2
    for job in jobs:
        assert " step train " in " ".join(job["containerOverrides"]["command"])
        assert {"type": "GPU", "value": "2"} in job["containerOverrides"]["resourceRequirements"]
        assert {"type": "MEMORY", "value": "9000"} in job["containerOverrides"]["resourceRequirements"]
    assert read(place, "run.successful")
    assert sorted(read(place, "[len(task['result'].data['history']) for task in run['train']]")) == [2, 3]
    assert read(place, "['Training: finished' in card(task) for task in run['train']]") == [True, True]
    parents, children = recorded(place, "on-batch")
    assert [run.info.status for run in parents] == ["FINISHED"]
    assert [run.info.status for run in children] == ["FINISHED"] * 2


def test_without_a_metadata_service_a_killed_task_is_retried_and_a_killed_run_resumes_on_another_backend(
    user: Platform, place: Place, tiny_images: Path
) -> None:
    place.env["METAFLOW_DEFAULT_METADATA"] = "local"
    process = place.start(*flow(place, "kubernetes", tiny_images, "moved", LONG))
    # A pod is lost after its first checkpoint, as when a spot instance is taken back.
    wait_for(checkpoints, process)
    trainings(user, "kubernetes")[0].kill()
    wait_for(lambda: "Continuing after epoch" in newest_log(user, "kubernetes"), process)
    assert [job.get("status") for job in user.jobs("kubernetes")][-2] == {"failed": 1}

    # The scheduler's machine is lost, and the pod continues.
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    (left_behind,) = trainings(user, "kubernetes")

    place.env["SKINLIB_COMPUTE"] = "batch.json"
    before = len(user.jobs("batch"))
    code, output = place.resume()
    assert code == 0, output
    assert "Ending pod " in output
    assert not left_behind.is_running() or left_behind.status() == psutil.STATUS_ZOMBIE
    assert "Continuing after epoch" in output
    assert len(user.jobs("batch")) == before + 1
    epochs = read(place, "[epoch['epoch'] for epoch in run['train'].task['result'].data['history']]")
    assert epochs == list(range(1, LONG["epochs"] + 1))
    parents, children = recorded(place, "moved")
    assert [run.info.status for run in (*parents, *children)] == ["FINISHED"] * 2
