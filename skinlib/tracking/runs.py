"""MLflow's runs: one parent run per flow run, one child run per trial and fold.

A retried or resumed task continues an unfinished run, found by the flow run's key or the training's key. A finished run
is never written to again: other figures, as after `resume train` of a run that had succeeded, get a run of their own.
All calls use `MlflowClient`: there is no active run and no global tracking URI.
"""

import math
import time
from collections.abc import Mapping, Sequence
from typing import TypedDict

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag

from skinlib.errors import TrackingError, without_credentials
from skinlib.tracking.connection import check, connect, files_address, storing, unless_exists
from skinlib.training.result import Epoch

MODEL_CARD = "model_card.md"  # an artifact of the run that holds a result
_PAUSE_SECONDS = 60.0
_METRICS_PER_REQUEST = 1000  # MLflow's limit


class RecordedRun(TypedDict):
    """The artifact `tracking`: the parent run, with a URI without a password."""

    uri: str
    run_id: str


def start_run(
    experiment: str,
    run_key: str,
    *,
    name: str,
    params: Mapping[str, object],
    tags: Mapping[str, object],
    git_commit: str | None = None,
) -> RecordedRun:
    """Open the parent run of a flow run, or continue it if it exists.

    Args:
        experiment: its name; it is created if missing.
        run_key: identifies the flow run, over retries and resumes.
        name: the run's name in MLflow.
        params: settings by name.
        tags: stored as `skinlib.NAME`, without None and without credentials in URLs.
        git_commit: of the code; None if it is not known.

    Raises:
        TrackingError: MLflow does not answer or refuses, or no file can be stored; raised within seconds.
    """
    uri = check()
    with connect() as client:
        experiment_id = _experiment_id(client, experiment)
        if found := _search(client, experiment_id, {"skinlib.run": run_key}):
            run_id = _reopen(client, found[0]).info.run_id
        else:
            run_id = client.create_run(experiment_id, tags={"skinlib.run": run_key}, run_name=name).info.run_id
        client.log_batch(run_id, params=_params(params), tags=to_tags(tags, git_commit))
    try:
        with connect(brief=True) as client, storing(client.get_run(run_id).info.artifact_uri):
            client.log_text(run_id, "The run has not registered a model.\n", MODEL_CARD)
    except TrackingError:
        with connect() as client:
            client.delete_run(run_id)
        raise
    return {"uri": uri, "run_id": run_id}


class TrialLog:
    """A trial's run: sent as far as MLflow answers while the trial trains, complete when it ends.

    If an earlier task of the same training has not finished its run, this one continues it. The parent is set to
    running too if it has failed, since resuming a failed flow run does not execute `start` again.
    """

    def __init__(
        self,
        parent: RecordedRun,
        trial_key: str,
        *,
        name: str | None = None,
        training_key: str,
        params: Mapping[str, object],
        tags: Mapping[str, object],
        git_commit: str | None = None,
    ) -> None:
        """Open the run if MLflow answers.

        Args:
            parent: from `start_run`.
            trial_key: a tag of the run, and its name if it is not given.
            name: of the run, such as that of a trial's fold.
            training_key: of the trial's checkpoint, so that the run is continued where the training is.
        """
        self._parent, self._trial_key, self._training_key = parent, trial_key, training_key
        self._name = name or trial_key
        self._params, self._tags = _params(params), to_tags(tags, git_commit)
        self._run_id: str | None = None
        self._finished: list[Run] = []
        self._sent, self._retry_at, self._told = 0, 0.0, False
        self.send([])

    def send(self, history: Sequence[Epoch]) -> None:
        """Send the part of the history that has not been sent; never raises.

        If MLflow fails, this prints so once and tries again after a minute, so that a server that hangs costs little
        of the training's time.
        """
        if time.monotonic() < self._retry_at:
            return
        try:
            with connect(self._parent["uri"], brief=True) as client:
                if run_id := self._opened(client, is_new=bool(history)):
                    _log_points(client, run_id, _curve(history[self._sent :]))
            self._sent = len(history)
        except Exception as error:  # Whatever it is, the training matters more than its curve.
            self._retry_at = time.monotonic() + _PAUSE_SECONDS
            if not self._told:
                print(f"Training continues, and its curve is sent again when it ends: {error}", flush=True)
            self._told = True

    def finish(
        self,
        history: Sequence[Epoch],
        metrics: Mapping[str, object],
        status: str = "finished",
        reason: str | None = None,
    ) -> None:
        """Complete the run: the whole history once more, the final metrics, the status.

        It can be repeated: MLflow drops points that it already has, and a finished run of the same epochs stays as it
        is. It waits for a server as long as MLflow's settings say, by default for minutes.

        Args:
            history: of all epochs.
            metrics: final numbers by names that the history does not have; None and NaN are left out.
            status: anything but `finished` marks the run as failed.
            reason: why the trial ended.

        Raises:
            TrackingError: MLflow does not answer or refuses.
        """
        with connect(self._parent["uri"]) as client:
            run_id = self._opened(client, is_new=False)
            if run_id is None:
                if any(run.info.end_time == _last_ms(history, run) for run in self._finished):
                    return
                run_id = self._opened(client, is_new=True)
                assert run_id is not None
            # A time that never changes: the same value logged again is then the same point.
            time_ms = _last_ms(history, client.get_run(run_id))
            _log_points(client, run_id, _curve(history) + _final(metrics, time_ms))
            client.log_batch(run_id, tags=to_tags({"status": status, "reason": reason}))
            client.set_terminated(run_id, "FINISHED" if status == "finished" else "FAILED", time_ms)

    def _opened(self, client: MlflowClient, *, is_new: bool) -> str | None:
        """Open the run; None if there are finished ones only, which this training may repeat unless it is new."""
        if self._run_id is None:
            parent_id = self._parent["run_id"]
            experiment_id = _reopen(client, client.get_run(parent_id)).info.experiment_id
            identity = {"mlflow.parentRunId": parent_id, "skinlib.training": self._training_key}
            unfinished: list[Run] = []
            self._finished = []
            for run in _search(client, experiment_id, identity):
                # `mark_failed` ends runs without a status.
                is_finished = run.info.status != "RUNNING" and "skinlib.status" in run.data.tags
                (self._finished if is_finished else unfinished).append(run)
            if unfinished:
                run_id = _reopen(client, unfinished[0]).info.run_id
            elif self._finished and not is_new:
                return None
            else:
                tags = identity | {"skinlib.trial": self._trial_key}
                run_id = client.create_run(experiment_id, tags=tags, run_name=self._name).info.run_id
            client.log_batch(run_id, params=self._params, tags=self._tags)
            self._run_id = run_id
        return self._run_id


