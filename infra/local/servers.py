"""The platform's servers: how each is started, in which environment, and how to tell that it works."""

import json
import os
import sys
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from infra.local import access
from infra.local.state import State, write_private

if TYPE_CHECKING:
    from obstore.store import S3Credential

BUCKETS = (access.DATA_BUCKET, access.DATASTORE_BUCKET, access.MLFLOW_BUCKET)
# SeaweedFS is five servers in one process, each with a second port for gRPC, GRPC_OFFSET above its own.
_WEED = {"s3": "s3", "s3-master": "master", "s3-volume": "volume", "s3-filer": "filer", "s3-admin": "admin"}
PORTS = (*_WEED, "mlflow", "metadata", "batch", "kubernetes")
GRPC_OFFSET = 10_000
_HEALTH_KEY = "platform-health"


@dataclass(frozen=True)
class Server:
    """One of the platform's servers.

    Attributes:
        name: Its name in the state; also the name of its log and data.
        title: Its name for people.
        address: Its URL.
        command: Starts it, from the root of the repository.
        environment: All of its environment variables.
        is_healthy: Sends a request that only succeeds if the server works.
    """

    name: str
    title: str
    address: str
    command: list[str]
    environment: dict[str, str]
    is_healthy: Callable[[], bool]


def servers(home: Path, state: State) -> list[Server]:
    """Return all servers, with the ports and credentials of the state."""
    bare = _bare_environment(home)
    # Metaflow would install packages into each job; the jobs have those of this Python.
    job = bare | access.credentials(state) | {"METAFLOW_SKIP_INSTALL_DEPENDENCIES": "1"}
    pods = "/api/v1/namespaces/default/pods"
    return [
        _s3(home, state),
        _mlflow(home, state),
        _emulator(home, state, "metadata", "metadata", "Metaflow metadata", bare, "/ping"),
        _emulator(home, state, "batch", "batch", "AWS Batch emulator", job, "/health"),
        _emulator(home, state, "kubernetes", "kubernetes_api", "Kubernetes emulator", job, pods),
    ]


def prepare(home: Path, state: State) -> None:
    """Write the files and folders that the servers and their clients need."""
    for name in ("s3", "metadata", "batch", "kubernetes"):
        (home / name).mkdir(exist_ok=True)
    user = {
        "name": "local",
        "credentials": [{"accessKey": state.access_key, "secretKey": state.secret_key}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    write_private(home / "s3-users.json", json.dumps({"identities": [user]}))
    access.write(home, state)


def _s3(home: Path, state: State) -> Server:
    command = [str(Path(sys.executable).with_name("weed")), "mini", f"-dir={home / 's3'}"]
    command += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.config={home / 's3-users.json'}"]
    command += [f"-bucket={','.join(BUCKETS)}", "-s3.autoCreateBucket=false"]
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0"]
    command += ["-admin.ui=false", "-webdav=false", "-master.telemetry=false"]
    command += [f"-{part}.port={state.ports[name]}" for name, part in _WEED.items()]
    command += [f"-{part}.port.grpc={state.ports[name] + GRPC_OFFSET}" for name, part in _WEED.items()]
    environment = _bare_environment(home)
    return Server("s3", "S3 (SeaweedFS)", state.url("s3"), command, environment, lambda: _stores(state))


def _mlflow(home: Path, state: State) -> Server:
    command = [sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={state.ports['mlflow']}"]
    command += ["--workers=1", f"--backend-store-uri=sqlite:///{home / 'mlflow.db'}"]
    command += [f"--artifacts-destination=s3://{access.MLFLOW_BUCKET}"]
    environment = _bare_environment(home) | access.credentials(state)
    environment |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    path = "/api/2.0/mlflow/experiments/search?max_results=1"
    return Server(
        "mlflow", "MLflow", state.url("mlflow"), command, environment, lambda: _answers(state, "mlflow", path)
    )


def _emulator(
    home: Path, state: State, name: str, module: str, title: str, environment: dict[str, str], path: str
) -> Server:
    """Describe a server of this package; it is healthy if it answers at `path`."""
    command = [sys.executable, "-m", f"infra.local.{module}", str(state.ports[name]), str(home / name)]
    return Server(name, title, state.url(name), command, environment, lambda: _answers(state, name, path))


def _bare_environment(home: Path) -> dict[str, str]:
    """Return an environment without the caller's settings, such as an AWS profile or a PYTHONPATH."""
    return {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(home), "LANG": "C.UTF-8"}


def _answers(state: State, name: str, path: str) -> bool:
    headers = {"Authorization": f"Bearer {state.access_key}"}
    request = urllib.request.Request(state.url(name) + path, headers=headers)  # noqa: S310 (always http://127.0.0.1)
    try:
        # Never through a proxy, whatever the environment says.
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, ValueError):
        return False


def _stores(state: State) -> bool:
    """Return whether all buckets exist and an object can be written and read.

    SeaweedFS lists its buckets before the server that holds the bytes has joined.
    """
    from obstore.exceptions import BaseError
    from obstore.store import S3Store

    def keys() -> "S3Credential":
        return {"access_key_id": state.access_key, "secret_access_key": state.secret_key, "expires_at": None}

    try:
        for bucket in BUCKETS:
            store = S3Store(
                bucket,
                endpoint=state.url("s3"),
                region=access.REGION,
                credential_provider=keys,
                client_options={"allow_http": True, "timeout": "5s"},
                retry_config={"max_retries": 0},
            )
            next(iter(store.list(chunk_size=1)), None)
            if bucket == access.DATASTORE_BUCKET:
                store.put(_HEALTH_KEY, b"healthy")
                store.get(_HEALTH_KEY).bytes()
    except (BaseError, OSError):
        return False
    return True
