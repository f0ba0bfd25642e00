"""Continue the latest run, or the run that you name, where it failed.

    python flows/resume.py [RUN_ID]
    SKINLIB_COMPUTE=configs/compute/batch.json python flows/resume.py     # on other compute

Metaflow's own `resume` starts from the last *run*, never from the last resume, and does not print which.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
from metaflow import Flow, Run, namespace
from metaflow.exception import MetaflowNotFound

from skinlib.execution import backends
from skinlib.execution.hooks import prepare

SCRIPT = Path(__file__).with_name("train.py")
FLOW = "SkinLesionFlow"
_SECONDS_TO_END = 10


def main() -> None:
    """Check whether the run can be continued, end what it left behind, and become Metaflow's resume."""
    prepare()
    run = find_run(sys.argv[1] if len(sys.argv) > 1 else None)
    if run.successful:
        print(f"Run {run.id} succeeded; there is nothing to resume. Start a new one: python flows/train.py run")
        return
    tasks = tasks_of(run.id)
    schedulers = {scheduler.pid for task in tasks if (scheduler := scheduler_of(task))}
    if schedulers:
        sys.exit(f"Run {run.id} is still running (process {schedulers.pop()}); wait for it, or stop it and try again.")
    datastore = run["start"].task.metadata_dict["ds-type"]
    flow = [sys.executable, str(SCRIPT.resolve()), "--datastore", datastore]
    end_remote_tasks(run, flow)
    end_local_tasks(tasks)
    print(f"Resuming run {run.id}, started {run.created_at:%Y-%m-%d %H:%M}.", flush=True)
    command = [*flow, "resume", "--origin-run-id", run.id]
    os.execv(command[0], command)


def find_run(run_id: str | None) -> Run:
    """Return the run to continue; exit with a sentence if there is none."""
    namespace(None)
    try:
        run = Run(f"{FLOW}/{run_id}") if run_id else Flow(FLOW).latest_run
    except MetaflowNotFound:
        run = None
    if run is None:
        asked = f"run {run_id}" if run_id else "run"
        sys.exit(f"There is no {asked} of {FLOW} here; start one with: python flows/train.py run")
    return run


def tasks_of(run_id: str) -> list[psutil.Process]:
    """Return the processes on this machine that execute a task of the run."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "step" in words and "--run-id" in words and words[words.index("--run-id") + 1] == run_id:
            found.append(process)
    return found


def scheduler_of(task: psutil.Process) -> psutil.Process | None:
    """Return the running scheduler that started a task, None for an orphan."""
    parent = task.parent()
    words = parent.cmdline() if parent else []
    return parent if {"run", "resume"} & set(words) else None


def end_remote_tasks(run: Run, flow: list[str]) -> None:
    """End the jobs or pods that a killed scheduler left behind: they would continue, and cost money."""
    start = run["start"].task
    if not start.successful:
        return
    backend = backends.backend_from(dict(start["compute"].data))
    if isinstance(backend, backends.Local):
        return
    place = {}
    if isinstance(backend, backends.Kubernetes) and backend.namespace:
        place["METAFLOW_KUBERNETES_NAMESPACE"] = backend.namespace
    command = [*flow, backend.backend, "kill", "--run-id", run.id]
    if subprocess.run(command, env=os.environ | place).returncode:
        print(f"Tasks of run {run.id} may still run on {backend.backend}; check there, and end them by hand.")


def end_local_tasks(tasks: list[psutil.Process]) -> None:
    """Interrupt the processes that a killed scheduler left behind, and kill those that do not end in 10 seconds."""
    for task in tasks:
        print(f"Stopping process {task.pid}, which a killed scheduler left behind; its checkpoint is kept.")
        # A process that watches a remote job ends the job when it is interrupted; when it is killed, it cannot.
        with suppress(psutil.NoSuchProcess):
            task.send_signal(signal.SIGINT)
    deadline = time.monotonic() + _SECONDS_TO_END
    while not all(map(has_ended, tasks)):
        time.sleep(0.1)
        for task in tasks if time.monotonic() > deadline else []:
            with suppress(psutil.NoSuchProcess):
                task.kill()


def has_ended(process: psutil.Process) -> bool:
    """Return whether a process is gone, or is a zombie, which in a container may never be collected."""
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


if __name__ == "__main__":
    main()
