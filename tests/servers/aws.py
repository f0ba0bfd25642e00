"""A fake AWS for tests: moto's server on this machine, which keeps everything in memory."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_STARTUP_SECONDS = 60


@dataclass(frozen=True)
class AwsServer:
    """Where the server answers."""

    url: str

    def environment(self) -> dict[str, str]:
        """Return the environment variables that point any AWS client at this server."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def use(self, patch: pytest.MonkeyPatch) -> None:
        """Set these variables, and no other AWS_*."""
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in self.environment().items():
            patch.setenv(name, value)

    def post(self, path: str, body: bytes = b"") -> None:
        """Call moto's control API; `reset-auth` with a number N makes it check credentials after N requests."""
        request = urllib.request.Request(f"{self.url}/moto-api/{path}", body, {"Content-Type": "text/plain"})
        urllib.request.urlopen(request, timeout=30)


@pytest.fixture(scope="session")
def aws_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AwsServer]:
    """Start moto's server for the test session."""
    log = tmp_path_factory.mktemp("moto") / "log.txt"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tests.servers.moto_server", "-H", "127.0.0.1", "-p", str(port)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    # The instance role uses a policy that AWS manages.
    environment |= {"MOTO_IAM_LOAD_MANAGED_POLICIES": "true"}
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=_ROOT, env=environment, stdout=output, stderr=output)
    server = AwsServer(f"http://127.0.0.1:{port}")
    deadline = time.monotonic() + _STARTUP_SECONDS
    try:
        while not _answers(server):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"moto did not start; its last lines:\n{log.read_text()[-2000:]}")
            time.sleep(0.1)
        yield server
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def aws(aws_server: AwsServer, monkeypatch: pytest.MonkeyPatch) -> AwsServer:
    """Point the AWS_* variables at the server, which all tests share."""
    aws_server.use(monkeypatch)
    return aws_server


def _answers(server: AwsServer) -> bool:
    try:
        urllib.request.urlopen(f"{server.url}/moto-api/", timeout=5)
    except OSError:
        return False
    return True
