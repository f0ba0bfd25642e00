"""Start and stop the platform on this machine: `python -m infra.local.services start|stop|status`.

All that it has lies in one folder, `.platform` or what PLATFORM_HOME names: data, logs, generated credentials, and the
state by which a later command finds the processes again.
"""

import json
import os
import random
import secrets
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field

from infra.local import access, processes
from infra.local.processes import Started

if TYPE_CHECKING:
    from obstore.store import S3Credential

ROOT = Path(__file__).resolve().parents[2]
_STARTUP_SECONDS = 120
_LOG_LINES = 20
# SeaweedFS has five servers, each with a port for gRPC 10,000 above its own.
_WEED = {"s3": "s3", "s3-master": "master", "s3-volume": "volume", "s3-filer": "filer", "s3-admin": "admin"}
_PORTS = (*_WEED, "mlflow", "metadata", "batch", "kubernetes")


class PlatformError(Exception):
    """The platform cannot do what was asked; one sentence."""


class State(BaseModel):
    """What is kept between commands, in `state.json`."""

    model_config = ConfigDict(frozen=True)

    access_key: str = Field(default_factory=lambda: f"LOCAL{secrets.token_hex(8).upper()}")
    secret_key: str = Field(default_factory=lambda: secrets.token_hex(20))
    ports: dict[str, int] = {}
    processes: dict[str, Started] = {}


@dataclass(frozen=True)
class Service:
    """One of the platform's servers.

    Attributes:
        name: In the state, and of its log and data.
        title: As it is printed.
        address: Its URL.
        command: What starts it, from the repository's root.
        environment: All of its environment.
        is_healthy: Asks it for something that it can only answer when it works.
    """

    name: str
    title: str
    address: str
    command: Sequence[str]
    environment: dict[str, str]
    is_healthy: Callable[[], bool]


def start(home: Path, say: Callable[[str], None]) -> bool:
    """Start what does not run yet and wait until it is healthy.

    Returns:
        Whether anything had to be started.

    Raises:
        PlatformError: The folder cannot be used, or a service did not start; what this call had started is stopped
            again, its log was said.
    """
    if any(character.isspace() for character in str(home.resolve())):
        raise PlatformError(
            f"Metaflow's command for remote tasks cannot work in {home.resolve()}, whose name has a space; name "
            "another folder in PLATFORM_HOME."
        )
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    (home / "logs").mkdir(exist_ok=True)
    with _locked(home):
        state = load(home)
        alive = {name for name, process in state.processes.items() if processes.runs(process)}
        # What the dead may have left behind holds their ports.
        processes.stop(process for name, process in state.processes.items() if name not in alive)
        taken = [port for name, port in state.ports.items() if name.partition("-")[0] not in alive and not _free(port)]
        if taken:
            # A new port for one changes what the others have to know.
            processes.stop(state.processes.values())
            alive = set()
        if taken or not state.ports:
            state = state.model_copy(update={"ports": _choose_ports()})
        every = services(home, state)
        missing = [service for service in every if service.name not in alive]
        if missing:
            _write_files(home, state)
            _start(home, state, missing, say)
    return bool(missing)


def _start(home: Path, state: State, missing: Sequence[Service], say: Callable[[str], None]) -> None:
    started: dict[str, Started] = {}
    try:
        for service in missing:
            log = home / "logs" / f"{service.name}.log"
            started[service.name] = processes.start(service.command, service.environment, ROOT, log)
            # At once: whatever happens next, `stop` knows them all.
            state = state.model_copy(update={"processes": {**state.processes, **started}})
            _save(home, state)
        _wait(home, missing, started, say)
    except BaseException:
        processes.stop(started.values())
        raise


def _wait(home: Path, missing: Sequence[Service], started: dict[str, Started], say: Callable[[str], None]) -> None:
    begin = time.monotonic()
    waiting = list(missing)
    while waiting:
        for service in list(waiting):
            seconds = time.monotonic() - begin
            alive = processes.runs(started[service.name])  # or another program may answer at its port
            if alive and service.is_healthy():
                say(f"{service.title:22} healthy after {seconds:4.1f} s   {service.address}")
                waiting.remove(service)
            elif not alive or seconds > _STARTUP_SECONDS:
                log = home / "logs" / f"{service.name}.log"
                say("\n".join(log.read_text(errors="replace").splitlines()[-_LOG_LINES:]))
                how = "gave no healthy answer" if alive else "ended while it started"
                raise PlatformError(f"{service.title} {how}; its last lines are above, all of them in {log}.")
        time.sleep(0.1)


