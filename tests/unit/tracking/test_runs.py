"""MLflow's runs, on a SQLite database and on a real server."""

import math
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from skinlib.errors import TrackingError
from skinlib.tracking import runs
from skinlib.tracking.runs import RecordedRun, TrialLog
from tests.servers.mlflow import MlflowServer


@pytest.fixture
def parent(mlflow_uri: str, request: pytest.FixtureRequest) -> RecordedRun:
    return start(request.node.name)


def start(run_key: str, **overrides: Any) -> RecordedRun:
    arguments: dict[str, Any] = {
        "name": "run",
        "params": {"seed": 0},
        "tags": {"data_url": "s3://bucket/skin"},
    }
    return runs.start_run("skin-lesion", run_key, **(arguments | overrides))


def trial_log(parent: RecordedRun, trial_key: str = "resnet10-32px") -> TrialLog:
    key = f"{trial_key}-data.pt"
    return TrialLog(parent, trial_key, training_key=key, params={"epochs": 3}, tags={"seed": 0}, git_commit="abc")


def children(uri: str, parent: RecordedRun) -> dict[str, Run]:
    """Return the runs of a parent's trials by trial key; fails if a trial has two."""
    client = MlflowClient(uri)
    experiment = client.get_run(parent["run_id"]).info.experiment_id
    found = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent['run_id']}'")
    by_key = {run.data.tags["skinlib.trial"]: run for run in found}
    assert len(by_key) == len(found)
    return by_key


def history(epochs: int, begin: int = 1) -> list[dict[str, Any]]:
    return [
        {
            "epoch": e,
            "time_ms": 1_700_000_000_000 + 1000 * e,
            "train_loss": 1 / e,
            "validation_auroc": 0.5 + e / 1000,
        }
        for e in range(begin, epochs + 1)
    ]


def curve(uri: str, parent: RecordedRun, name: str = "train_loss") -> list[tuple[int, float, int]]:
    (run,) = children(uri, parent).values()
    points = MlflowClient(uri).get_metric_history(run.info.run_id, name)
    return sorted((point.step, point.value, point.timestamp) for point in points)


def expected(epochs: int) -> list[tuple[int, float, int]]:
    return [(e["epoch"], e["train_loss"], e["time_ms"]) for e in history(epochs)]


def test_a_retried_start_continues_its_run(parent: RecordedRun, request: pytest.FixtureRequest) -> None:
    assert start(request.node.name) == parent


def test_the_parent_run_names_its_settings_and_sources(mlflow_uri: str) -> None:
    run = start(
        "described",
        params={"sweep": "quick", "seed": 3},
        tags={"data_url": "s3://bucket/skin", "metaflow_run": "SkinLesionFlow/7", "data_hash": None},
        git_commit="0123abc",
    )
    data = MlflowClient(mlflow_uri).get_run(run["run_id"]).data
    assert data.params == {"sweep": "quick", "seed": "3"}
    assert data.tags == {
        "mlflow.runName": "run",
        "mlflow.source.git.commit": "0123abc",
        "skinlib.run": "described",
        "skinlib.data_url": "s3://bucket/skin",
        "skinlib.metaflow_run": "SkinLesionFlow/7",
    }


def test_a_trial_s_run_names_its_settings(mlflow_uri: str, parent: RecordedRun) -> None:
    trial_log(parent)
    data = children(mlflow_uri, parent)["resnet10-32px"].data
    assert data.params == {"epochs": "3"}
    assert data.tags == {
        "mlflow.runName": "resnet10-32px",
        "mlflow.parentRunId": parent["run_id"],
        "mlflow.source.git.commit": "abc",
        "skinlib.trial": "resnet10-32px",
        "skinlib.training": "resnet10-32px-data.pt",
        "skinlib.seed": "0",
    }


def test_a_fold_s_run_has_its_own_name_and_the_trial_as_a_tag(mlflow_uri: str, parent: RecordedRun) -> None:
    TrialLog(parent, "resnet10-32px", name="resnet10-32px.fold-2", training_key="2.pt", params={}, tags={"fold": 2})
    tags = children(mlflow_uri, parent)["resnet10-32px"].data.tags
    assert (tags["mlflow.runName"], tags["skinlib.fold"]) == ("resnet10-32px.fold-2", "2")


