"""Metaflow's metadata service on one machine, over files in the form of its local provider.

    python -m infra.local.metadata PORT FOLDER

The package metaflow-local-service gives it. Its own daemon is not used: that ends after five idle minutes, and keeps
one state for all in the home folder. What it answers about artifacts is mended: it does not know a single one, as
`task["name"]` asks for it, and mixes those of all attempts where the service's answer is the latest attempt's.
"""

from pathlib import Path
from typing import Any

import click
import uvicorn
from fastapi import FastAPI, HTTPException
from metaflow_local_service import server, store


def create_app(folder: Path) -> FastAPI:
    """Return the service over FOLDER/.metaflow."""
    app = FastAPI(openapi_url=None)
    artifacts = "/flows/{flow}/runs/{run}/steps/{step}/tasks/{task}/artifacts"

    @app.get(artifacts)
    def latest(flow: str, run: str, step: str, task: str) -> list[dict[str, Any]]:
        every = store.get_artifacts(flow, run, step, task)
        attempt = max((artifact["attempt_id"] for artifact in every), default=0)
        return [artifact for artifact in every if artifact["attempt_id"] == attempt]

    @app.get(artifacts + "/{name}")
    def one(flow: str, run: str, step: str, task: str, name: str) -> dict[str, Any]:
        return named(name, latest(flow, run, step, task))

    @app.get(artifacts + "/{name}/attempt/{attempt}")
    def one_of(flow: str, run: str, step: str, task: str, name: str, attempt: int) -> dict[str, Any]:
        return named(name, store.get_artifacts(flow, run, step, task, attempt))

    def named(name: str, found: list[dict[str, Any]]) -> dict[str, Any]:
        for artifact in found:
            if artifact["name"] == name:
                return artifact
        raise HTTPException(404, f"there is no artifact {name}")

    app.mount("/", server.create_app(str(folder)))
    return app


@click.command()
@click.argument("port", type=int)
@click.argument("folder", type=click.Path(path_type=Path))
def main(port: int, folder: Path) -> None:
    """Serve the metadata of runs at PORT; they are kept in FOLDER/.metaflow."""
    uvicorn.run(create_app(folder), host="127.0.0.1", port=port, log_level="warning", timeout_graceful_shutdown=1)


if __name__ == "__main__":
    main()
