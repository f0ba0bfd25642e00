"""What still works on a run, and how to end it: jobs and pods, and processes on this machine."""

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
from metaflow import Run

from skinlib.errors import RunError
from skinlib.execution.record import Record

_SECONDS_FOR_A_PROCESS = 10.0
_SECONDS_FOR_A_JOB = 60.0  # ECS and Kubernetes give a container 30 s before they kill it.


@dataclass(frozen=True)
class Job:
    """A job of AWS Batch or a pod of Kubernetes that has not ended."""

    name: str
    end: Callable[[], object]


def last_heartbeat(run: Run) -> float:
    """Return the Unix time of the last heartbeat of a run's scheduler; 0 without a metadata service."""
    # The Client has no public way to it; Metaflow's service calls it so in what it returns.
    return float(run._object.get("last_heartbeat_ts") or 0)


def unfinished_jobs(record: Record) -> list[Job]:
    """Return the jobs and pods of a run that have not ended.

    Raises:
        RunError: they cannot be listed.
    """
    flow, run_id = record.run.pathspec.split("/")
    backend, _, namespace = record.place.partition("/")
    try:
        if backend == "batch":
            return list(_batch_jobs(flow, run_id.removeprefix("sfn-")))
        if backend == "kubernetes":
            return list(_pods(flow, run_id.removeprefix("argo-"), namespace))
    except Exception as error:  # The clients raise their own errors, urllib3's and built-in ones.
        raise RunError(f"The tasks of run {run_id} on {backend} cannot be listed ({_reason(error)})") from error
    return []


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


def task_processes(flow: str, run_ids: set[str]) -> list[psutil.Process]:
    """Return this user's processes on this machine that execute or watch a task of these runs of a flow."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "step" in words and dict(pairwise(words)).get("--run-id") in run_ids:
            script = next((word for word in words if word.endswith(".py")), "")
            with suppress(psutil.Error, OSError, UnicodeDecodeError):
                # Another flow may have a run of the same ID.
                if f"class {flow}(" in Path(process.cwd(), script).read_text():
                    found.append(process)
    return found


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