def stop(home: Path) -> bool:
    """End every service, with all that it started; data, ports and credentials stay.

    Returns:
        Whether one was running.
    """
    if not home.exists():
        return False
    with _locked(home):
        state = load(home)
        running = any(processes.runs(process) for process in state.processes.values())
        processes.stop(state.processes.values())  # of the dead, what they left behind
        if state.processes:
            _save(home, state.model_copy(update={"processes": {}}))
    return running


def status(home: Path) -> list[tuple[Service, Started | None, bool]]:
    """Return each service with its process, None where it does not run, and whether it is healthy."""
    state = load(home)
    found = []
    for service in services(home, state) if state.ports else []:
        process = state.processes.get(service.name)
        alive = process is not None and processes.runs(process)
        found.append((service, process if alive else None, alive and service.is_healthy()))
    return found


def load(home: Path) -> State:
    """Read what earlier commands left, or make new credentials."""
    path = home / "state.json"
    return State.model_validate_json(path.read_text()) if path.exists() else State()


def _save(home: Path, state: State) -> None:
    access.write_private(home / "state.json", state.model_dump_json(indent=1))


@contextmanager
def _locked(home: Path) -> Iterator[None]:
    with FileLock(home / "lock"):
        yield


def _choose_ports() -> dict[str, int]:
    # Below 32,768, where Linux begins to give ports to outgoing connections, with gRPC's in mind.
    candidates = random.SystemRandom().sample(range(12_000, 22_000), 1_000)
    free = [port for port in candidates if _free(port)]
    if len(free) < len(_PORTS):
        raise PlatformError("Not enough ports from 12000 to 32000 are free; end what uses them and try again.")
    return dict(zip(_PORTS, free, strict=False))


def _free(port: int) -> bool:
    return processes.is_free(port) and processes.is_free(port + 10_000)


def services(home: Path, state: State) -> list[Service]:
    """Return the platform's services, as they run with the state's ports and credentials."""
    url = {name: f"http://127.0.0.1:{state.ports[name]}" for name in _PORTS}
    python = [sys.executable, "-m"]
    # Nothing of the caller's environment but this: an AWS profile or a PYTHONPATH must not decide what happens here.
    bare = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(home), "LANG": "C.UTF-8"}
    with_s3 = bare | access.credentials(state.access_key, state.secret_key, url["s3"])
    job = with_s3 | {"METAFLOW_SKIP_INSTALL_DEPENDENCIES": "1"}

    weed = [str(Path(sys.executable).with_name("weed")), "mini", f"-dir={home / 's3'}"]
    weed += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.config={home / 's3-users.json'}"]
    weed += [f"-bucket={access.DATA_BUCKET},{access.DATASTORE_BUCKET},{access.MLFLOW_BUCKET}"]
    weed += ["-s3.autoCreateBucket=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    weed += ["-admin.ui=false", "-webdav=false", "-master.telemetry=false"]
    weed += [f"-{part}.port={state.ports[name]}" for name, part in _WEED.items()]
    weed += [f"-{part}.port.grpc={state.ports[name] + 10_000}" for name, part in _WEED.items()]

    mlflow = [*python, "mlflow", "server", "--host=127.0.0.1", f"--port={state.ports['mlflow']}", "--workers=1"]
    mlflow += [f"--backend-store-uri=sqlite:///{home / 'mlflow.db'}"]
    mlflow += [f"--artifacts-destination=s3://{access.MLFLOW_BUCKET}"]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}

    def own(name: str, module: str, title: str, environment: dict[str, str], path: str) -> Service:
        command = [*python, f"infra.local.{module}", str(state.ports[name]), str(home / name)]
        return Service(name, title, url[name], command, environment, lambda: _answers(url[name] + path, state))

    experiments = f"{url['mlflow']}/api/2.0/mlflow/experiments/search?max_results=1"
    return [
        Service("s3", "S3 (SeaweedFS)", url["s3"], weed, bare, lambda: _holds_buckets(url["s3"], state)),
        Service("mlflow", "MLflow", url["mlflow"], mlflow, with_s3 | quiet, lambda: _answers(experiments, state)),
        own("metadata", "metadata", "Metaflow metadata", bare, "/ping"),
        own("batch", "batch", "AWS Batch emulator", job, "/health"),
        own("kubernetes", "kubernetes_api", "Kubernetes emulator", job, "/api/v1/namespaces/default/pods"),
    ]


