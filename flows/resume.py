"""Continue your latest run, or the run that you name, where it failed.

    python flows/resume.py [RUN_ID] [--force]
    SKINLIB_COMPUTE=configs/compute/batch.json python flows/resume.py     # on other compute

Metaflow's own `resume` starts from the last *run*, never from the last resume, does not print which, and asks neither
whether the run still works nor ends what it left behind.
"""

import os
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import click
from metaflow import Flow, Run, get_namespace, namespace
from metaflow.exception import MetaflowException, MetaflowNotFound
from psutil import Process

from skinlib.errors import RunError, SkinlibError
from skinlib.execution import activity
from skinlib.execution.hooks import check_remote, prepare
from skinlib.execution.record import Record, family, read_record

SCRIPT = Path(__file__).with_name("train.py").resolve()
FLOW = "SkinLesionFlow"
DEPLOYERS = {"argo": "argo-workflows", "sfn": "step-functions"}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("run_id", required=False)
@click.option("--force", is_flag=True, help="Take the run over: end what still works on it, whoever started it.")
def main(run_id: str | None, force: bool) -> None:
    """Continue your latest run, or run RUN_ID of anyone, where it failed, and end what it left behind."""
    prepare()
    try:
        me = get_namespace().partition(":")[2]
        namespace(None)
        run = find_run(run_id, me)
        records = family(run)
        if done := success_of(run, records):
            print(f"{done}; there is nothing to resume. Start a new one: python flows/train.py run")
            return
        check_remote({"backend": "local"})  # which SKINLIB_COMPUTE may change
        take_over(run, records, me, force)
    except (SkinlibError, MetaflowException) as error:
        sys.exit(str(error))
    except OSError as error:
        sys.exit(f"The runs cannot be read ({error}); check the metadata service (METAFLOW_SERVICE_URL) and datastore.")
    print(f"Resuming run {run.id}.", flush=True)
    datastore = read_record(run).datastore
    command = [sys.executable, str(SCRIPT), *(["--datastore", datastore] if datastore else [])]
    os.execv(command[0], [*command, "resume", "--origin-run-id", run.id])


def find_run(run_id: str | None, me: str) -> Run:
    """Return the run to continue: anyone's if it is named, else the caller's latest.

    Raises:
        RunError: there is none.
    """
    try:
        runs = list(Flow(FLOW))
    except MetaflowNotFound:
        runs = []
    name = (run_id or "").removeprefix(f"{FLOW}/")
    chosen = [run for run in runs if (run.id == name if name else read_record(run).user == me)]
    if not chosen:
        asked = f"run {name} of {FLOW} here" if name else f"run of {FLOW} here that {me} started"
        raise RunError(
            f"There is no {asked}; start one with python flows/train.py run, or name one: make resume RUN=ID"
        )
    run = chosen[0]
    # A resume that was killed at once has nothing to continue, but the run before it has.
    while "_parameters" not in run:
        origin = read_record(run).origin
        run_before = next((each for each in runs if each.id == origin), None)
        if run_before is None:
            raise RunError(f"Run {run.id} ended before its first step; start a new one: python flows/train.py run")
        run = run_before
    return run


def success_of(run: Run, records: Sequence[Record]) -> str | None:
    """Return how the run, or one that continued it, succeeded; None if none did."""
    later = [record.run for record in records if record.run.created_at >= run.created_at]
    done = next((each.id for each in later if each.successful), None)
    continued = "" if done == run.id else f"was continued as {done}, which "
    return f"Run {run.id} {continued}succeeded" if done else None


def take_over(run: Run, records: Sequence[Record], me: str, force: bool) -> None:
    """End what the run, those that it continues and those that continue it left behind; show it before.

    Raises:
        RunError: one of them still works and `force` is not set, or something cannot be ended.
    """
    owner, minutes = read_record(run).user, int((datetime.now() - run.created_at).total_seconds() / 60)
    print(f"Run {run.id} of {owner}, started {run.created_at:%Y-%m-%d %H:%M}, {minutes // 60} h {minutes % 60} min ago")
    forced = f"make resume RUN={run.id} FORCE=1"

    def unfinished() -> list[activity.Job]:
        return [job for record in records for job in activity.unfinished_jobs(record)]

    try:
        jobs = unfinished()
    except RunError as error:
        if not force:
            raise RunError(f"{error}; correct this, or continue without ending them: {forced}") from error
        print(f"{error}; they may still run, and cost money.")
        jobs = []
    schedulers = [process for record in records if (process := record.scheduler())]
    tasks = activity.task_processes(FLOW, {record.run.id for record in records})
    for words in [*(job.name for job in jobs), *(f"process {task.pid}" for task in tasks)]:
        print(f"  still working: {words}", flush=True)

    works = reason_to_wait(records, me, jobs, schedulers, tasks)
    deployer = DEPLOYERS.get(run.id.partition("-")[0])
    if deployer and (works or jobs):
        end = f"python flows/train.py {deployer} terminate {run.id}"
        raise RunError(f"Run {run.id} is still running ({works or jobs[0].name}); wait for it, or end it: {end}")
    if works and not force:
        raise RunError(
            f"Run {run.id} is still running ({works}); wait for it, or stop it and try again. To end it and take it "
            f"over: {forced}"
        )
    # First what could start the others again.
    activity.end_processes(schedulers)
    activity.end_jobs(jobs, unfinished)
    activity.end_processes(tasks)


def reason_to_wait(
    records: Sequence[Record],
    me: str,
    jobs: Sequence[activity.Job],
    schedulers: Sequence[Process],
    tasks: Sequence[Process],
) -> str | None:
    """Return why the run may still work, None if what is left of it was left behind by the caller's own."""
    if schedulers:
        return f"process {schedulers[0].pid}"
    for record in records:
        # Metaflow sends one every 10 s. Of a scheduler on this machine, the process says more.
        age = time.time() - activity.last_heartbeat(record.run)
        if not record.here and age < 60:
            return f"its scheduler on {record.host or 'a cluster'} sent a heartbeat {age:.0f} s ago"
    others = {record.user for record in records} - {me}
    if others and (jobs or tasks):
        return f"{jobs[0].name if jobs else f'process {tasks[0].pid}'}, of {', '.join(sorted(others))}"
    return None


if __name__ == "__main__":
    main()
