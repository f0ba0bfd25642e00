"""The platform starts, stops, and tells its status."""

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

from tests.platform.conftest import Platform, wait_until


def test_every_service_is_healthy(platform: Platform) -> None:
    status = platform.command("status")
    assert status.returncode == 0
    assert [" healthy" in line for line in status.stdout.splitlines()] == [True] * 5


def test_all_servers_listen_on_this_machine_only(platform: Platform) -> None:
    addresses = set()
    for started in platform.state()["processes"].values():
        process = psutil.Process(started["pid"])
        for each in [process, *process.children(recursive=True)]:
            addresses |= {c.laddr for c in each.net_connections("inet") if c.status == psutil.CONN_LISTEN}
    assert {address.ip for address in addresses} == {"127.0.0.1"}
    assert set(platform.state()["ports"].values()) <= {address.port for address in addresses}


def test_only_the_owner_can_read_secrets(platform: Platform) -> None:
    state = platform.state()
    for path in platform.home.glob("*"):
        if path.is_file() and state["secret_key"].encode() in path.read_bytes():
            assert path.stat().st_mode & 0o777 == 0o600, path
    every_command = " ".join(" ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"]))
    assert state["secret_key"] not in every_command


def test_a_second_start_changes_nothing(platform: Platform) -> None:
    before = (platform.home / "state.json").read_bytes()
    again = platform.command("start")
    assert again.returncode == 0
    assert "already running" in again.stdout
    assert (platform.home / "state.json").read_bytes() == before


def test_the_mlflow_server_stores_artifacts_in_s3(user: Platform, tmp_path: Path) -> None:
    import boto3
    import mlflow

    (tmp_path / "note.txt").write_text("kept")
    client = mlflow.MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    run = client.create_run(client.create_experiment("artifacts"))
    client.log_artifact(run.info.run_id, str(tmp_path / "note.txt"))
    client.set_terminated(run.info.run_id)
    found = boto3.client("s3").list_objects_v2(Bucket="skin-lesion-mlflow").get("Contents", [])
    assert [entry["Key"].endswith("artifacts/note.txt") for entry in found] == [True]


def test_data_ports_and_credentials_survive_a_restart_and_dead_servers_are_replaced(user: Platform) -> None:
    import boto3

    boto3.client("s3").put_object(Bucket="skin-lesion-data", Key="image.jpg", Body=b"bytes")
    before = user.state()
    user.process("batch").kill()
    wait_until(lambda: user.command("status").returncode == 1)
    started = user.command("start")
    assert started.returncode == 0, started.stdout + started.stderr
    assert started.stdout.count("healthy after") == 1
    after = user.state()
    assert {name for name in after["processes"] if after["processes"][name] != before["processes"][name]} == {"batch"}

    workers = user.process("mlflow").children(recursive=True)
    user.process("mlflow").kill()
    pids = [started["pid"] for started in after["processes"].values()]
    assert user.command("stop").returncode == 0
    assert not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids)
    assert workers
    assert not any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers)
    assert user.command("status").returncode == 1
    assert user.command("start").returncode == 0
    again = user.state()
    assert {k: again[k] for k in ("ports", "access_key", "secret_key")} == {
        k: before[k] for k in ("ports", "access_key", "secret_key")
    }
    assert boto3.client("s3").get_object(Bucket="skin-lesion-data", Key="image.jpg")["Body"].read() == b"bytes"


def test_stop_spares_a_foreign_process_with_the_pid_of_a_server(tmp_path: Path) -> None:
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    try:
        state = {"processes": {"mlflow": {"pid": stranger.pid, "created": psutil.boot_time()}}}
        (tmp_path / "state.json").write_text(json.dumps(state))
        assert "was not running" in Platform(tmp_path).command("stop").stdout
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_server_that_cannot_start_stops_the_others_and_shows_its_log(tmp_path: Path) -> None:
    (tmp_path / "metadata").mkdir()
    (tmp_path / "metadata" / ".metaflow").write_text("a file instead of a folder")
    failed = Platform(tmp_path).command("start")
    assert failed.returncode == 1
    assert "FileExistsError" in failed.stdout
    assert failed.stderr.startswith("Error: Metaflow metadata exited during startup")
    assert len(failed.stderr.splitlines()) == 1
    for started in Platform(tmp_path).state()["processes"].values():
        assert not psutil.pid_exists(started["pid"]) or psutil.Process(started["pid"]).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(
    ("service", "path"),
    [
        ("batch", "/v1/submitjob"),
        ("batch", "/health"),
        ("kubernetes", "/apis/batch/v1/namespaces/default/jobs"),
    ],
)
def test_a_request_without_the_key_is_refused(platform: Platform, service: str, path: str) -> None:
    address = f"http://127.0.0.1:{platform.state()['ports'][service]}{path}"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(address, data=b"{}"))
    assert refused.value.code == 401


def test_a_folder_with_a_space_is_refused_in_one_sentence(tmp_path: Path) -> None:
    refused = Platform(tmp_path / "my platform").command("start")
    assert refused.returncode == 1
    assert "set PLATFORM_HOME to another folder" in refused.stdout + refused.stderr
    assert not (tmp_path / "my platform").exists()
