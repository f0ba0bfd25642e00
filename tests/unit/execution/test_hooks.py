"""What the hooks do to the flow, as seen in Metaflow's own decorators."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from metaflow._vendor import click
from metaflow.cli_components import run_cmds
from metaflow.util import get_username

from skinlib import machine
from skinlib.execution import backends, hooks
from skinlib.execution.datastore import run_store

ROOT = Path(__file__).resolve().parents[3]
FLOW = ROOT / "flows" / "train.py"
BATCH = {"backend": "batch", "image": "registry/image:1", "queue": "gpus", "gpu": 2, "memory": 9000, "retries": 1}
DECORATORS = f"""
import json, sys
sys.path.insert(0, {str(FLOW.parent)!r})
from metaflow.flowspec import FlowStateItems
from train import SkinLesionFlow
try:
    SkinLesionFlow()
except SystemExit:
    pass
names = ("start", "ingest", "train", "select", "evaluate", "register", "end")
steps = {{
    name: {{d.name: d.attributes for d in getattr(SkinLesionFlow, name).decorators if d.name != "card"}}
    for name in names
}}
(exit_hook,) = SkinLesionFlow._flow_state[FlowStateItems.FLOW_DECORATORS]["exit_hook"]
print(json.dumps({{"steps": steps, "on_error": exit_hook.attributes["on_error"]}}))
"""


def call(tmp_path: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    own = {"METAFLOW_USER": "tester", "METAFLOW_HOME": str(tmp_path), "AWS_DEFAULT_REGION": "us-east-1"}
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("METAFLOW_", "MLFLOW_", "AWS_", "SKINLIB_"))}
    return subprocess.run(
        [sys.executable, *arguments], cwd=tmp_path, env=clean | own | environment, capture_output=True, text=True
    )


def mutated(tmp_path: Path, config: dict[str, Any] | None, *command: str, **environment: str) -> Any:
    """Return Metaflow's decorators by step, and the exit hook, after a command with a compute config."""
    options = []
    if config is not None:
        (tmp_path / "compute.json").write_text(json.dumps(config))
        options = ["--config", "compute", "compute.json"]
    result = call(tmp_path, "-c", DECORATORS, "--quiet", *options, *(command or ["check"]), **environment)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def decorators(tmp_path: Path, config: dict[str, Any] | None, *command: str, **environment: str) -> Any:
    return mutated(tmp_path, config, *command, **environment)["steps"]


def test_locally_no_step_is_remote(tmp_path):
    steps = decorators(tmp_path, None)
    assert steps["train"]["resources"]["gpu"] == 1
    assert not [name for name, decos in steps.items() if {"batch", "kubernetes"} & decos.keys()]


def test_only_the_step_that_asks_for_a_gpu_runs_on_the_backend(tmp_path):
    steps = decorators(tmp_path, BATCH)
    assert [name for name, decos in steps.items() if "batch" in decos] == ["train"]
    train = steps["train"]
    assert "resources" not in train, "Metaflow would take the larger of the two"
    asked = {name: train["batch"][name] for name in ("image", "queue", "gpu", "memory", "cpu")}
    assert asked == {"image": "registry/image:1", "queue": "gpus", "gpu": 2, "memory": 9000, "cpu": 4}
    assert (train["retry"]["times"], train["retry"]["minutes_between_retries"]) == (1, 0)
    assert train["timeout"]["minutes"] == 24 * 60 + 30


def test_a_tag_named_like_a_deployer_changes_nothing(tmp_path):
    found = mutated(tmp_path, BATCH, "run", "--tag", "argo-workflows")
    assert [name for name, decos in found["steps"].items() if "batch" in decos] == ["train"]
    assert found["on_error"] == ["skinlib.execution.hooks.mark_failed"]


def test_for_argo_every_step_is_on_the_backend_and_the_exit_hook_has_no_dot(tmp_path):
    found = mutated(tmp_path, BATCH, "argo-workflows", "--help")
    assert [name for name, decos in found["steps"].items() if "batch" in decos] == list(found["steps"])
    assert found["on_error"] == ["mark_failed"]