def open_result(client: MlflowClient, experiment: str, run_key: str, result_key: str, name: str) -> Run:
    """Return the run that holds a result: the flow run's own, or another if that one holds another result.

    Args:
        client: from `connect`.
        experiment: its name; it is created if missing.
        run_key: as in `start_run`.
        result_key: identifies the result.
        name: of a new run, which is nested in the flow run's own.
    """
    experiment_id = _experiment_id(client, experiment)
    found = _search(client, experiment_id, {"skinlib.run": run_key})
    # A run keeps the address of its artifacts when that of the experiment has been corrected.
    address = client.get_experiment(experiment_id).artifact_location
    usable = [run for run in found if run.info.artifact_uri.startswith(address)]
    same = [run for run in usable if run.data.tags.get("skinlib.result") == result_key]
    free = [run for run in usable if "skinlib.result" not in run.data.tags and run.info.status != "FINISHED"]
    if same or free:
        chosen = (same or free)[-1]
        client.set_tag(chosen.info.run_id, "skinlib.result", result_key)
        return chosen
    tags = {"skinlib.run": run_key, "skinlib.result": result_key, "skinlib.metaflow_run": name}
    if not found:
        return client.create_run(experiment_id, tags=tags, run_name=name)
    first = found[-1]
    created = client.create_run(experiment_id, tags=tags | {"mlflow.parentRunId": first.info.run_id}, run_name=name)
    client.log_batch(created.info.run_id, params=_params(first.data.params))
    return created


def log_metrics(client: MlflowClient, run: Run, metrics: Mapping[str, object]) -> None:
    """Log final numbers to a run without None and NaN; logging the same values again changes nothing."""
    _log_points(client, run.info.run_id, _final(metrics, run.info.start_time))


def finish_run(run: RecordedRun) -> None:
    """Mark a parent run as finished."""
    with connect(run["uri"]) as client:
        if client.get_run(run["run_id"]).info.status != "FINISHED":
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


def to_tags(values: Mapping[str, object], git_commit: str | None = None) -> list[RunTag]:
    """Prefix the names of tags with `skinlib.`, and leave out None and credentials."""
    named = {f"skinlib.{key}": value for key, value in values.items()}
    named["mlflow.source.git.commit"] = git_commit
    return [RunTag(key, without_credentials(str(value))) for key, value in named.items() if value is not None]


def _experiment_id(client: MlflowClient, name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        with unless_exists():
            return client.create_experiment(name, files_address(client.tracking_uri))
        return _experiment_id(client, name)  # another process has just created it
    if found.lifecycle_stage == "deleted":
        raise TrackingError(
            f"The MLflow experiment {name!r} is deleted; restore it with `mlflow experiments restore "
            f"--experiment-id {found.experiment_id}`, or use another name."
        )
    return str(found.experiment_id)


def _search(client: MlflowClient, experiment_id: str, identity: Mapping[str, str]) -> list[Run]:
    """Return the runs with these tags, the latest first."""
    same = " and ".join(f"tags.`{key}` = '{value}'" for key, value in identity.items())
    return list(client.search_runs([experiment_id], same))


def _reopen(client: MlflowClient, run: Run) -> Run:
    if run.info.status not in ("RUNNING", "FINISHED"):
        client.update_run(run.info.run_id, status="RUNNING")
        for tag in {"skinlib.status", "skinlib.reason"} & run.data.tags.keys():
            client.delete_tag(run.info.run_id, tag)
    return run


def _params(values: Mapping[str, object]) -> list[Param]:
    return [Param(key, without_credentials(str(value))) for key, value in values.items()]


def _curve(history: Sequence[Epoch]) -> list[Metric]:
    points: list[Metric] = []
    for epoch in history:
        values = {key: value for key, value in epoch.items() if key not in ("epoch", "time_ms")}
        points += _points(values, epoch["time_ms"], step=epoch["epoch"])
    return points


def _final(values: Mapping[str, object], time_ms: int) -> list[Metric]:
    return [point for point in _points(values, time_ms, step=0) if not math.isnan(point.value)]


def _points(values: Mapping[str, object], time_ms: int, step: int) -> list[Metric]:
    """Turn the numbers among some values into points; the values of a TypedDict are objects to a type checker."""
    return [Metric(key, float(value), time_ms, step) for key, value in values.items() if isinstance(value, int | float)]


def _log_points(client: MlflowClient, run_id: str, points: list[Metric]) -> None:
    for start in range(0, len(points), _METRICS_PER_REQUEST):
        client.log_batch(run_id, metrics=points[start : start + _METRICS_PER_REQUEST])


def _last_ms(history: Sequence[Epoch], run: Run) -> int:
    return history[-1]["time_ms"] if history else int(run.info.start_time)
