"""What a run records in its tags, and which processes and runs `resume` takes for its own."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from skinlib.execution import activity, hooks, record

FLOW = "SkinLesionFlow"


def run(name: str, *tags: str) -> Any:
    return SimpleNamespace(id=name, pathspec=f"{FLOW}/{name}", system_tags=frozenset(tags), parent=[])


def scheduler(pid: int, host: str = socket.gethostname(), late: int = 0) -> str:
    return f"scheduler:{host}/{pid}/{int(psutil.Process(pid).create_time()) + late}"


@pytest.mark.parametrize(
    ("tag", "found"),
    [
        (scheduler(os.getpid()), True),
        (scheduler(os.getpid(), host="another-machine"), False),
        (scheduler(os.getpid(), late=60), False),
    ],
    ids=["this machine", "another machine", "a later process"],
)
def test_a_scheduler_is_the_recorded_process_of_this_machine_only(tag: str, found: bool) -> None:
    assert bool(record.read_record(run("1", tag)).scheduler()) == found


def test_the_places_of_all_moves_are_found_from_any_of_the_runs() -> None:
    first = run("1", "compute:batch")
    second = run("2", "compute:kubernetes/team", "origin:1")
    third = run("3", "compute:local", "origin:2")
    other = run("4", "compute:batch")
    for each in (first, second, third):
        each.parent = [other, third, second, first]
        assert [found.run.id for found in record.family(each)] == ["3", "2", "1"]
    assert [found.place for found in record.family(third)] == ["local", "kubernetes/team", "batch"]


@pytest.fixture
def tasks(tmp_path: Path) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Processes that look like tasks with the same run ID of two flows."""
    found = {}
    for flow in (FLOW, "OtherFlow"):
        script = tmp_path / flow / "train.py"
        script.parent.mkdir()
        script.write_text(f"import time\n\n\nclass {flow}(object): ...\n\n\ntime.sleep(60)\n")
        found[flow] = subprocess.Popen([sys.executable, str(script), "step", "train", "--run-id", "12"])
    yield found
    for process in found.values():
        process.kill()
        process.wait()


def test_tasks_are_matched_by_flow_and_by_run(tasks: dict[str, subprocess.Popen[bytes]]) -> None:
    found = activity.task_processes(FLOW, {"12"})
    assert [process.pid for process in found] == [tasks[FLOW].pid]
    assert activity.task_processes(FLOW, {"13"}) == []


def test_a_process_that_has_gone_is_not_an_error(tasks: dict[str, subprocess.Popen[bytes]]) -> None:
    process = psutil.Process(tasks[FLOW].pid)
    tasks[FLOW].kill()
    tasks[FLOW].wait()
    activity.end_processes([process])
    assert activity.has_ended(process)


def test_the_exit_hook_accepts_a_run_that_died_before_its_first_step() -> None:
    hooks.mark_failed({})  # type: ignore[arg-type]
