"""Start, stop and observe the platform's servers; what they are is defined in `servers`."""

import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from filelock import FileLock

from infra.local import processes
from infra.local.processes import Started
from infra.local.servers import GRPC_OFFSET, PORTS, Server, prepare, servers
from infra.local.state import State, load, save

ROOT = Path(__file__).resolve().parents[2]
_STARTUP_SECONDS = 120
_LOG_LINES = 20


class PlatformError(Exception):
    """The platform cannot do what was asked; the message is one sentence."""


def start(home: Path, say: Callable[[str], None]) -> bool:
    """Start the servers that do not run and wait until they are healthy.

    Args:
        home: The platform's folder.
        say: Called with each line for the user.

    Returns:
        Whether a server had to be started.

    Raises:
        PlatformError: The folder cannot be used, or a server did not start. In the second case its last log lines
            are passed to `say`, and the servers that this call started are stopped.
    """
    if any(character.isspace() for character in str(home.resolve())):
        raise PlatformError(
            f"The path {home.resolve()} has a space, which breaks Metaflow's command for remote tasks; set "
            "PLATFORM_HOME to another folder."
        )
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    (home / "logs").mkdir(exist_ok=True)
    with FileLock(home / "lock"):
        state, alive = _with_free_ports(load(home))
        missing = [server for server in servers(home, state) if server.name not in alive]
        if missing:
            prepare(home, state)
            save(home, state)
            _start(home, state, missing, say)
    return bool(missing)


def stop(home: Path) -> bool:
    """Stop every server with its child processes; keep data, ports and credentials.

    Returns:
        Whether a server was running.
    """
    if not home.exists():
        return False
    with FileLock(home / "lock"):
        state = load(home)
        running = any(processes.runs(process) for process in state.processes.values())
        processes.stop(state.processes.values())  # also children that outlived their server
        if state.processes:
            save(home, state.model_copy(update={"processes": {}}))
    return running


def status(home: Path) -> list[tuple[Server, Started | None, bool]]:
    """Return each server with its process, None if it does not run, and whether it is healthy."""
    state = load(home)
    found = []
    for server in servers(home, state) if state.ports else []:
        process = state.processes.get(server.name)
        alive = process is not None and processes.runs(process)
        found.append((server, process if alive else None, alive and server.is_healthy()))
    return found


def log_file(home: Path, server: Server) -> Path:
    """Return the file with everything that a server printed."""
    return home / "logs" / f"{server.name}.log"


def _with_free_ports(state: State) -> tuple[State, set[str]]:
    """Give every server that must be started a free port.

    Returns:
        The state with its ports, and the names of the servers that run.
    """
    alive = {name for name, process in state.processes.items() if processes.runs(process)}
    # Children of dead servers may still hold their ports.
    processes.stop(process for name, process in state.processes.items() if name not in alive)
    # The port "s3-master" belongs to the server "s3".
    taken = [port for name, port in state.ports.items() if name.partition("-")[0] not in alive and not _is_free(port)]
    if taken:
        # All servers know each other's ports: restart them all.
        processes.stop(state.processes.values())
        alive = set()
    if taken or not state.ports:
        state = state.model_copy(update={"ports": _choose_ports()})
    return state, alive


def _choose_ports() -> dict[str, int]:
    # With gRPC's, all are below 32,768, where Linux starts to assign ports to outgoing connections.
    candidates = random.SystemRandom().sample(range(12_000, 22_000), 1_000)
    free = [port for port in candidates if _is_free(port)]
    if len(free) < len(PORTS):
        raise PlatformError("Not enough ports from 12000 to 32000 are free; stop what uses them and try again.")
    return dict(zip(PORTS, free, strict=False))


def _is_free(port: int) -> bool:
    return processes.is_free(port) and processes.is_free(port + GRPC_OFFSET)


def _start(home: Path, state: State, missing: Sequence[Server], say: Callable[[str], None]) -> None:
    started: dict[str, Started] = {}
    try:
        for server in missing:
            started[server.name] = processes.start(server.command, server.environment, ROOT, log_file(home, server))
            # Save each process at once, so that `stop` knows it whatever happens next.
            state = state.model_copy(update={"processes": {**state.processes, **started}})
            save(home, state)
        _wait(home, missing, started, say)
    except BaseException:
        processes.stop(started.values())
        raise


def _wait(home: Path, missing: Sequence[Server], started: dict[str, Started], say: Callable[[str], None]) -> None:
    begin = time.monotonic()
    waiting = list(missing)
    while waiting:
        for server in list(waiting):
            seconds = time.monotonic() - begin
            alive = processes.runs(started[server.name])  # otherwise another program may answer at its port
            if alive and server.is_healthy():
                say(f"{server.title:22} healthy after {seconds:4.1f} s   {server.address}")
                waiting.remove(server)
            elif not alive or seconds > _STARTUP_SECONDS:
                log = log_file(home, server)
                say("\n".join(log.read_text(errors="replace").splitlines()[-_LOG_LINES:]))
                how = f"was not healthy after {_STARTUP_SECONDS} s" if alive else "exited during startup"
                raise PlatformError(f"{server.title} {how}; read the last lines of its log above, or all of {log}.")
        time.sleep(0.1)