def test_a_retried_trial_continues_its_run(mlflow_uri: str, parent: RecordedRun) -> None:
    trial_log(parent)
    before = children(mlflow_uri, parent)["resnet10-32px"]
    runs.mark_failed(parent)
    trial_log(parent)
    trial_log(parent, "resnet18-64px")

    found = children(mlflow_uri, parent)
    again = found["resnet10-32px"]
    assert set(found) == {"resnet10-32px", "resnet18-64px"}
    assert again.info.run_id == before.info.run_id
    assert again.info.status == "RUNNING"
    assert "skinlib.reason" not in again.data.tags
    assert MlflowClient(mlflow_uri).get_run(parent["run_id"]).info.status == "RUNNING"


def test_a_training_that_is_repeated_after_its_end_leaves_the_finished_run_alone(
    mlflow_uri: str, parent: RecordedRun
) -> None:
    trial_log(parent).finish(history(2), {"best_validation_auroc": 0.9})
    runs.finish_run(parent)
    (before,) = children(mlflow_uri, parent).values()
    trial_log(parent).finish(history(2), {"best_validation_auroc": 0.9})  # from its last checkpoint
    assert children(mlflow_uri, parent)["resnet10-32px"].to_dictionary() == before.to_dictionary()

    again = trial_log(parent)
    again.send(history(3)[2:])
    again.finish(history(3)[2:], {"best_validation_auroc": 0.4})
    client = MlflowClient(mlflow_uri)
    assert client.get_run(before.info.run_id).to_dictionary() == before.to_dictionary()
    nested = client.search_runs([before.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent['run_id']}'")
    assert sorted(run.data.metrics["best_validation_auroc"] for run in nested) == [0.4, 0.9]
    assert client.get_run(parent["run_id"]).info.status == "FINISHED"


def test_a_curve_that_is_sent_twice_is_stored_once(mlflow_uri: str, parent: RecordedRun) -> None:
    killed = trial_log(parent)
    killed.send(history(1))
    killed.send(history(2))
    successor = trial_log(parent)
    successor.send(history(2))
    for _ in range(2):
        successor.finish(history(3), {"best_validation_auroc": 0.9, "undefined": None, "nan": math.nan})

    assert curve(mlflow_uri, parent) == expected(3)
    assert [value for _, value, _ in curve(mlflow_uri, parent, "best_validation_auroc")] == [0.9]
    found = children(mlflow_uri, parent)["resnet10-32px"]
    assert found.info.status == "FINISHED"
    assert not {"undefined", "nan"} & set(found.data.metrics)


def test_a_diverged_trial_is_marked_failed_with_its_reason(mlflow_uri: str, parent: RecordedRun) -> None:
    lost = [*history(1), {"epoch": 2, "time_ms": 1_700_000_002_000, "train_loss": math.nan}]
    log = trial_log(parent)
    for _ in range(2):
        log.finish(lost, {}, "diverged", "the loss is not finite")

    found = children(mlflow_uri, parent)["resnet10-32px"]
    assert found.info.status == "FAILED"
    assert found.data.tags["skinlib.status"] == "diverged"
    assert found.data.tags["skinlib.reason"] == "the loss is not finite"
    assert [step for step, _, _ in curve(mlflow_uri, parent)] == [1, 2]


def test_a_long_curve_is_split_into_requests_that_mlflow_accepts(
    mlflow_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_database)
    parent = start("long")
    trial_log(parent).finish(history(600), {})
    assert len(curve(mlflow_database, parent)) == 600


def test_final_metrics_that_are_logged_twice_are_one_point(mlflow_uri: str, parent: RecordedRun) -> None:
    for _ in range(2):
        client = MlflowClient(mlflow_uri)
        runs.log_metrics(client, client.get_run(parent["run_id"]), {"test_auroc": 0.9, "test_sensitivity": None})
    assert len(MlflowClient(mlflow_uri).get_metric_history(parent["run_id"], "test_auroc")) == 1


def test_a_failed_flow_run_marks_its_running_trials_failed(mlflow_uri: str, parent: RecordedRun) -> None:
    trial_log(parent, "done").finish(history(1), {})
    trial_log(parent, "running")
    runs.mark_failed(parent, "step train failed")

    found = children(mlflow_uri, parent)
    found["parent"] = MlflowClient(mlflow_uri).get_run(parent["run_id"])
    status = {key: run.info.status for key, run in found.items()}
    assert status == {"parent": "FAILED", "done": "FINISHED", "running": "FAILED"}
    assert found["running"].data.tags["skinlib.reason"] == "step train failed"


def test_a_finished_run_stays_finished(mlflow_uri: str, parent: RecordedRun) -> None:
    runs.finish_run(parent)
    runs.mark_failed(parent)
    assert MlflowClient(mlflow_uri).get_run(parent["run_id"]).info.status == "FINISHED"


def test_training_continues_without_the_server_and_the_curve_is_complete(
    mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
    parent = start("outage")
    log = trial_log(parent)
    log.send(history(1))
    mlflow_server.stop()
    try:
        began = time.monotonic()
        for epochs in range(2, 6):
            log.send(history(epochs))
        assert time.monotonic() - began < 15
    finally:
        mlflow_server.start()
    assert capsys.readouterr().out.count("Training continues") == 1
    assert curve(mlflow_server.uri, parent) == expected(1)
    log.finish(history(5), {})
    assert curve(mlflow_server.uri, parent) == expected(5)


def test_a_trial_that_starts_in_an_outage_is_recorded_after_it(
    mlflow_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_database)
    monkeypatch.setattr(runs, "_PAUSE_SECONDS", 0.0)
    parent = start("back again")
    with monkeypatch.context() as away:
        away.setenv("MLFLOW_TRACKING_URI", f"{mlflow_database}.elsewhere")
        log = trial_log(parent)
        log.send(history(1))
    assert children(mlflow_database, parent) == {}
    log.send(history(2))
    assert curve(mlflow_database, parent) == expected(2)


def test_a_task_without_a_tracking_uri_uses_the_recorded_one(
    mlflow_database: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_database)
    run = start("elsewhere")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.chdir(tmp_path)
    runs.finish_run(run)
    assert MlflowClient(mlflow_database).get_run(run["run_id"]).info.status == "FINISHED"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("address", ["file:///proc/nowhere", "s3://bucket/mlflow"])
def test_an_artifact_store_that_cannot_be_written_is_found_at_the_start_and_leaves_no_run(
    address: str, mlflow_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_database)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    client = MlflowClient(mlflow_database)
    experiment = client.create_experiment(address, address)
    with pytest.raises(TrackingError, match=f"cannot be stored in MLflow's artifact store {address}"):
        runs.start_run(address, "key", name="run", params={}, tags={})
    assert client.search_runs([experiment]) == []


def test_a_result_goes_to_the_new_address_of_the_artifacts(
    mlflow_database: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_database)
    client = MlflowClient(mlflow_database)
    broken = client.create_experiment("repaired", (tmp_path / "old").as_uri())
    run = runs.start_run("repaired", "key", name="run", params={"seed": 0}, tags={})
    client.rename_experiment(broken, "repaired, old address")
    client.create_experiment("repaired", (tmp_path / "new").as_uri())
    held = runs.open_result(client, "repaired", "key", "result", "resumed")
    assert held.info.artifact_uri.startswith((tmp_path / "new").as_uri())
    assert held.info.run_id != run["run_id"]


def test_a_deleted_experiment_is_named(mlflow_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_database)
    start("before")
    client = MlflowClient(mlflow_database)
    gone = client.create_experiment("gone")
    client.delete_experiment(gone)
    with pytest.raises(TrackingError, match=f"--experiment-id {gone}"):
        runs.start_run("gone", "key", name="run", params={}, tags={})


def test_credentials_reach_the_server_and_are_stored_nowhere(
    mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri.replace("://", "://ada:s3cr%40t@"))
    parent = start("secret", tags={"data_url": "https://ada:s3cr%40t@host/skin?X-Amz-Signature=s3cr"})
    trial_log(parent).finish(history(1), {})
    runs.finish_run(parent)

    stored = MlflowClient(mlflow_server.uri).get_run(parent["run_id"]).to_dictionary()
    trials = [run.to_dictionary() for run in children(mlflow_server.uri, parent).values()]
    assert "s3cr" not in f"{parent}{stored}{trials}{capsys.readouterr()}"
    assert parent["uri"] == mlflow_server.uri
