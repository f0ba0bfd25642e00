"""MLflow's runs: one parent run a flow run, one child run a trial.

A run is found again by what it is (the flow run's key, the trial's key), so a retried or resumed task goes on
with the run that it began. Between tasks a run is a plain dict, `{"uri", "run_id"}`, an artifact without a
password. All goes through `MlflowClient`: there is no active run and no global tracking URI.
"""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag

from skinlib.errors import TrackingError
from skinlib.tracking.connection import check, connect, unless_exists, without_credentials

_PAUSE_SECONDS = 60.0
# MLflow's limit.
_METRICS_A_REQUEST = 1000

RecordedRun = dict[str, str]
Epoch = Mapping[str, Any]


def start_run(
    experiment: str,
    run_key: str,
    *,
    name: str,
    params: Mapping[str, Any],
    tags: Mapping[str, Any],
    git_commit: str | None = None,
) -> RecordedRun:
    """Open the parent run of a flow run, or go on with it if it exists.

    Args:
        experiment: its name; it is created if missing.
        run_key: what names the flow run, over retries and resumes.
        name: the run's name in MLflow.
        params: settings by name.
        tags: stored as `skinlib.NAME`, without what is None and without credentials in URLs.
        git_commit: of the code; None where it is not known.

    Raises:
        TrackingError: MLflow does not answer or refuses, which is known in seconds.
    """
    uri = check()
    with connect() as client:
        experiment_id = _experiment_id(client, experiment)
        run_id = _open(client, experiment_id, {"skinlib.run": run_key}, name)
        client.log_batch(run_id, params=_params(params), tags=to_tags(tags, git_commit))
    return {"uri": uri, "run_id": run_id}


class TrialLog:
    """A trial's run: sent at best effort while the trial trains, complete when it ends.

    Where an earlier task of the same trial has opened the run, this one goes on with it. The parent is set to
    running as well, as resuming a failed flow run does not execute its `start` again.
    """

    def __init__(
        self,
        parent: RecordedRun,
        trial_key: str,
        *,
        params: Mapping[str, Any],
        tags: Mapping[str, Any],
        git_commit: str | None = None,
    ) -> None:
        """Open the run, if MLflow answers by now; arguments as `start_run`."""
        self._parent, self._trial_key = parent, trial_key
        self._params, self._tags = _params(params), to_tags(tags, git_commit)
        self._run_id: str | None = None
        self._sent, self._retry_at, self._told = 0, 0.0, False
        self.send([])

    def send(self, history: Sequence[Epoch]) -> None:
        """Send what has not been sent of the history so far (see `finish`); never raises.

        When MLflow fails this says so once and tries again after a minute, so that a server that hangs costs
        a small share of the training's time.
        """
        if time.monotonic() < self._retry_at:
            return
        try:
            with connect(self._parent["uri"], brief=True) as client:
                _log_points(client, self._opened(client), _curve(history[self._sent :]))
            self._sent = len(history)
        except Exception as error:  # Whatever it is, a training is worth more than its curve.
            self._retry_at = time.monotonic() + _PAUSE_SECONDS
            if not self._told:
                print(f"Training goes on, and its curve is sent again when it ends: {error}", flush=True)
            self._told = True

    def finish(
        self,
        history: Sequence[Epoch],
        metrics: Mapping[str, float | None],
        status: str = "finished",
        reason: str | None = None,
    ) -> None:
        """Complete the run: the whole history once more, the final metrics, the status.

        It may be repeated: MLflow drops points that it has. It waits for a server as long as MLflow's
        settings say, minutes by default.

        Args:
            history: an entry an epoch: `epoch` (from 1), `time_ms` (Unix, milliseconds) and numbers by name.
            metrics: final values by names that the history does not have; None and NaN are left out.
            status: `finished`, or else the run is marked as failed.
            reason: why it ended as it did.

        Raises:
            TrackingError: MLflow does not answer or refuses.
        """
        with connect(self._parent["uri"]) as client:
            run_id = self._opened(client)
            # A time that stays the same: the same value logged again is then the same point.
            time_ms = int(history[-1]["time_ms"]) if history else _started_ms(client, run_id)
            _log_points(client, run_id, _curve(history) + _final(metrics, time_ms))
            client.log_batch(run_id, tags=to_tags({"status": status, "reason": reason}))
            client.set_terminated(run_id, "FINISHED" if status == "finished" else "FAILED")

    def _opened(self, client: MlflowClient) -> str:
        if self._run_id is None:
            parent_id = self._parent["run_id"]
            experiment_id = _reopen(client, client.get_run(parent_id)).info.experiment_id
            identity = {"mlflow.parentRunId": parent_id, "skinlib.trial": self._trial_key}
            run_id = _open(client, experiment_id, identity, self._trial_key)
            client.log_batch(run_id, params=self._params, tags=self._tags)
            self._run_id = run_id
        return self._run_id