@pytest.mark.parametrize("arguments", [["run", "--experiment", "step"], ["step", "train"], []])
def test_the_subcommand_and_its_options_are_the_words_after_metaflow_s_global_options(arguments):
    with click.Context(click.Command("start")) as context:
        context.saved_args = arguments
        assert hooks._arguments() == arguments


def test_without_a_command_line_there_is_no_subcommand():
    assert hooks._arguments() == []


def test_an_experiment_named_step_does_not_skip_the_check_of_the_sweep(tmp_path):
    (tmp_path / "sweep.json").write_text('{"strategy": "list", "trials": [{"learning_rat": 0.1}]}')
    command = ["--config", "sweep", "sweep.json", "run", "--experiment", "step", "--tag", "card"]
    result = call(tmp_path, str(FLOW), *command)
    assert result.returncode != 0
    assert "learning_rat is unknown (did you mean learning_rate)" in result.stderr
    assert not (tmp_path / ".metaflow" / "SkinLesionFlow").exists()


def test_the_environment_reaches_every_step(tmp_path):
    variables = {"MLFLOW_TRACKING_URI": "https://mlflow.example.org"}
    steps = decorators(tmp_path, BATCH | {"environment": variables})
    assert {name: decos["environment"]["vars"] for name, decos in steps.items()} == dict.fromkeys(steps, variables)


def test_a_config_from_the_environment_is_passed_on_to_remote_tasks(tmp_path):
    (tmp_path / "other.json").write_text(json.dumps(BATCH | {"memory": 64_000}))
    steps = decorators(tmp_path, None, SKINLIB_COMPUTE=str(tmp_path / "other.json"))
    assert steps["train"]["batch"]["memory"] == 64_000
    passed_on = steps["train"]["environment"]["vars"]["SKINLIB_COMPUTE"]
    assert decorators(tmp_path, None, SKINLIB_COMPUTE=passed_on) == steps


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"backend": "batch", "gpus": 1}', "gpus is unknown (did you mean gpu)"),
        ("backend: batch", "The compute config compute.json is not valid JSON"),
        (None, "cannot be read"),
    ],
)
def test_a_wrong_compute_config_is_a_sentence_before_a_run_exists(tmp_path, content, words):
    if content:
        (tmp_path / "compute.json").write_text(content)
    result = call(tmp_path, str(FLOW), "run", SKINLIB_COMPUTE="compute.json")
    assert result.returncode != 0
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / ".metaflow" / "SkinLesionFlow").exists()


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    """Return the folder that a remote task unpacks."""
    folder = tmp_path_factory.mktemp("package")
    config = str(ROOT / "configs/sweeps/cpu.json")
    result = call(folder, str(FLOW), "--config", "sweep", config, "package", "save", "package.tgz")
    assert result.returncode == 0, result.stderr
    with tarfile.open(folder / "package.tgz") as archive:
        archive.extractall(folder / "task")
    return folder / "task"


def test_the_whole_library_travels_with_the_flow(package):
    here, there = ROOT / "skinlib", package / ".mf_code/skinlib"
    names = sorted(path.relative_to(here) for path in here.rglob("*") if path.suffix in (".py", ".html"))
    assert sorted(path.relative_to(there) for path in there.rglob("*") if path.is_file()) == names
    assert all((there / name).read_bytes() == (here / name).read_bytes() for name in names)


def test_the_configs_travel_with_the_flow(package):
    configs = json.loads((package / ".mf_meta/CONFIG").read_text())["user_configs"]
    assert configs["sweep"][0] == json.loads((ROOT / "configs/sweeps/cpu.json").read_text())
    assert configs["compute"][0] == json.loads((ROOT / "configs/compute/local.json").read_text())


