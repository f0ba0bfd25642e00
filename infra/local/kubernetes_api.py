"""The part of the Kubernetes API that Metaflow calls, with subprocesses instead of pods.

    python -m infra.local.kubernetes_api PORT FOLDER

Jobs inherit its environment, as from an image. Jobs that request GPUs are accepted and see the
machine's GPUs.
"""

import threading
import uuid
from datetime import UTC, datetime
from pathlib import Path

import click
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from infra.local.jobs import Jobs, Json, serve


class Cluster:
    """Jobs and their pods, by namespace and job name."""

    def __init__(self, jobs: Jobs) -> None:
        self.jobs: dict[tuple[str, str], Json] = {}
        self.pods: dict[tuple[str, str], Json] = {}
        self._runs = jobs

    def create(self, namespace: str, job: Json) -> Json:
        """Start a job and return it with its name."""
        metadata, template = job["metadata"], job["spec"]["template"]
        name = metadata.get("name") or f"{metadata['generateName']}{uuid.uuid4().hex[:5]}"
        job["metadata"] = {**metadata, "name": name, "namespace": namespace, "uid": str(uuid.uuid4())}
        job["spec"].setdefault("parallelism", 1)
        job["status"] = {"active": 1}
        self.jobs[namespace, name] = job
        self.pods[namespace, name] = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"{name}-0",
                "namespace": namespace,
                "uid": str(uuid.uuid4()),
                "labels": {**(template["metadata"].get("labels") or {}), "job-name": name},
                "annotations": template["metadata"].get("annotations"),
            },
            "spec": template["spec"],
            "status": {"phase": "Pending"},
        }
        threading.Thread(target=self._run, args=(namespace, name), daemon=True).start()
        return job

    def change(self, namespace: str, name: str, patch: Json) -> Json:
        """Merge a patch into a job's specification; parallelism 0, by which Metaflow kills a job, ends it."""
        job = self.jobs[namespace, name]
        job["spec"].update(patch.get("spec", {}))
        if job["spec"]["parallelism"] == 0:
            self._runs.stop(name)
        return job

    def delete(self, namespace: str, name: str) -> None:
        """End a job, and remove it and its pod."""
        del self.jobs[namespace, name], self.pods[namespace, name]
        self._runs.stop(name)

    def _run(self, namespace: str, name: str) -> None:
        job, pod = self.jobs[namespace, name], self.pods[namespace, name]
        container = job["spec"]["template"]["spec"]["containers"][0]
        started = _now()

        def show(phase: str, state: Json) -> None:
            status = {"name": container["name"], "image": container["image"], "imageID": "", "restartCount": 0}
            status |= {"ready": phase == "Running", "state": state}
            pod["status"] = {"phase": phase, "startTime": started, "containerStatuses": [status]}
            self._runs.record(name, job)

        show("Running", {"running": {"startedAt": started}})
        environment = {variable["name"]: _value(variable, pod) for variable in container.get("env") or []}
        code = self._runs.run(name, [*container["command"], *(container.get("args") or [])], environment)
        job["status"] = {"succeeded": 1} if code == 0 else {"failed": 1}
        end = {"exitCode": code, "reason": "Error" if code else "Completed", "startedAt": started, "finishedAt": _now()}
        show("Failed" if code else "Succeeded", {"terminated": end})


def _value(variable: Json, pod: Json) -> str:
    if "value" in variable or "valueFrom" not in variable:
        return str(variable.get("value") or "")
    fields = {f"metadata.{name}": pod["metadata"][name] for name in ("name", "namespace", "uid")}
    fields |= {"spec.serviceAccountName": "default", "spec.nodeName": "local", "status.hostIP": "127.0.0.1"}
    return str(fields.get(variable["valueFrom"].get("fieldRef", {}).get("fieldPath"), ""))


def _selected(pod: Json, labels: str, fields: str) -> bool:
    """Tell whether a pod matches selectors such as `job-name=a,b=c` and `status.phase!=Failed`."""
    known = {"status.phase": pod["status"]["phase"], "metadata.name": pod["metadata"]["name"]}
    for values, selector in ((pod["metadata"]["labels"], labels), (known, fields)):
        for term in filter(None, selector.split(",")):
            name, _, wanted = term.replace("==", "=").partition("=")
            if (values.get(name.removesuffix("!")) == wanted) == name.endswith("!"):
                return False
    return True


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def create_app(cluster: Cluster) -> FastAPI:
    """Serve a cluster at the paths of the API; answer unknown objects with 404 and a `Status`, as Kubernetes does."""
    app = FastAPI(openapi_url=None)
    jobs = "/apis/batch/v1/namespaces/{namespace}/jobs"

    @app.exception_handler(KeyError)
    async def not_found(request: Request, error: KeyError) -> JSONResponse:
        message = f"there is nothing at {request.url.path}"
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
        return JSONResponse({**status, "message": message}, 404)

    @app.get("/version")
    async def version() -> Json:
        return {"major": "1", "minor": "30", "gitVersion": "v1.30.0-local"}

    @app.post(jobs, status_code=201)
    async def create(namespace: str, request: Request) -> Json:
        return cluster.create(namespace, await request.json())

    @app.get(jobs + "/{name}")
    async def read(namespace: str, name: str) -> Json:
        return cluster.jobs[namespace, name]

    @app.patch(jobs + "/{name}")
    async def change(namespace: str, name: str, request: Request) -> Json:
        return cluster.change(namespace, name, await request.json())

    @app.delete(jobs + "/{name}")
    async def delete(namespace: str, name: str) -> Json:
        cluster.delete(namespace, name)
        return {"kind": "Status", "apiVersion": "v1", "status": "Success"}

    @app.get("/api/v1/namespaces/{namespace}/pods")
    async def pods(namespace: str, labelSelector: str = "", fieldSelector: str = "") -> Json:
        found = [pod for (of, _), pod in cluster.pods.items() if of == namespace]
        items = [pod for pod in found if _selected(pod, labelSelector, fieldSelector)]
        return {"apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": items}

    return app


@click.command()
@click.argument("port", type=int)
@click.argument("folder", type=click.Path(path_type=Path))
def main(port: int, folder: Path) -> None:
    """Serve the Kubernetes API on PORT and keep jobs and logs in FOLDER."""
    serve(create_app(Cluster(Jobs(folder))), port, open_to_all="/version")


if __name__ == "__main__":
    main()
