"""What the platform remembers between commands, in `state.json`: its credentials, ports and processes."""

import os
import secrets
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from infra.local.processes import Started


class State(BaseModel):
    """The credentials, generated once, and the ports and processes by name."""

    model_config = ConfigDict(frozen=True)

    access_key: str = Field(default_factory=lambda: f"LOCAL{secrets.token_hex(8).upper()}")
    secret_key: str = Field(default_factory=lambda: secrets.token_hex(20))
    ports: dict[str, int] = {}
    processes: dict[str, Started] = {}

    def url(self, name: str) -> str:
        """Return the address of a server."""
        return f"http://127.0.0.1:{self.ports[name]}"


def load(home: Path) -> State:
    """Read the state that earlier commands saved, or generate new credentials."""
    path = home / "state.json"
    return State.model_validate_json(path.read_text()) if path.exists() else State()


def save(home: Path, state: State) -> None:
    """Replace the saved state."""
    write_private(home / "state.json", state.model_dump_json(indent=1))


def write_private(path: Path, text: str) -> None:
    """Write a file atomically; only its owner can read it."""
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    partial.replace(path)
