"""AWS Batch and Kubernetes on this machine, through their own clients."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.platform.conftest import ROOT, Platform, wait_until

# A shell that ignores SIGTERM and prints its pid when it does so.
STUBBORN = ["bash", "-c", "trap '' TERM; echo pid $$; while true; do sleep 0.1; done"]


class Batch:
    """AWS's client with the Batch emulator."""

    def __init__(self, endpoint_url: str | None = None) -> None:
        import boto3

        self.client = boto3.client("batch", endpoint_url=endpoint_url)

    def submit(self, command: list[str], gpus: int = 0) -> str:
        container = {"image": "any", "resourceRequirements": [{"type": "VCPU", "value": "1"}]}
        definition = self.client.register_job_definition(
            jobDefinitionName="test", type="container", containerProperties=container
        )
        overrides: dict[str, Any] = {"command": command, "environment": [{"name": "FROM_JOB", "value": "yes"}]}
        if gpus:
            overrides["resourceRequirements"] = [{"type": "GPU", "value": str(gpus)}]
        return self.client.submit_job(
            jobName="test",
            jobQueue="local",
            jobDefinition=definition["jobDefinitionArn"],
            containerOverrides=overrides,
        )["jobId"]

    def exit_code(self, job: str) -> int | None:
        return self.client.describe_jobs(jobs=[job])["jobs"][0]["container"].get("exitCode")

    def end(self, job: str) -> None:
        self.client.terminate_job(jobId=job, reason="for a test")


class Kubernetes:
    """The Kubernetes client with the Kubernetes emulator."""

    def __init__(self) -> None:
        from kubernetes import client, config

        config.load_kube_config(os.environ["KUBECONFIG"])
        self.jobs, self.pods = client.BatchV1Api(), client.CoreV1Api()

    def submit(self, command: list[str], gpus: int = 0) -> str:
        container = {
            "name": "main",
            "image": "any",
            "command": command,
            "env": [{"name": "FROM_JOB", "value": "yes"}],
            "resources": {"limits": {"nvidia.com/gpu": str(gpus)}} if gpus else {},
        }
        template = {"metadata": {"labels": {"app": "test"}}, "spec": {"containers": [container]}}
        body = {"metadata": {"generateName": "test-"}, "spec": {"template": template}}
        return self.jobs.create_namespaced_job("default", body).metadata.name

    def exit_code(self, job: str) -> int | None:
        pod = self.pods.list_namespaced_pod("default", label_selector=f"job-name={job}").items[0]
        ended = pod.status.container_statuses[0].state.terminated if pod.status.container_statuses else None
        return ended.exit_code if ended else None

    def end(self, job: str) -> None:
        self.jobs.patch_namespaced_job(job, "default", {"spec": {"parallelism": 0}})


@pytest.fixture(params=["batch", "kubernetes"])
def backend(request: pytest.FixtureRequest, user: Platform) -> Batch | Kubernetes:
    return Batch() if request.param == "batch" else Kubernetes()


def log(platform: Platform, job: str) -> Path:
    (found,) = platform.home.glob(f"*/{job}/log.txt")
    return found


def pid_of(platform: Platform, job: str) -> int:
    wait_until(lambda: bool(list(platform.home.glob(f"*/{job}/log.txt"))) and "pid" in log(platform, job).read_text())
    return int(log(platform, job).read_text().split()[1])


def test_a_job_gets_only_the_environment_of_a_container(user: Platform, backend: Batch | Kubernetes) -> None:
    os.environ["FROM_USER"] = "yes"
    job = backend.submit(["bash", "-c", "ls -A; env; exit 3"])
    wait_until(lambda: backend.exit_code(job) == 3)
    seen = log(user, job).read_text().splitlines()
    assert "=" in seen[0]  # no output of ls: the directory is empty
    environment = dict(line.split("=", 1) for line in seen)
    assert environment["FROM_JOB"] == "yes"
    assert environment["METAFLOW_SKIP_INSTALL_DEPENDENCIES"] == "1"
    assert environment["AWS_ENDPOINT_URL"] == os.environ["AWS_ENDPOINT_URL"]
    assert environment["PATH"].split(":")[0] == str(Path(sys.executable).parent)
    assert environment["HOME"] == environment["PWD"] != os.environ["HOME"]
    assert not {"PYTHONPATH", "KUBECONFIG", "METAFLOW_PROFILE"} & set(environment)
    assert not Path(environment["HOME"]).exists()


