"""Where steps run: what the compute config makes of the flow, seen in Metaflow's own decorators."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from skinlib import compute
from skinlib.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
FLOW = ROOT / "flows" / "train.py"
BATCH = {"backend": "batch", "image": "registry/image:1", "queue": "gpus", "gpu": 2, "memory": 9000, "retries": 1}
DECORATORS = f"""
import json, sys
sys.path.insert(0, {str(FLOW.parent)!r})
from train import SkinLesionFlow
try:
    SkinLesionFlow()
except SystemExit:
    pass
steps = ("start", "ingest", "train", "select", "evaluate", "register", "end")
print(json.dumps({{
    name: {{d.name: d.attributes for d in getattr(SkinLesionFlow, name).decorators if d.name != "card"}}
    for name in steps
}}))
"""


def call(tmp_path: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    own = {"METAFLOW_USER": "tester", "METAFLOW_HOME": str(tmp_path), "AWS_DEFAULT_REGION": "us-east-1"}
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("METAFLOW_", "MLFLOW_", "AWS_", "SKINLIB_"))}
    return subprocess.run(
        [sys.executable, *arguments], cwd=tmp_path, env=clean | own | environment, capture_output=True, text=True
    )


def decorators(tmp_path: Path, config: dict[str, Any] | None, command: str = "check", **environment: str) -> Any:
    """Metaflow's decorators by step, when the flow is called with a compute config."""
    options = []
    if config is not None:
        (tmp_path / "compute.json").write_text(json.dumps(config))
        options = ["--config", "compute", "compute.json"]
    result = call(tmp_path, "-c", DECORATORS, "--quiet", *options, command, **environment)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_locally_no_step_is_remote(tmp_path):
    steps = decorators(tmp_path, None)
    assert steps["train"]["resources"]["gpu"] == 1
    assert not [name for name, decos in steps.items() if {"batch", "kubernetes"} & decos.keys()]


def test_the_step_that_asks_for_a_gpu_alone_goes_to_the_backend(tmp_path):
    steps = decorators(tmp_path, BATCH)
    assert [name for name, decos in steps.items() if "batch" in decos] == ["train"]
    train = steps["train"]
    assert "resources" not in train, "Metaflow would take the larger of the two"
    asked = {name: train["batch"][name] for name in ("image", "queue", "gpu", "memory", "cpu")}
    assert asked == {"image": "registry/image:1", "queue": "gpus", "gpu": 2, "memory": 9000, "cpu": 4}
    assert (train["retry"]["times"], train["retry"]["minutes_between_retries"]) == (1, 0)
    assert train["timeout"]["minutes"] == 24 * 60


def test_the_environment_reaches_every_step(tmp_path):
    variables = {"MLFLOW_TRACKING_URI": "https://mlflow.example.org"}
    steps = decorators(tmp_path, BATCH | {"environment": variables})
    assert {name: decos["environment"]["vars"] for name, decos in steps.items()} == dict.fromkeys(steps, variables)


def test_another_config_is_taken_from_the_environment_and_handed_on_to_remote_tasks(tmp_path):
    (tmp_path / "other.json").write_text(json.dumps(BATCH | {"memory": 64_000}))
    steps = decorators(tmp_path, None, SKINLIB_COMPUTE=str(tmp_path / "other.json"))
    assert steps["train"]["batch"]["memory"] == 64_000
    handed_on = steps["train"]["environment"]["vars"]["SKINLIB_COMPUTE"]
    assert decorators(tmp_path, None, SKINLIB_COMPUTE=handed_on) == steps


@pytest.mark.parametrize(
    ("content", "words"),
    [('{"backend": "batch", "gpus": 1}', "gpus is unknown (did you mean gpu)"), (None, "cannot be read")],
)
def test_a_wrong_config_is_a_sentence_before_anything_runs(tmp_path, content, words):
    if content:
        (tmp_path / "compute.json").write_text(content)
    result = call(tmp_path, str(FLOW), "run", SKINLIB_COMPUTE="compute.json")
    assert result.returncode != 0
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / ".metaflow" / "SkinLesionFlow").exists()


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    """What a remote task unpacks."""
    folder = tmp_path_factory.mktemp("package")
    config = str(ROOT / "configs/sweeps/cpu.json")
    result = call(folder, str(FLOW), "--config", "sweep", config, "package", "save", "package.tgz")
    assert result.returncode == 0, result.stderr
    with tarfile.open(folder / "package.tgz") as archive:
        archive.extractall(folder / "task")
    return folder / "task"


