"""Runs that are killed, at random moments or at the worst one, and resumed, end as if undisturbed."""

import os
import random
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import mlflow
import psutil
import pytest

from tests.flow.conftest import Place, sweep, wait_for
from tests.flow.test_break import LONG, mlflow_runs, run_data, same, uninterrupted

KILLS, SECONDS = 50, 28 * 60  # how often, if the time suffices
SWEEP = {**sweep({}, {"learning_rate": 0.001}), "folds": 2}
RESULT = """[
    run.data.leaderboard.drop(columns='seconds').round(12).to_csv(),
    {name: value.tobytes().hex()[:64] for name, value in sorted(run.data.weights.items())},
    run.data.test_probabilities.tobytes().hex(),
]"""


def start(place: Place, data: Path) -> subprocess.Popen[str]:
    return place.start(*place.flow_command("--promote", "always", config=SWEEP, data=data))


def kill(process: subprocess.Popen[str], rng: random.Random) -> str:
    """Kill the whole group, the scheduler alone, or one of its tasks; return what was done."""
    how = rng.choice(["group", "scheduler", "task", "terminated scheduler", "terminated group"])
    tasks = [each for each in psutil.Process(process.pid).children(recursive=True) if "step" in each.cmdline()]
    if "group" in how:
        os.killpg(process.pid, signal.SIGTERM if "terminated" in how else signal.SIGKILL)
    elif how == "task" and tasks:
        rng.choice(tasks).kill()
    else:
        process.send_signal(signal.SIGTERM if "terminated" in how else signal.SIGKILL)
    return how


def disturbed(process: subprocess.Popen[str], seconds: float, rng: random.Random) -> tuple[int, int, str]:
    """Let a command work for some time, kill something of it unless it has ended, and wait for its end.

    Returns its exit code, the number of kills (0 or 1) and what it printed.
    """
    until = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    how = "nothing"
    with suppress(psutil.NoSuchProcess):
        how = kill(process, rng) if process.poll() is None else how
    output, _ = process.communicate(timeout=900)
    return process.returncode, int(how != "nothing"), f"{how} killed after {seconds:.1f} s\n{output}"


def ended(place: Place) -> list[object]:
    """Return the result of the latest run, and what MLflow holds of it."""
    client = mlflow.MlflowClient(f"sqlite:///{place.folder}/mlflow.db")
    (experiment,) = [each for each in client.search_experiments() if each.name == "skin-lesion"]
    runs = client.search_runs([experiment.experiment_id])
    names = sorted((run.info.run_name.partition("/")[0], run.info.status) for run in runs)
    versions = [version.version for version in client.search_model_versions("name = 'skin-lesion'")]
    return [run_data(place, RESULT), names, versions]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tiny_images: Path) -> tuple[list[object], float]:
    """The end of a run that nothing disturbed, and its seconds."""
    place = Place(tmp_path_factory.mktemp("undisturbed"))
    began = time.monotonic()
    process = start(place, tiny_images)
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    seconds = time.monotonic() - began
    return ended(place), seconds


def test_a_run_that_is_killed_and_resumed_ends_as_if_undisturbed(
    undisturbed: tuple[list[object], float], tmp_path: Path, tiny_images: Path
) -> None:
    expected, length = undisturbed
    deadline, kills, number = time.monotonic() + SECONDS, 0, 0
    while kills < KILLS and time.monotonic() < deadline:
        rng = random.Random(number)
        place = Place(tmp_path / f"{number}")
        place.folder.mkdir()
        code, killed, output = disturbed(start(place, tiny_images), rng.uniform(0, length), rng)
        kills += killed
        while code != 0:
            # It may have been killed before there was a run.
            process = place.start(place.resume_script) if place.run_ids() else start(place, tiny_images)
            if rng.random() < 0.8:
                code, killed, more = disturbed(process, rng.uniform(0, length / 2), rng)
                kills += killed
            else:
                more, _ = process.communicate(timeout=900)
                code = process.returncode
                assert code == 0, f"attempt {number}\n{output}\n{more}"
            output += more
        assert ended(place) == expected, f"attempt {number}\n{output}"
        number += 1
        print(f"{number} runs, {kills} kills: all ended alike", flush=True)
    assert kills > 0


def test_a_killed_branch_goes_on_from_its_checkpoint(tmp_path: Path, tiny_images: Path) -> None:
    place = Place(tmp_path)
    flow = place.start(*place.flow_command(config=sweep(LONG), data=tiny_images))
    wait_for(place.checkpoints, flow)
    (branch,) = place.steps("train")
    branch.kill()
    output, _ = flow.communicate(timeout=900)
    assert flow.returncode == 0, output
    assert "from the last checkpoint" in output
    assert "An earlier attempt ended without a result." in output
    assert same(run_data(place, "run.data.weights"), uninterrupted(place))
    trials, parents = mlflow_runs(place)
    assert parents == ["FINISHED"]
    assert list(trials.values()) == [("FINISHED", list(range(1, LONG["epochs"] + 1)))]


def test_a_scheduler_that_was_killed_alone_leaves_branches_that_resume_stops(tmp_path: Path, tiny_images: Path) -> None:
    place = Place(tmp_path)
    flow = place.start(*place.flow_command(config=sweep({"epochs": 1000}), data=tiny_images))
    wait_for(place.checkpoints, flow)
    (branch,) = place.steps("train")
    flow.kill()
    flow.wait()
    resume = place.start(place.resume_script, place.run_ids()[-1])
    lines = [resume.stdout.readline() for _ in range(4)]
    assert f"Run {place.run_ids()[-1]} of tester, started" in lines[0]
    assert f"still working: process {branch.pid}" in lines[1]
    assert f"Stopping process {branch.pid}" in lines[2]
    assert not branch.is_running() or branch.status() == psutil.STATUS_ZOMBIE
    os.killpg(resume.pid, signal.SIGKILL)
    resume.communicate()
