"""The doctor: it finds what is amiss, says what to do, and its exit code tells a script."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def doctor(folder: Path, *arguments: str, **environment: str) -> tuple[int, dict[str, tuple[bool, str]]]:
    """The exit code, and by part whether it is right and what was said."""
    own = {"METAFLOW_HOME": str(folder), "PYTHONPATH": str(ROOT), "AWS_EC2_METADATA_DISABLED": "true"}
    own |= {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull, "KUBECONFIG": os.devnull}
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("METAFLOW_", "MLFLOW_", "AWS_", "KUBE"))}
    command = [sys.executable, "-m", "skinlib", "doctor", *arguments]
    result = subprocess.run(command, cwd=folder, env=clean | own | environment, capture_output=True, text=True)
    assert "Traceback" not in result.stderr, result.stderr
    lines = [(line[:5].strip(), line[7:18].strip(), line[20:]) for line in result.stdout.splitlines()]
    return result.returncode, {part: (word == "ok", words) for word, part, words in lines}


def amiss(found: dict[str, tuple[bool, str]]) -> set[str]:
    return {part for part, (ok, _) in found.items() if not ok}


def test_a_fresh_machine_with_the_environment_is_well_and_stays_as_it_was(tmp_path):
    code, found = doctor(tmp_path)
    assert (code, amiss(found)) == (0, set())
    assert set(found) == {"Python", "packages", "GPU", "datastore", "MLflow", "metadata"}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("backend", "parts"),
    [
        ("batch", {"credentials", "datastore", "MLflow", "job queue", "image"}),
        ("kubernetes", {"datastore", "MLflow", "namespace", "image"}),
    ],
)
def test_what_remote_tasks_need_and_do_not_have_is_named_with_its_remedy(tmp_path, backend, parts):
    code, found = doctor(tmp_path, "--compute", str(ROOT / f"configs/compute/{backend}.json"))
    assert (code, amiss(found)) == (1, parts)
    assert "make infra" in found["datastore"][1]
    assert "MLFLOW_TRACKING_URI" in found["MLflow"][1]
    assert "make image" in found["image"][1]


def test_images_that_are_not_there_are_amiss(tmp_path):
    code, found = doctor(tmp_path, "--data", str(tmp_path / "nowhere"))
    assert code == 1
    assert found["data"] == (False, f"There is no folder {tmp_path / 'nowhere'}; correct the path or create it.")


def test_a_tracking_server_that_does_not_answer_is_amiss(tmp_path):
    code, found = doctor(tmp_path, MLFLOW_TRACKING_URI="http://127.0.0.1:1")
    assert (code, amiss(found)) == (1, {"MLflow"})


def test_a_wrong_compute_config_is_one_sentence(tmp_path):
    (tmp_path / "compute.json").write_text('{"backend": "batch", "gpus": 1}')
    code, found = doctor(tmp_path, "--compute", "compute.json")
    assert code == 1
    assert found == {}
