"""Which MLflow stores remote tasks cannot reach."""

import pytest

from skinlib.errors import ConfigError
from skinlib.execution.backends import Batch, Local
from skinlib.execution.reachability import check_tracking

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
