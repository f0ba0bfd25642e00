"""The connection to MLflow: new databases, and servers that are down, silent, refusing or no MLflow at all."""

import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread, Timer
from typing import Any

import pytest

from skinlib.errors import TrackingError, without_credentials
from skinlib.tracking import connection


def test_processes_that_create_a_database_at_the_same_time_do_not_break_each_other(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    environment["PYTHONPATH"] = str(Path(connection.__file__).parents[2])
    command = [sys.executable, "-c", "from skinlib.tracking.connection import check; print(check())"]
    racers = [
        subprocess.Popen(command, cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE) for _ in range(2)
    ]
    printed = {racer.communicate(timeout=600)[0] for racer in racers}
    assert [racer.returncode for racer in racers] == [0, 0]
    assert printed == {"sqlite:///mlflow.db\n"}


def test_a_database_that_another_process_writes_to_is_waited_for(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with closing(sqlite3.connect(tmp_path / "mlflow.db")):
        pass
    with connection.connect(uri) as client:
        run = client.create_run("0")
    writer = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None, check_same_thread=False)
    writer.execute("BEGIN EXCLUSIVE")
    waiting = Timer(8, lambda: writer.execute("ROLLBACK"))  # MLflow alone waits for 5 seconds
    waiting.start()
    with (
        pytest.raises(TrackingError, match="database is locked"),
        connection.connect(uri, brief=True) as client,
    ):
        client.set_terminated(run.info.run_id)
    with connection.connect(uri) as client:
        client.set_terminated(run.info.run_id)
    waiting.join()
    writer.close()


def test_a_database_of_another_machine_is_named_and_not_created(tmp_path: Path) -> None:
    with (
        pytest.raises(TrackingError, match="is not on this machine"),
        connection.connect(f"sqlite:///{tmp_path}/mlflow.db"),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_database_of_another_version_of_mlflow_is_one_sentence(
    mlflow_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_database)
    connection.check()
    old = tmp_path / "mlflow.db"
    with (
        closing(sqlite3.connect(mlflow_database.removeprefix("sqlite:///"))) as current,
        closing(sqlite3.connect(old)) as copy,
    ):
        current.backup(copy)
        copy.execute("UPDATE alembic_version SET version_num = '0'")
        copy.commit()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{old}")
    with pytest.raises(TrackingError, match="mlflow db upgrade") as error:
        connection.check()
    assert is_a_sentence(str(error.value))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://ada:s3cret@host:5000/mlflow", "http://host:5000/mlflow"),
        ("postgresql+psycopg2://ada:s3@cret@host/db?password=s3cret", "postgresql+psycopg2://host/db"),
        ("API request to http://ada:s3cret@host/api failed", "API request to http://host/api failed"),
        ("sqlite:////home/ada@work/mlflow.db", "sqlite:////home/ada@work/mlflow.db"),
        ("s3://bucket/prefix", "s3://bucket/prefix"),
        ("is it a@b?", "is it a@b?"),
        ("http://ada:s3/cret@host:5000", "http://host:5000"),
        ("http://host:5000/a@b", "http://host:5000/a@b"),
    ],
)
def test_credentials_are_removed_and_nothing_else(text: str, shown: str) -> None:
    assert without_credentials(text) == shown


@pytest.fixture
def refusing_server() -> Iterator[tuple[str, list[int]]]:
    """Answers every request with one status, as a proxy or another program may."""
    status = [401]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status[0])
            self.end_headers()
            self.wfile.write(b"<html>no</html>")

        do_POST = do_GET

        def log_message(self, *arguments: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://ada:s3cret@127.0.0.1:{server.server_port}", status
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "says"),
    [(401, "TRACKING_USERNAME"), (403, "TRACKING_USERNAME"), (200, "names an MLflow 3 server")],
)
def test_a_refusal_is_one_sentence(
    status: int, says: str, refusing_server: tuple[str, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, answer = refusing_server
    answer[0] = status
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(TrackingError, match=says) as error:
        connection.check()
    assert is_a_sentence(str(error.value))
    assert "s3cret" not in str(error.value)


def test_a_server_that_is_down_is_one_sentence_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ada:s3cret@127.0.0.1:{probe.getsockname()[1]}")
        began = time.monotonic()
        with pytest.raises(TrackingError, match="does not answer; start the server") as error:
            connection.check()
    assert time.monotonic() - began < 10
    assert is_a_sentence(str(error.value))
    assert "s3cret" not in str(error.value)


def test_a_server_that_hangs_is_given_up_after_the_user_s_own_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        with pytest.raises(TrackingError, match="does not answer"):
            connection.check()
    assert time.monotonic() - began < 4


@pytest.mark.parametrize(
    "uri", ["ada:s3cret@host", "foo://bar", "http://", "postgresql+nothing://host/db", "file:///nowhere"]
)
def test_a_garbage_uri_is_one_sentence(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(TrackingError, match="MLFLOW_TRACKING_URI") as error:
        connection.check()
    assert is_a_sentence(str(error.value))
    assert "s3cret" not in str(error.value)


def test_a_file_that_is_not_a_database_is_one_sentence_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mlflow.db").write_text("not a database, but long enough to look like something" * 50)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    began = time.monotonic()
    with pytest.raises(TrackingError, match="cannot be opened") as error:
        connection.check()
    assert time.monotonic() - began < 5
    assert is_a_sentence(str(error.value))


def test_the_environment_is_left_as_it_was(mlflow_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_database)
    before = dict(os.environ)
    connection.check()
    assert dict(os.environ) == before


def is_a_sentence(message: str) -> bool:
    return message.endswith(".") and ". " not in message and "\n" not in message
