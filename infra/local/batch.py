"""AWS Batch on one machine: the API of localbatch, with subprocesses instead of containers.

    python -m infra.local.batch PORT FOLDER

Jobs inherit its environment, as from an image and a role. Jobs that request GPUs are accepted
and see the machine's GPUs.
"""

import json
import threading
import time
from pathlib import Path

import click
from localbatch.server import create_app
from localbatch.store import Store

from infra.local.jobs import Jobs, Json, serve

QUEUE = "local"


class Runner:
    """The interface that localbatch needs to run its jobs."""

    def __init__(self, store: Store, jobs: Jobs, port: int) -> None:
        self._store = store
        self._jobs = jobs
        self._port = port
        self._reasons: dict[str, str] = {}

    def submit(self, job: Json) -> None:
        """Start a job in the background."""
        threading.Thread(target=self._run, args=(job,), daemon=True).start()

    def terminate(self, job_id: str, reason: str) -> None:
        """End a job; its status changes when it has ended."""
        self._reasons[job_id] = reason
        self._jobs.stop(job_id)

    def _run(self, job: Json) -> None:
        job_id, overrides = job["jobId"], job["containerOverrides"]
        environment = {pair["name"]: pair.get("value", "") for pair in overrides.get("environment", [])}
        environment |= {
            "AWS_BATCH_JOB_ID": job_id,
            "AWS_BATCH_JOB_ATTEMPT": "1",
            "AWS_BATCH_CE_NAME": QUEUE,
            "AWS_BATCH_JQ_NAME": job["jobQueue"],
            "AWS_EXECUTION_ENV": "AWS_ECS_EC2",
            "ECS_CONTAINER_METADATA_URI_V4": f"http://127.0.0.1:{self._port}/metadata/{job_id}",
        }
        self._update(job, status="RUNNING", startedAt=_now())
        code = self._jobs.run(job_id, overrides["command"], environment)
        self._update(
            job,
            status="SUCCEEDED" if code == 0 else "FAILED",
            statusReason=self._reasons.get(job_id, "Essential container in task exited"),
            exitCode=code,
            stoppedAt=_now(),
        )

    def _update(self, job: Json, **changes: object) -> None:
        self._store.update_job(job["jobId"], **changes)
        self._jobs.record(job["jobId"], {**job, **changes})


def restore(store: Store, folder: Path) -> None:
    """Load the jobs of an emulator that ended, so that its clients do not wait for them forever."""
    for path in folder.glob("*/job.json"):
        job = json.loads(path.read_text())
        if job["stoppedAt"] is None:
            job |= {"status": "FAILED", "statusReason": "Host EC2 terminated", "exitCode": 137, "stoppedAt": _now()}
        store.put_job(job["jobId"], job)


def _now() -> int:
    return int(time.time() * 1000)


@click.command()
@click.argument("port", type=int)
@click.argument("folder", type=click.Path(path_type=Path))
def main(port: int, folder: Path) -> None:
    """Serve AWS Batch on PORT and keep jobs and logs in FOLDER."""
    store = Store(queue_name=QUEUE)
    restore(store, folder)
    # Tasks read their own metadata without credentials, as on ECS.
    serve(create_app(store, Runner(store, Jobs(folder), port)), port, open_to_all="/metadata/")


if __name__ == "__main__":
    main()