def test_a_stale_copy_of_the_library_in_an_image_does_not_win(package, tmp_path):
    (tmp_path / "skinlib").mkdir()
    (tmp_path / "skinlib/__init__.py").write_text("raise SystemExit('the stale copy was imported')")
    # As Metaflow's bootstrap of a remote task sets it, in front of the image's own value.
    path = os.pathsep.join([str(package / ".mf_code"), str(tmp_path)])
    program = f"import sys; sys.path.insert(0, {str(package)!r}); import train, skinlib; print(skinlib.__file__)"
    result = call(tmp_path / "skinlib", "-c", program, PYTHONPATH=path)
    assert result.stdout.strip() == str(package / ".mf_code/skinlib/__init__.py"), result.stderr


def test_in_a_container_of_a_deployed_flow_every_step_is_on_the_backend(tmp_path):
    steps = decorators(tmp_path, BATCH, AWS_BATCH_JOB_ID="1")
    assert [name for name, decos in steps.items() if "batch" in decos] == list(steps)
    assert [name for name, decos in steps.items() if decos["batch"].get("gpu")] == ["train"]


@pytest.mark.parametrize(
    ("uid", "variables", "name"),
    [
        (0, {}, "container"),
        (0, {"USER": "root"}, "container"),
        (4_000_000, {}, "user-4000000"),
        (4_000_000, {"USER": "ada"}, "ada"),
    ],
    ids=["root", "root by name", "an ID without a name", "a name in the environment"],
)
def test_every_user_gets_a_name_that_metaflow_accepts_and_a_home(monkeypatch, uid, variables, name):
    for variable in ("SUDO_USER", "USERNAME", "USER", "HOME"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr("metaflow.metaflow_config.USER", None)
    monkeypatch.setattr(os, "getuid", lambda: uid)
    monkeypatch.setenv("METAFLOW_CLIENT_CACHE_PATH", "")  # so that it is restored
    hooks.prepare()
    assert get_username() == name
    assert Path.home().is_absolute()


def test_users_of_one_machine_do_not_share_metaflow_s_cache(tmp_path):
    program = (
        "import os; from skinlib.execution.hooks import prepare; prepare();"
        "from metaflow.client.filecache import FileCache;"
        "print(FileCache().cache_dir, os.environ['METAFLOW_CLIENT_CACHE_PATH'])"
    )
    own = str(tmp_path / f"metaflow_client-{os.getuid()}")
    assert call(tmp_path, "-c", program, TMPDIR=str(tmp_path)).stdout.split() == [own, own]
    chosen = call(tmp_path, "-c", program, METAFLOW_CLIENT_CACHE_PATH="/elsewhere").stdout.split()
    assert chosen == ["/elsewhere", "/elsewhere"]


LIMIT = f"""
import sys
sys.path.insert(0, {str(FLOW.parent)!r})
from metaflow.cli_components import run_cmds
class Runtime:
    def __init__(self, *arguments, max_num_splits, max_workers, **others):
        print(max_num_splits, max_workers)
        raise SystemExit
run_cmds.NativeRuntime = Runtime
from train import SkinLesionFlow
SkinLesionFlow()
"""


@pytest.mark.parametrize(
    ("trials", "folds", "options", "limit"),
    [(2, 1, [], 100), (150, 1, [], 150), (75, 2, [], 150), (150, 1, ["--max-num-splits=9"], 9)],
)
def test_metaflow_accepts_as_many_branches_as_the_sweep_has_trials_and_folds(tmp_path, trials, folds, options, limit):
    space = {"epochs": list(range(1, trials + 1))}
    (tmp_path / "sweep.json").write_text(json.dumps({"strategy": "grid", "space": space, "folds": folds}))
    result = call(tmp_path, "-c", LIMIT, "--config", "sweep", "sweep.json", "run", *options)
    assert result.stdout.splitlines()[-1] == f"{limit} {min(max(2, machine.cores()), 16)}", result.stderr


@pytest.mark.parametrize(("branches", "workers"), [(2, 16), (40, 40), (500, 64)])
def test_on_a_backend_more_tasks_run_at_once_and_on_resume_too(branches, workers):
    kubernetes = backends.backend_from({"backend": "kubernetes"})
    with click.Context(click.Command("start")) as context:
        hooks._allow_branches(branches, kubernetes)
        params = run_cmds.resume.make_context("resume", [], parent=context).params
    assert (params["max_num_splits"], params["max_workers"]) == (max(100, branches), workers)


BROKEN = {
    "a repeated key": (b'{"strategy": "list", "strategy": "grid"}', "the key strategy occurs twice in one object"),
    "UTF-16": ('{"strategy": "list"}'.encode("utf-16"), "is not UTF-8 text; save it as UTF-8"),
    "a list": (b"[1]", "The sweep config is not a JSON object"),
    "YAML": (b"strategy: list", "write JSON as in configs, not YAML"),
}


@pytest.mark.parametrize(("content", "words"), BROKEN.values(), ids=BROKEN)
def test_a_file_that_is_no_config_is_a_sentence(tmp_path, content, words):
    (tmp_path / "sweep.json").write_bytes(content)
    result = call(tmp_path, str(FLOW), "--config", "sweep", "sweep.json", "check")
    assert result.returncode != 0
    assert words in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["run", "--config", "sweep", "x"], "--config must come before `run`; write --config NAME FILE run"),
        (["run", "--model-name", "team/skin"], "The model name 'team/skin' is not allowed in MLflow"),
        (["argo-workflows", "trigger", "--model-name", "a:b"], "The model name 'a:b' is not allowed in MLflow"),
        (["argo-workflows", "trigger", "--seed", "-1"], "The seed is -1; give a number from 0 to 4294967295"),
        (["argo-workflows", "create"], "argo-workflows runs every step on kubernetes"),
        (["spin", "train"], "`spin train` would change what MLflow has recorded"),
        (["spin", "SkinLesionFlow/1/register/5"], "`spin register` would change what MLflow has recorded"),
        (["step-functions", "create"], "step-functions runs every step on batch"),
    ],
)
def test_what_cannot_work_is_refused_before_a_run_or_a_deployment_exists(tmp_path, command, words):
    result = call(tmp_path, str(FLOW), *command)
    assert result.returncode != 0
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / ".metaflow" / "SkinLesionFlow").exists()


