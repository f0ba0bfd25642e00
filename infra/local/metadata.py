"""Metaflow's metadata service on one machine, on top of the files of its local provider.

    python -m infra.local.metadata PORT FOLDER

It comes from the package metaflow-local-service, without its daemon, which stops after five idle minutes and keeps
a single state in the home folder. Some routes are replaced:

- artifacts: the package has no route for one artifact, which `task["name"]` requests, and returns the artifacts of all
  attempts, where Metaflow's service returns the latest's;
- heartbeats: the package forgets them, and answers in a form that ends Metaflow's sender after the first.
"""

import json
import time
from pathlib import Path

import click
import uvicorn
from fastapi import FastAPI, HTTPException
from metaflow.plugins.metadata_providers.local import LocalMetadataProvider
from metaflow_local_service import server, store

Artifact = dict[str, object]


def create_app(folder: Path) -> FastAPI:
    """Return the service over FOLDER/.metaflow."""
    app = FastAPI(openapi_url=None)
    artifacts = "/flows/{flow}/runs/{run}/steps/{step}/tasks/{task}/artifacts"

    @app.get(artifacts)
    def latest(flow: str, run: str, step: str, task: str) -> list[Artifact]:
        every = store.get_artifacts(flow, run, step, task)
        attempt = max((artifact["attempt_id"] for artifact in every), default=0)
        return [artifact for artifact in every if artifact["attempt_id"] == attempt]

    @app.get(artifacts + "/{name}")
    def one(flow: str, run: str, step: str, task: str, name: str) -> Artifact:
        return named(name, latest(flow, run, step, task))

    @app.get(artifacts + "/{name}/attempt/{attempt}")
    def one_of(flow: str, run: str, step: str, task: str, name: str, attempt: int) -> Artifact:
        return named(name, store.get_artifacts(flow, run, step, task, attempt))

    def named(name: str, found: list[Artifact]) -> Artifact:
        for artifact in found:
            if artifact["name"] == name:
                return artifact
        raise HTTPException(404, f"there is no artifact {name}")

    @app.post("/flows/{flow}/runs/{run}/heartbeat")
    @app.post("/flows/{flow}/runs/{run}/steps/{step}/tasks/{task}/heartbeat")
    async def heartbeat(flow: str, run: str, step: str | None = None, task: str | None = None) -> str:
        path = [flow, run, step, task] if task else [flow, run]
        record = LocalMetadataProvider.get_object("task" if task else "run", "self", {}, None, *path)
        if record is None:
            raise HTTPException(404, "there is no such run or task")
        record["last_heartbeat_ts"] = int(time.time())
        directory = LocalMetadataProvider._get_metadir(*path)
        LocalMetadataProvider._save_meta(directory, {"_self": record}, allow_overwrite=True)
        return json.dumps({"wait_time_in_seconds": 10})  # the service returns JSON as a string

    app.mount("/", server.create_app(str(folder)))
    return app


@click.command()
@click.argument("port", type=int)
@click.argument("folder", type=click.Path(path_type=Path))
def main(port: int, folder: Path) -> None:
    """Serve the metadata of runs on PORT and keep it in FOLDER/.metaflow."""
    uvicorn.run(create_app(folder), host="127.0.0.1", port=port, log_level="warning", timeout_graceful_shutdown=1)


if __name__ == "__main__":
    main()
