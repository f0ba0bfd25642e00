"""The doctor: it finds what is missing and says what to do, and its exit code tells a script."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from skinlib.execution.backends import Batch
from skinlib.execution.doctor import examine

ROOT = Path(__file__).resolve().parents[3]


def doctor(folder: Path, *arguments: str, **environment: str) -> tuple[int, dict[str, tuple[bool, str]]]:
    """Return the exit code, and by part whether it is ok and the words."""
    own = {"METAFLOW_HOME": str(folder), "PYTHONPATH": str(ROOT), "AWS_EC2_METADATA_DISABLED": "true"}
    own |= {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull, "KUBECONFIG": os.devnull}
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("METAFLOW_", "MLFLOW_", "AWS_", "KUBE"))}
    command = [sys.executable, "-m", "skinlib", "doctor", *arguments]
    result = subprocess.run(command, cwd=folder, env=clean | own | environment, capture_output=True, text=True)
    assert "Traceback" not in result.stderr, result.stderr
    lines = [(line[:5].strip(), line[7:18].strip(), line[20:]) for line in result.stdout.splitlines()]
    return result.returncode, {part: (word == "ok", words) for word, part, words in lines}


def failed(found: dict[str, tuple[bool, str]]) -> set[str]:
    return {part for part, (ok, _) in found.items() if not ok}


def test_a_new_machine_with_the_environment_is_ok_and_nothing_is_written(tmp_path):
    code, found = doctor(tmp_path)
    assert (code, failed(found)) == (0, set())
    assert set(found) == {"Python", "packages", "GPU", "datastore", "MLflow", "metadata"}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("backend", "parts"),
    [
        ("batch", {"credentials", "datastore", "MLflow", "job queue", "image"}),
        ("kubernetes", {"datastore", "MLflow", "namespace", "image"}),
    ],
)
def test_what_remote_tasks_lack_is_named_with_its_remedy(tmp_path, backend, parts):
    code, found = doctor(tmp_path, "--compute", str(ROOT / f"configs/compute/{backend}.json"))
    assert (code, failed(found)) == (1, parts)
    assert "make infra" in found["datastore"][1]
    assert "MLFLOW_TRACKING_URI" in found["MLflow"][1]
    assert "make image" in found["image"][1]


def test_images_that_do_not_exist_fail(tmp_path):
    code, found = doctor(tmp_path, "--data", str(tmp_path / "nowhere"))
    assert code == 1
    assert found["data"] == (False, f"There is no folder {tmp_path / 'nowhere'}; correct the path or create it.")


def test_a_tracking_server_that_does_not_answer_fails(tmp_path):
    code, found = doctor(tmp_path, MLFLOW_TRACKING_URI="http://127.0.0.1:1")
    assert (code, failed(found)) == (1, {"MLflow"})


def test_a_wrong_compute_config_is_one_sentence(tmp_path):
    (tmp_path / "compute.json").write_text('{"backend": "batch", "gpus": 1}')
    code, found = doctor(tmp_path, "--compute", "compute.json")
    assert code == 1
    assert found == {}


def test_the_variables_of_a_compute_config_are_set_only_while_the_doctor_examines(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "mine")
    before = dict(os.environ)
    findings = examine(Batch(backend="batch", environment={"MLFLOW_TRACKING_URI": "theirs", "OTHER": "1"}), None)
    assert next(findings).part == "Python"
    assert (os.environ["MLFLOW_TRACKING_URI"], os.environ["OTHER"]) == ("theirs", "1")
    findings.close()
    assert dict(os.environ) == before