def test_a_request_for_gpus_is_accepted_and_recorded(user: Platform, backend: Batch | Kubernetes) -> None:
    job = backend.submit(["true"], gpus=2)
    wait_until(lambda: backend.exit_code(job) == 0)
    recorded = log(user, job).with_name("job.json").read_text()
    assert '"GPU"' in recorded or '"nvidia.com/gpu": "2"' in recorded


def test_a_killed_job_fails_with_137_and_leaves_no_process(user: Platform, backend: Batch | Kubernetes) -> None:
    job = backend.submit(["bash", "-c", "sleep 600 & echo pid $! $$; wait"])
    child = psutil.Process(pid_of(user, job))
    os.kill(int(log(user, job).read_text().split()[2]), signal.SIGKILL)
    wait_until(lambda: backend.exit_code(job) == 137)
    # It got its SIGKILL, but a busy system may take a moment to end it.
    wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, seconds=5)


def test_a_job_that_ignores_sigterm_is_killed_after_some_seconds(user: Platform, backend: Batch | Kubernetes) -> None:
    job = backend.submit(STUBBORN)
    pid_of(user, job)
    backend.end(job)
    wait_until(lambda: backend.exit_code(job) == 137)


def test_a_job_with_an_unknown_command_fails_with_the_reason_in_its_log(
    user: Platform, backend: Batch | Kubernetes
) -> None:
    job = backend.submit(["no-such-command"])
    wait_until(lambda: backend.exit_code(job) == 127)
    assert "no-such-command" in log(user, job).read_text()


def test_a_deleted_kubernetes_job_is_not_found_and_its_process_ends(user: Platform) -> None:
    from kubernetes.client.exceptions import ApiException

    backend = Kubernetes()
    job = backend.submit(["bash", "-c", "echo pid $$; sleep 600"])
    pid = pid_of(user, job)
    backend.jobs.delete_namespaced_job(job, "default")
    for request in (backend.jobs.read_namespaced_job, backend.jobs.delete_namespaced_job):
        with pytest.raises(ApiException) as refused:
            request(job, "default")
        assert refused.value.status == 404
    wait_until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


def test_a_kubernetes_selector_finds_the_pods_that_still_run(user: Platform) -> None:
    backend = Kubernetes()
    done, running = backend.submit(["true"]), backend.submit(["sleep", "600"])
    wait_until(lambda: backend.exit_code(done) == 0)
    selector = "status.phase!=Succeeded,status.phase!=Failed"
    listed = backend.pods.list_namespaced_pod("default", field_selector=selector).items
    assert running in [pod.metadata.labels["job-name"] for pod in listed]
    assert done not in [pod.metadata.labels["job-name"] for pod in listed]
    backend.end(running)


def test_jobs_end_with_a_killed_emulator_and_have_failed_after_its_restart(user: Platform, tmp_path: Path) -> None:
    from infra.local.processes import is_free

    port = next(port for port in range(22_000, 23_000) if is_free(port))
    command = [sys.executable, "-m", "infra.local.batch", str(port), str(tmp_path)]

    def start() -> subprocess.Popen[bytes]:
        emulator = subprocess.Popen(command, cwd=ROOT)
        wait_until(lambda: not is_free(port))
        return emulator

    emulator = start()
    try:
        batch = Batch(f"http://127.0.0.1:{port}")
        job = batch.submit(STUBBORN)
        path = tmp_path / job / "log.txt"
        wait_until(lambda: path.exists() and "pid" in path.read_text())
        pid = int(path.read_text().split()[1])
        assert psutil.pid_exists(pid)
        # When a second job has run, the watchdog knows the first.
        second = batch.submit(["true"])
        wait_until(lambda: batch.exit_code(second) == 0)
        emulator.kill()
        emulator.wait()
        wait_until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
        emulator = start()
        known = batch.client.describe_jobs(jobs=[job])["jobs"][0]
        assert (known["status"], known["statusReason"]) == ("FAILED", "Host EC2 terminated")
    finally:
        emulator.kill()
        emulator.wait()