def _write_files(home: Path, state: State) -> None:
    for name in ("s3", "metadata", "batch", "kubernetes"):
        (home / name).mkdir(exist_ok=True)
    user = {
        "name": "local",
        "credentials": [{"accessKey": state.access_key, "secretKey": state.secret_key}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    access.write_private(home / "s3-users.json", json.dumps({"identities": [user]}))
    addresses = {name: f"http://127.0.0.1:{port}" for name, port in state.ports.items()}
    access.write(home, addresses, state.access_key, state.secret_key)
    _save(home, state)


def _answers(address: str, state: State) -> bool:
    request = urllib.request.Request(address, headers={"Authorization": f"Bearer {state.access_key}"})
    try:
        # No proxy stands between this machine and itself, whatever the environment says.
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, ValueError):
        return False


def _holds_buckets(address: str, state: State) -> bool:
    from obstore.exceptions import BaseError
    from obstore.store import S3Store

    def keys() -> "S3Credential":
        return {"access_key_id": state.access_key, "secret_access_key": state.secret_key, "expires_at": None}

    try:
        for bucket in (access.DATA_BUCKET, access.DATASTORE_BUCKET, access.MLFLOW_BUCKET):
            store = S3Store(
                bucket,
                endpoint=address,
                region=access.REGION,
                credential_provider=keys,
                client_options={"allow_http": True, "timeout": "5s"},
                retry_config={"max_retries": 0},
            )
            next(iter(store.list(chunk_size=1)), None)
    except (BaseError, OSError):
        return False
    return True


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--home", envvar="PLATFORM_HOME", default=".platform", type=click.Path(path_type=Path, resolve_path=True))
@click.pass_context
def commands(context: click.Context, home: Path) -> None:
    """Run S3, MLflow, Metaflow's metadata, AWS Batch and Kubernetes on this machine, without containers or accounts."""
    context.obj = home


@commands.command("start")
@click.pass_obj
def start_command(home: Path) -> None:
    """Start what does not run yet, wait until all is healthy, and say how to use it."""
    try:
        if not start(home, click.echo):
            click.echo("The platform is running already; nothing was changed.")
            _show(home)
    except PlatformError as error:
        raise click.ClickException(str(error)) from error
    env = os.path.relpath(home / "env")
    click.echo(f"""
Use it:
  source {env}
  python flows/train.py --config compute configs/compute/kubernetes.json run

Images go to s3://{access.DATA_BUCKET}, jobs and their logs are in {os.path.relpath(home)}/batch and /kubernetes.
`make platform-status` looks after it, `make platform-stop` ends it and keeps the data.""")


@commands.command("stop")
@click.pass_obj
def stop_command(home: Path) -> None:
    """End every service; data, ports and credentials stay."""
    was_running = stop(home)
    click.echo("The platform has stopped; its data stays." if was_running else "The platform was not running.")


@commands.command("status")
@click.pass_obj
def status_command(home: Path) -> None:
    """Show each service: healthy or not, address, process, log. Fails unless all are healthy."""
    if not _show(home):
        sys.exit(1)


def _show(home: Path) -> bool:
    found = status(home)
    for service, process, healthy in found:
        how = "healthy" if healthy else "not healthy" if process else "not running"
        log = os.path.relpath(home / "logs" / f"{service.name}.log")
        pid = f"pid {process.pid}" if process else "-"
        click.echo(f"{service.title:22} {how:12} {service.address:24} {pid:12} {log}")
    if not found:
        click.echo("There is no platform here; start it with: make platform")
    return bool(found) and all(healthy for _, _, healthy in found)


if __name__ == "__main__":
    commands()