def test_the_whole_library_travels_with_the_flow(package):
    here, there = ROOT / "skinlib", package / ".mf_code/skinlib"
    names = sorted(path.name for path in here.glob("*.py"))
    assert sorted(path.name for path in there.iterdir()) == names
    assert all((there / name).read_bytes() == (here / name).read_bytes() for name in names)


def test_the_configs_travel_with_the_flow(package):
    configs = json.loads((package / ".mf_meta/CONFIG").read_text())["user_configs"]
    assert configs["sweep"][0] == json.loads((ROOT / "configs/sweeps/cpu.json").read_text())
    assert configs["compute"][0] == json.loads((ROOT / "configs/compute/local.json").read_text())


def test_a_stale_copy_of_the_library_in_an_image_does_not_win(package, tmp_path):
    (tmp_path / "skinlib").mkdir()
    (tmp_path / "skinlib/__init__.py").write_text("raise SystemExit('the stale copy was imported')")
    # As Metaflow's bootstrap of a remote task sets it, before what the image has set.
    path = os.pathsep.join([str(package / ".mf_code"), str(tmp_path)])
    program = f"import sys; sys.path.insert(0, {str(package)!r}); import train; print(train.compute.__file__)"
    result = call(tmp_path / "skinlib", "-c", program, PYTHONPATH=path)
    assert result.stdout.strip() == str(package / ".mf_code/skinlib/compute.py"), result.stderr


@pytest.mark.parametrize("uri", [None, "sqlite:///mlflow.db", "mlruns", "file:///tmp/mlruns"])
def test_a_store_in_a_file_is_refused_for_remote_compute_before_money_is_spent(monkeypatch, uri):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(ConfigError, match=r"Steps run on batch, .* set MLFLOW_TRACKING_URI to a server"):
        compute.check_remote({"backend": "batch"})
    compute.check_remote({"backend": "local"})


def test_a_server_on_this_machine_is_refused_unless_the_datastore_is_here_too(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    with pytest.raises(ConfigError, match="cannot be reached"):
        compute.check_remote({"backend": "batch"})
    monkeypatch.setattr("metaflow.metaflow_config.S3_ENDPOINT_URL", "http://127.0.0.1:8333")
    compute.check_remote({"backend": "batch"})


def test_a_server_that_the_config_names_counts(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    variables = {"MLFLOW_TRACKING_URI": "https://mlflow.example.org"}
    compute.check_remote({"backend": "batch", "environment": variables})


def test_a_container_of_a_deployed_flow_puts_every_step_on_the_backend(tmp_path):
    steps = decorators(tmp_path, BATCH, AWS_BATCH_JOB_ID="1")
    assert [name for name, decos in steps.items() if "batch" in decos] == list(steps)
    assert [name for name, decos in steps.items() if decos["batch"].get("gpu")] == ["train"]


def test_the_commit_of_a_deployment_counts_where_there_is_no_git(monkeypatch):
    monkeypatch.setenv("SKINLIB_GIT_COMMIT", "abc")
    assert compute.git_commit() == "abc"


def test_a_failed_run_that_cannot_be_read_is_no_error():
    compute.mark_failed(None)


@pytest.mark.parametrize(("provider", "warned"), [("local@/somewhere", True), ("service@http://meta", False)])
def test_cards_that_local_metadata_would_lose_are_warned_of(monkeypatch, capsys, provider, warned):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example.org")
    monkeypatch.setattr(compute, "get_metadata", lambda: provider)
    compute.check_remote({"backend": "kubernetes"})
    assert ("the cards of remote tasks will be lost" in capsys.readouterr().out) == warned