def log_metrics(run: RecordedRun, metrics: Mapping[str, float | None]) -> None:
    """Log final values to a run; None and NaN are left out, and the same values again change nothing."""
    with connect(run["uri"]) as client:
        _log_points(client, run["run_id"], _final(metrics, _started_ms(client, run["run_id"])))


def finish_run(run: RecordedRun) -> None:
    """Mark a parent run as finished."""
    with connect(run["uri"]) as client:
        client.set_terminated(run["run_id"], "FINISHED")


def mark_failed(run: RecordedRun, reason: str = "the flow run failed") -> None:
    """Mark a parent run as failed, unless it has finished, and its children that still run."""
    with connect(run["uri"]) as client:
        parent = client.get_run(run["run_id"])
        running = f"tags.`mlflow.parentRunId` = '{run['run_id']}' and attributes.status = 'RUNNING'"
        children = client.search_runs([parent.info.experiment_id], running)
        for failed in [*children, *([] if parent.info.status == "FINISHED" else [parent])]:
            client.log_batch(failed.info.run_id, tags=to_tags({"reason": reason}))
            client.set_terminated(failed.info.run_id, "FAILED")


def to_tags(values: Mapping[str, Any], git_commit: str | None = None) -> list[RunTag]:
    """Name tags as skinlib's own, without what is None and without credentials."""
    named = {f"skinlib.{key}": value for key, value in values.items()}
    named["mlflow.source.git.commit"] = git_commit
    return [RunTag(key, without_credentials(str(value))) for key, value in named.items() if value is not None]


def _experiment_id(client: MlflowClient, name: str) -> str:
    if client.get_experiment_by_name(name) is None:
        with unless_exists():
            client.create_experiment(name)
    found: Any = client.get_experiment_by_name(name)
    if found.lifecycle_stage == "deleted":
        raise TrackingError(
            f"The MLflow experiment {name!r} is deleted; restore it with `mlflow experiments restore "
            f"--experiment-id {found.experiment_id}`, or name another."
        )
    return str(found.experiment_id)


def _open(client: MlflowClient, experiment_id: str, identity: dict[str, str], name: str) -> str:
    same = " and ".join(f"tags.`{key}` = '{value}'" for key, value in identity.items())
    found = client.search_runs([experiment_id], same, max_results=1)
    if found:
        return _reopen(client, found[0]).info.run_id
    return client.create_run(experiment_id, tags=identity, run_name=name).info.run_id


def _reopen(client: MlflowClient, run: Run) -> Run:
    if run.info.status != "RUNNING":
        client.update_run(run.info.run_id, status="RUNNING")
        for tag in {"skinlib.status", "skinlib.reason"} & run.data.tags.keys():
            client.delete_tag(run.info.run_id, tag)
    return run


def _params(values: Mapping[str, Any]) -> list[Param]:
    return [Param(key, without_credentials(str(value))) for key, value in values.items()]


def _curve(history: Sequence[Epoch]) -> list[Metric]:
    points: list[Metric] = []
    for entry in history:
        values = {key: value for key, value in entry.items() if key not in ("epoch", "time_ms")}
        points += _points(values, int(entry["time_ms"]), step=int(entry["epoch"]))
    return points


def _final(values: Mapping[str, float | None], time_ms: int) -> list[Metric]:
    known = {key: value for key, value in values.items() if value is not None and not math.isnan(value)}
    return _points(known, time_ms, step=0)


def _points(values: Mapping[str, float | None], time_ms: int, step: int) -> list[Metric]:
    return [Metric(key, float(value), time_ms, step) for key, value in values.items() if value is not None]


def _log_points(client: MlflowClient, run_id: str, points: list[Metric]) -> None:
    for start in range(0, len(points), _METRICS_A_REQUEST):
        client.log_batch(run_id, metrics=points[start : start + _METRICS_A_REQUEST])


def _started_ms(client: MlflowClient, run_id: str) -> int:
    return int(client.get_run(run_id).info.start_time)
