"""Which MLflow stores remote tasks cannot reach, and which flows cannot be deployed."""

import pytest

from skinlib.errors import ConfigError
from skinlib.execution.backends import Backend, Batch, Kubernetes, Local
from skinlib.execution.reachability import check_deployment, check_tracking
from skinlib.training.trial import Trial

BATCH = Batch(backend="batch")


@pytest.mark.parametrize("uri", [None, "sqlite:///mlflow.db", "mlruns", "file:///tmp/mlruns"])
def test_a_store_in_a_file_is_refused_for_remote_compute_before_money_is_spent(monkeypatch, uri):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(ConfigError, match=r"Steps run on batch, .* set MLFLOW_TRACKING_URI to a server"):
        check_tracking(BATCH)
    check_tracking(Local(backend="local"))


def test_a_server_on_this_machine_is_refused_unless_the_datastore_is_here_too(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    with pytest.raises(ConfigError, match="cannot be reached"):
        check_tracking(BATCH)
    monkeypatch.setattr("metaflow.metaflow_config.S3_ENDPOINT_URL", "http://127.0.0.1:8333")
    check_tracking(BATCH)


def test_a_server_that_the_config_names_counts(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    check_tracking(Batch(backend="batch", environment={"MLFLOW_TRACKING_URI": "https://mlflow.example.org"}))


MLFLOW = {"MLFLOW_TRACKING_URI": "https://mlflow.example.org"}


@pytest.mark.parametrize(
    ("backend", "weights", "words"),
    [
        (
            Local(backend="local"),
            "none",
            "every step on kubernetes, but the compute config names local",
        ),
        (Batch(backend="batch", image="a:1", environment=MLFLOW), "none", "compute config names batch"),
        (Kubernetes(backend="kubernetes", environment=MLFLOW), "none", "The steps have no image; run make image"),
        (Kubernetes(backend="kubernetes", image="a:1"), "none", "The steps have no address of MLflow"),
        (
            Kubernetes(backend="kubernetes", image="a:1", environment={"MLFLOW_TRACKING_URI": "http://localhost:5000"}),
            "none",
            "cannot be reached",
        ),
        (
            Kubernetes(backend="kubernetes", image="a:1", environment=MLFLOW),
            "/home/ada/resnet18-f37072fd.pth",
            "cannot read the weights file /home/ada/resnet18-f37072fd.pth",
        ),
    ],
    ids=["local", "another backend", "no image", "no MLflow", "MLflow of this machine", "a file of this machine"],
)
def test_a_flow_whose_steps_could_not_run_is_not_deployed(
    monkeypatch: pytest.MonkeyPatch, backend: Backend, weights: str, words: str
) -> None:
    # What the machine that deploys has does not reach the steps.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example.org")
    with pytest.raises(ConfigError, match=words):
        check_deployment("argo-workflows", backend, [Trial(weights=weights)])


def test_a_flow_with_image_and_mlflow_is_deployed() -> None:
    trials = [Trial(weights="none"), Trial(weights="imagenet")]
    check_deployment("argo-workflows", Kubernetes(backend="kubernetes", image="a:1", environment=MLFLOW), trials)
    check_deployment("step-functions", Batch(backend="batch", image="a:1", environment=MLFLOW), trials)