def test_seconds_between_checkpoints_that_are_no_number_are_refused_before_a_run_exists(tmp_path):
    result = call(tmp_path, str(FLOW), "run", SKINLIB_CHECKPOINT_SECONDS="abc")
    assert result.returncode != 0
    assert "SKINLIB_CHECKPOINT_SECONDS is 'abc'; set it to a number of seconds, such as 30." in result.stderr


@pytest.mark.parametrize("run", [None, {}], ids=["unreadable", "ended before start"])
def test_a_failed_run_without_a_run_in_mlflow_is_no_error(run):
    hooks.mark_failed(run)


def test_a_spun_step_uses_the_store_of_the_run_that_it_repeats(tmp_path):
    original = SimpleNamespace(parent_datastore=SimpleNamespace(TYPE="local", datastore_root=str(tmp_path / "run")))
    flow = SimpleNamespace(_datastore=SimpleNamespace(orig_datastore=original))
    assert run_store(flow).local_path == tmp_path / "run"


@pytest.mark.parametrize(("provider", "warned"), [("local@/somewhere", True), ("service@http://meta", False)])
def test_a_warning_tells_that_local_metadata_loses_the_cards_of_remote_tasks(monkeypatch, capsys, provider, warned):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example.org")
    monkeypatch.setattr(hooks, "get_metadata", lambda: provider)
    monkeypatch.setenv("METAFLOW_KUBERNETES_WORKLOAD", "1")  # in which no cluster is asked
    hooks.check_remote({"backend": "kubernetes"})
    assert ("the cards of remote tasks will be lost" in capsys.readouterr().out) == warned
