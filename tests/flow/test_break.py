"""What breaks, and what is left when it does."""

import math
import os
import pickle
import signal

import mlflow
import numpy as np

from skinlib.data.packing import open_packed
from skinlib.data.storage import open_store
from skinlib.training.checkpoint import Checkpoint
from skinlib.training.loop import train
from skinlib.training.slots import take_slot
from skinlib.training.trial import Trial
from tests.flow.conftest import TINY, sweep, wait_for

LONG = {"epochs": 30}


def run_data(place, expression):
    """What the Client gives for `run`, the latest one, as numpy or plain Python."""
    program = (
        "import pickle, sys; from metaflow import Flow, namespace; namespace(None); "
        "run = Flow('SkinLesionFlow').latest_run; "
        f"sys.stdout.write(pickle.dumps({expression}).hex())"
    )
    code, output = place.call("-c", program)
    assert code == 0, output
    return pickle.loads(bytes.fromhex(output.splitlines()[-1]))


def mlflow_runs(place, uri=None, experiment="skin-lesion"):
    """Of each trial's run in MLflow the status and the steps of its curve, and of each parent the status."""
    client = mlflow.MlflowClient(uri or f"sqlite:///{place.folder}/mlflow.db")
    experiment = client.get_experiment_by_name(experiment)
    runs = client.search_runs([experiment.experiment_id])
    return {
        run.data.tags["skinlib.trial"]: (
            run.info.status,
            [point.step for point in client.get_metric_history(run.info.run_id, "validation_auroc")],
        )
        for run in runs
        if "mlflow.parentRunId" in run.data.tags
    }, [run.info.status for run in runs if "mlflow.parentRunId" not in run.data.tags]


def uninterrupted(place):
    """The weights that the long trial of the run gives when nothing disturbs it, with as many threads."""
    names = "run.data.split, run.data.seed, run.data.manifest['hash'], len(run.data.branches)"
    split, seed, hash_, branches = run_data(place, f"({names})")
    packed = open_packed(open_store(str(place.folder / ".metaflow")), hash_)
    trial = Trial(**TINY | LONG)
    with take_slot(branches) as slot:
        checkpoint = Checkpoint(open_store(str(place.folder / "again"), create=True), "trial.pt", math.inf)
        result = train(
            trial,
            packed.images,
            packed.labels,
            split["train"],
            split["validation"],
            np.zeros(len(packed.labels), bool),
            seed=seed,
            slot=slot,
            checkpoint=checkpoint,
        )
    return result.weights


def same(first, second):
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


def test_a_killed_flow_is_resumed_and_nothing_finished_is_done_again(place, tiny_images):
    flow = place.start(*place.flow_command(config=sweep({"epochs": 2}, LONG), data=tiny_images))
    # One branch has ended and the other is on its way; which is which depends on how many slots are free.
    while not ("/train/" in (line := flow.stdout.readline()) and "Task finished successfully" in line):
        assert line, "the flow ended first"
    wait_for(lambda: len(place.checkpoints()) == 2, flow)
    os.killpg(flow.pid, signal.SIGKILL)
    flow.wait()
    (finished,) = run_data(place, "[len(task.data.result['history']) for task in run['train'] if task.successful]")
    code, output = place.resume()
    assert code == 0, output
    assert f"Resuming run {place.run_ids()[0]}" in output
    assert f"epoch {finished}/{finished}:" not in output
    assert "from the last checkpoint" in output
    length = LONG["epochs"]
    long = run_data(place, f"next(t.data.weights for t in run['train'] if len(t.data.result['history']) == {length})")
    assert same(long, uninterrupted(place))
    trials, parents = mlflow_runs(place)
    assert parents == ["FINISHED"]
    assert sorted(trials.values()) == [("FINISHED", [1, 2]), ("FINISHED", list(range(1, LONG["epochs"] + 1)))]


def test_a_run_that_still_works_is_not_resumed(place, tiny_images):
    flow = place.start(*place.flow_command(config=sweep({"epochs": 1000}), data=tiny_images))
    wait_for(lambda: place.steps("train"), flow)
    code, output = place.resume()
    os.killpg(flow.pid, signal.SIGKILL)
    flow.communicate()
    assert code == 1
    assert f"Run {place.run_ids()[-1]} is still running (process {flow.pid})" in output


def test_without_a_run_there_is_nothing_to_resume(place):
    code, output = place.resume()
    assert code == 1
    assert "There is no run of SkinLesionFlow here" in output


def test_a_server_that_is_down_at_the_end_costs_nothing_that_was_done(place, tiny_images, mlflow_server):
    place.env |= {"MLFLOW_TRACKING_URI": mlflow_server.uri, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
    names = ["--experiment", "broken", "--model-name", "broken"]
    flow = place.start(*place.flow_command(*names, config=sweep(), data=tiny_images))
    wait_for(lambda: place.steps("evaluate"), flow)
    mlflow_server.stop()
    try:
        output, _ = flow.communicate(timeout=900)
    finally:
        mlflow_server.start()
    assert flow.returncode != 0
    assert "does not answer; start the server" in output

    code, output = place.resume()
    assert code == 0, output
    assert "epoch 1/2" not in output
    trials, parents = mlflow_runs(place, mlflow_server.uri, "broken")
    assert parents == ["FINISHED"]
    assert list(trials.values()) == [("FINISHED", [1, 2])]
    client = mlflow.MlflowClient(mlflow_server.uri)
    assert [version.version for version in client.search_model_versions("name = 'broken'")] == ["1"]

    code, output = place.resume()
    assert (code, "succeeded; there is nothing to resume" in output) == (0, True)


def test_a_failed_run_is_marked_failed_in_mlflow(place, tiny_images):
    diverging = {"optimiser": "sgd", "learning_rate": 10.0, "weight_decay": 1.0, "momentum": 0.99}
    code, output = place.flow(config=sweep(diverging), data=tiny_images)
    assert code != 0
    assert "No trial gave a model (resnet10-32px-" in output
    assert "Traceback" not in output
    assert mlflow_runs(place)[1] == ["FAILED"]
