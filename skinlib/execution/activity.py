"""What still works on a run, and how to end it: heartbeats, jobs and pods, processes on this machine."""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
from metaflow import Run, Task

from skinlib.errors import RunError
from skinlib.execution.record import Record

# Metaflow sends a heartbeat every 10 s; an older one than this comes from a scheduler or task that has ended.
_SECONDS_OF_A_HEARTBEAT = 60.0
_SECONDS_TO_THE_NEXT = 30.0
_SECONDS_FOR_A_PROCESS = 10.0
_SECONDS_FOR_A_JOB = 60.0  # ECS and Kubernetes give a container 30 s before they kill it.


@dataclass(frozen=True)
class Job:
    """A job of AWS Batch or a pod of Kubernetes that has not ended."""

    name: str
    end: Callable[[], object]


def heartbeats(runs: Sequence[Run]) -> list[str]:
    """Return the runs and tasks, by their pathspecs, from which the metadata service still gets heartbeats.

    A heartbeat of the last minute may be the last one, so this waits for the next. Local metadata has none.
    """
    found = [*runs, *(task for run in runs for step in run for task in step)]
    recent = {each.pathspec: beat for each in found if time.time() - (beat := _beat(each)) < _SECONDS_OF_A_HEARTBEAT}
    if not recent:
        return []
    print(f"Waiting up to {_SECONDS_TO_THE_NEXT:.0f} seconds for another heartbeat of the run.", flush=True)
    of_runs = {run.pathspec for run in runs} & recent.keys()
    beating: set[str] = set()
    deadline = time.monotonic() + _SECONDS_TO_THE_NEXT
    # The heartbeat of a run decides; a task's may come from an orphan.
    while time.monotonic() < deadline and not (beating & of_runs or (beating and not of_runs)):
        time.sleep(1)
        beating = {path for path, beat in recent.items() if _beat(_read(path)) > beat}
    return sorted(beating, key=len)


def _read(pathspec: str) -> Run | Task:
    return (Run if pathspec.count("/") == 1 else Task)(pathspec, _namespace_check=False)


def _beat(found: Run | Task) -> float:
    # The Client has no public way to it; Metaflow's service calls it so in what it returns.
    return float(found._object.get("last_heartbeat_ts") or 0)


def unfinished_jobs(record: Record) -> list[Job]:
    """Return the jobs and pods of a run that have not ended, wherever it recorded that its steps run.

    Raises:
        RunError: they cannot be listed.
    """
    flow, run_id = record.run.pathspec.split("/")
    found: list[Job] = []
    for backend, _, namespace in (place.partition("/") for place in record.places):
        try:
            if backend == "batch":
                found += _batch_jobs(flow, run_id.removeprefix("sfn-"))
            if backend == "kubernetes":
                found += _pods(flow, run_id.removeprefix("argo-"), namespace)
        except Exception as error:  # The clients raise their own errors, urllib3's and built-in ones.
            raise RunError(f"The tasks of run {run_id} on {backend} cannot be listed ({_reason(error)})") from error
    return found


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error).partition("\n")[0]


def _batch_jobs(flow: str, run_id: str) -> Iterator[Job]:
    from metaflow.plugins.aws.batch.batch_client import BatchClient

    client = BatchClient()
    candidates = [job["jobId"] for job in client.unfinished_jobs() if f"-{flow}-" in job["jobName"]]
    for job in client.describe_jobs(candidates):
        of = job["parameters"]
        if (of.get("metaflow.flow_name"), of.get("metaflow.run_id")) == (flow, run_id):
            yield Job(f"job {job['jobName']} ({job['jobId']})", client.attach_job(job["jobId"]).kill)


def _pods(flow: str, run_id: str, namespace: str) -> Iterator[Job]:
    from metaflow.plugins.kubernetes.kubernetes_client import KubernetesClient

    client = KubernetesClient().get()
    going = "status.phase!=Succeeded,status.phase!=Failed"
    pods = client.CoreV1Api().list_namespaced_pod(namespace, field_selector=going, _request_timeout=20)
    for pod in pods.items:
        annotations, labels = pod.metadata.annotations or {}, pod.metadata.labels or {}
        of_run = run_id in (annotations.get("metaflow/run_id"), labels.get("workflows.argoproj.io/workflow"))
        if of_run and annotations.get("metaflow/flow_name") == flow:
            job = labels.get("job-name", "")
            yield Job(f"pod {pod.metadata.name} in {namespace}", partial(_end_pod, client, job, namespace))


def _end_pod(client: Any, job: str, namespace: str) -> None:
    # So does Metaflow: Kubernetes then ends the job's pods, and the job stays for its logs.
    client.BatchV1Api().patch_namespaced_job(job, namespace, {"spec": {"parallelism": 0}}, _request_timeout=20)


def end_jobs(jobs: Sequence[Job], remaining: Callable[[], Sequence[Job]]) -> None:
    """End jobs and pods, and wait until they have ended.

    Raises:
        RunError: one cannot be ended, or goes on for a minute.
    """
    for job in jobs:
        print(f"Ending {job.name}.", flush=True)
        try:
            job.end()
        except Exception as error:
            raise RunError(f"The {job.name} cannot be ended ({_reason(error)})") from error
    deadline = time.monotonic() + _SECONDS_FOR_A_JOB
    while jobs and (jobs := remaining()):
        if time.monotonic() > deadline:
            raise RunError(f"The {jobs[0].name} may still run")
        time.sleep(1)


def task_processes(script: Path, flow: str, run_ids: set[str]) -> list[psutil.Process]:
    """Return the processes on this machine that execute or watch a task of these runs of a flow."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        following = dict(pairwise(words))
        if "step" in words and following.get("--run-id") in run_ids and _runs(process, words, script, flow):
            found.append(process)
    return found


def _runs(process: psutil.Process, words: Sequence[str], script: Path, flow: str) -> bool:
    """Return whether a process runs the flow, perhaps from another copy of its file; other flows may have equal IDs."""
    name = next((word for word in words if word.endswith(".py")), "")
    with suppress(psutil.NoSuchProcess, OSError, UnicodeDecodeError):
        try:
            path = Path(process.cwd(), name)
        except psutil.AccessDenied:  # a process of another user
            return Path(name).name == script.name
        return f"class {flow}(" in path.read_text()
    return False


def end_processes(processes: Sequence[psutil.Process]) -> None:
    """Interrupt processes, and kill those that do not end in 10 seconds.

    Raises:
        RunError: a process belongs to another user.
    """
    for process in processes:
        if has_ended(process):
            continue
        print(f"Stopping process {process.pid}; its checkpoint is kept.", flush=True)
        # A process that watches a remote job ends the job when it is interrupted; when it is killed, it cannot.
        _send(process, signal.SIGINT)
    deadline = time.monotonic() + _SECONDS_FOR_A_PROCESS
    while not all(map(has_ended, processes)):
        time.sleep(0.1)
        for process in processes if time.monotonic() > deadline else []:
            _send(process, signal.SIGKILL)


def _send(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return
    except psutil.AccessDenied as error:
        raise RunError(f"Process {process.pid} of the run belongs to another user and cannot be ended") from error


def has_ended(process: psutil.Process) -> bool:
    """Return whether a process is gone, or is a zombie, which in a container may never be collected."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
