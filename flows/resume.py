"""Continue the latest run, or the one that is named, where it broke.

    python flows/resume.py [RUN_ID]
    SKINLIB_COMPUTE=configs/compute/batch.json python flows/resume.py     # on other compute

Metaflow's own `resume` starts from the last *run*, never from the last resume, and does not say which.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))

import psutil
from metaflow import Flow, Run, namespace
from metaflow.exception import MetaflowNotFound

from skinlib import backends, compute  # noqa: F401 (compute names the user, as the flow does)

FLOW = "SkinLesionFlow"


def find_run(run_id: str | None) -> Run:
    """Return the run to continue; exits with a sentence where there is none."""
    namespace(None)
    try:
        run = Run(f"{FLOW}/{run_id}") if run_id else Flow(FLOW).latest_run
    except MetaflowNotFound:
        run = None
    if run is None:
        asked = f"run {run_id}" if run_id else "run"
        sys.exit(f"There is no {asked} of {FLOW} here; begin one with: python flows/train.py run")
    return run


def tasks_of(run_id: str) -> list[psutil.Process]:
    """Return the processes on this machine that work on a task of the run."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "step" in words and "--run-id" in words and words[words.index("--run-id") + 1] == run_id:
            found.append(process)
    return found


def scheduler_of(task: psutil.Process) -> psutil.Process | None:
    """Return the living scheduler that started a task, None for an orphan."""
    parent = task.parent()
    words = parent.cmdline() if parent else []
    return parent if {"run", "resume"} & set(words) else None


def end_remote_tasks(run: Run, flow: list[str]) -> None:
    """End the jobs or pods that a scheduler left behind when it was killed: they would go on, and cost money."""
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
        print(f"Tasks of run {run.id} may still work on {backend.backend}; look there, and end them by hand.")


def has_ended(process: psutil.Process) -> bool:
    """Tell whether a process is gone, or waits for a parent to notice, which in a container may never come."""
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def main() -> None:
    """Decide whether the run can be continued, say so, and become Metaflow's resume."""
    run = find_run(sys.argv[1] if len(sys.argv) > 1 else None)
    if run.successful:
        print(f"Run {run.id} succeeded; there is nothing to resume. A new one: python flows/train.py run")
        return
    tasks = tasks_of(run.id)
    schedulers = {scheduler.pid for task in tasks if (scheduler := scheduler_of(task))}
    if schedulers:
        sys.exit(f"Run {run.id} still works (process {schedulers.pop()}); wait for it, or stop it and call again.")
    datastore = run["start"].task.metadata_dict["ds-type"]
    flow = [sys.executable, str(ROOT / "flows" / "train.py"), "--datastore", datastore]
    end_remote_tasks(run, flow)
    for task in tasks:
        print(f"Stopping process {task.pid}, which a killed scheduler left behind; its checkpoint stays.")
        # Interrupted, one that watches a remote job ends that as well; killed, it cannot.
        with suppress(psutil.NoSuchProcess):
            task.send_signal(signal.SIGINT)
    patience = time.monotonic() + 10
    while not all(map(has_ended, tasks)):
        time.sleep(0.1)
        for task in tasks if time.monotonic() > patience else []:
            with suppress(psutil.NoSuchProcess):
                task.kill()
    print(f"Resuming run {run.id}, begun {run.created_at:%Y-%m-%d %H:%M}.", flush=True)
    command = [*flow, "resume", "--origin-run-id", run.id]
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
