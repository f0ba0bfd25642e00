"""A real S3 server (SeaweedFS) for tests, on this machine and in its own folder."""

import json
import os
import random
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class S3Server:
    """The server's address and its two users: one with all rights, one with none."""

    endpoint_url: str
    access_key: str = "skinlib"
    secret_key: str = "skinlib-secret"
    outsider_access_key: str = "outsider"
    outsider_secret_key: str = "outsider-secret"

    @cached_property
    def client(self) -> Any:
        """A boto3 client with all rights, independent of the environment."""
        import boto3

        session = boto3.Session(self.access_key, self.secret_key, region_name="us-east-1")
        return session.client("s3", endpoint_url=self.endpoint_url)

    def environment(self) -> dict[str, str]:
        """Return the environment variables that point any AWS client at this server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Start SeaweedFS for the test session."""
    with running(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


@contextmanager
def running(folder: Path) -> Iterator[S3Server]:
    """Start SeaweedFS with its data in a folder, and kill it at the end of the block."""
    process, server = _start(folder)
    try:
        yield server
    finally:
        process.kill()  # SIGTERM would take seconds, and the data is not needed any more
        process.wait()


@pytest.fixture
def bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Create an empty bucket, point the AWS_* variables at its server, give its name, and delete it afterwards."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    name = f"test-{uuid.uuid4().hex[:12]}"
    s3_server.client.create_bucket(Bucket=name)
    yield name
    # The volumes of SeaweedFS belong to one bucket each, and their number is limited.
    pages = s3_server.client.get_paginator("list_objects_v2").paginate(Bucket=name)
    for page in pages:
        if entries := [{"Key": entry["Key"]} for entry in page.get("Contents", ())]:
            s3_server.client.delete_objects(Bucket=name, Delete={"Objects": entries})
    s3_server.client.delete_bucket(Bucket=name)


def _start(folder: Path) -> tuple[subprocess.Popen[bytes], S3Server]:
    server = S3Server("")
    users = [
        ("admin", server.access_key, server.secret_key, ["Admin", "Read", "Write", "List", "Tagging"]),
        ("outsider", server.outsider_access_key, server.outsider_secret_key, ["Read:some-other-bucket"]),
    ]
    identities = [
        {"name": name, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}
        for name, key, secret, actions in users
    ]
    config = folder / "users.json"
    config.write_text(json.dumps({"identities": identities}))
    (folder / "data").mkdir()
    for _ in range(3):  # another process may take a port between the check and the start
        ports = dict(zip(("master", "volume", "filer", "s3", "admin"), _free_ports(5), strict=True))
        command = [str(Path(sys.executable).with_name("weed")), "mini", f"-dir={folder / 'data'}"]
        command += [
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            f"-s3.config={config}",
            "-s3.autoCreateBucket=false",
        ]
        command += ["-admin.ui=false", "-webdav=false", "-master.telemetry=false"]
        command += ["-s3.port.iceberg=0", "-s3.port.lance=0"]
        command += [f"-{part}.port={port}" for part, port in ports.items()]
        command += [f"-{part}.port.grpc={port + 10000}" for part, port in ports.items()]
        with (folder / "log.txt").open("wb") as log:
            process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
        endpoint_url = f"http://127.0.0.1:{ports['s3']}"
        if _answers(process, endpoint_url):
            return process, S3Server(endpoint_url)
        process.kill()
        process.wait()
    pytest.fail(f"SeaweedFS did not start; its last lines:\n{(folder / 'log.txt').read_text()[-2000:]}")


def _answers(process: subprocess.Popen[bytes], endpoint_url: str) -> bool:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(endpoint_url, timeout=2)
        except urllib.error.HTTPError:
            return True  # it asks for credentials
        except OSError:
            time.sleep(0.1)
    return False


def _free_ports(count: int) -> list[int]:
    """Find free ports whose port 10,000 above, which SeaweedFS uses for gRPC, is free too.

    All are below 32,768, where Linux starts to assign ports to outgoing connections.
    """
    found: list[int] = []
    for port in random.SystemRandom().sample(range(12_000, 22_000), 1_000):
        with suppress(OSError), socket.socket() as low, socket.socket() as high:
            low.bind(("127.0.0.1", port))
            high.bind(("127.0.0.1", port + 10_000))
            found.append(port)
        if len(found) == count:
            return found
    pytest.fail("no free ports for SeaweedFS")
