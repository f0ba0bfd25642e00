"""What a user finds after one run: artifacts, cards, MLflow's runs, the registered model."""

import base64
import json
import re
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest

from skinlib.data import sample
from skinlib.evaluation import stress
from skinlib.tracking import registry
from tests.flow.conftest import TINY, Place, sweep

DIVERGING = {"optimiser": "sgd", "learning_rate": 10.0, "weight_decay": 1.0, "momentum": 0.99}
METRICS = {"n", "n_malignant", "threshold", "auroc", "accuracy", "sensitivity", "specificity"}


class Done:
    """A finished run and what it printed."""

    def __init__(self, place: Place, code: int, output: str) -> None:
        self.place, self.code, self.output = place, code, output

    def read(self, expression: str) -> object:
        """Evaluate an expression over `run` (of the Client) where neither skinlib nor torch can be imported."""
        program = f"""
import json, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("skinlib", "torch", "torchvision", "mlflow"):
            raise ImportError(name + " is not here")
sys.meta_path.insert(0, Absent())
from metaflow import Flow
run = Flow("SkinLesionFlow").latest_successful_run
print(json.dumps({expression}))
"""
        code, output = self.place.call("-c", program)
        assert code == 0, output
        return json.loads(output.splitlines()[-1])


@pytest.fixture(scope="module")
def done(tmp_path_factory, tiny_images):
    place = Place(tmp_path_factory.mktemp("run"))
    trials = sweep({}, {"epochs": 3}, DIVERGING)
    options = "--promote", "always", "--elsewhere", f"{tiny_images},{tiny_images}/test"
    code, output = place.flow(*options, config=trials, data=tiny_images)
    assert code == 0, output
    return Done(place, code, output)


def test_the_run_ends_with_what_came_out_and_what_to_do_next(done):
    for words in (
        "Best trial: resnet10-32px-",
        "Test set: 32 images, ",
        "skin-lesion version 1",
        "make cards",
    ):
        assert words in done.output


def test_the_leaderboard_has_every_trial_and_the_winner_first(done):
    first, second, third = done.read("run.data.leaderboard.to_dict('records')")
    assert [first["status"], second["status"], third["status"]] == ["finished", "finished", "diverged"]
    assert first["behind_best"] <= first["standard_error"]
    best = max(first["validation_auroc"], second["validation_auroc"])
    for row in (first, second):
        assert row["behind_best"] == pytest.approx(best - row["validation_auroc"])


def test_every_trial_is_compared_with_the_colour_baseline(done):
    rows = done.read("run.data.leaderboard.to_dict('records')")
    for row in rows[:2]:
        assert row["above_colours"] == pytest.approx(row["validation_auroc"] - row["colours_auroc"])


def test_every_trial_is_compared_with_the_file_traces_alone(done):
    rows = done.read("run.data.leaderboard.to_dict('records')")
    for row in rows[:2]:
        assert row["above_file_traces"] == pytest.approx(row["validation_auroc"] - row["file_traces_auroc"])
    parts = done.read("{part: len(of['file traces']) for part, of in run.data.baselines.items()}")
    sizes = done.read("{name: len(index) for name, index in run.data.split.items()}")
    assert parts == {name: sizes[name] for name in ("validation", "test")}


def test_the_audit_names_duplicates_leaks_and_groups(done):
    audit = done.read("run.data.audit")
    assert audit["leaks"] == [["train/benign/1.jpg", "test/benign/1.jpg"]]
    assert ["train/malignant/1.jpg", "train/malignant/2.jpg"] in audit["same_lesions"]
    assert audit["label_conflicts"] == []
    assert audit["n_groups"] == done.read("len(set(run.data.groups.tolist()))") == 126


def test_no_group_is_on_both_sides_of_the_split(done):
    groups, split = done.read("[run.data.groups.tolist(), {n: i.tolist() for n, i in run.data.split.items()}]")
    assert not {groups[i] for i in split["train"]} & {groups[i] for i in split["validation"]}


def test_everything_is_reported_again_without_the_twin(done):
    report = done.read("run.data.test_report")
    assert (report["n_twins"], report["all"]["n"], report["without_twins"]["n"]) == (1, 32, 31)


def test_the_winner_is_evaluated_elsewhere_as_on_the_test_images(done):
    found = done.read("{url: r['all']['auroc']['value'] for url, r in run.data.elsewhere_reports.items()}")
    test = done.read("run.data.test_report['all']['auroc']['value']")
    assert list(found.values()) == [pytest.approx(test)] * 2
    assert all(f"On {url} (32 images) the AUROC is" in done.read("run.data.verdict") for url in found)


def test_the_run_opens_with_the_verdict_and_knows_the_sources(done):
    first = done.read("run.data.verdict").split(". ")[0][:60]
    assert first in done.output
    assert {row["source"] for row in done.read("run.data.test_report['sources']")} == set(sample.CLINICS)
    assert done.read("run.data.manifest['metadata']")["source"]["distinct"] == 2


def test_what_is_served_was_chosen_on_validation_images(done):
    served, probabilities, labels = done.read(
        "[run.data.classifier, run.data.best_result['validation_probabilities'].tolist(), "
        "run.data.labels[run.data.split['validation']].tolist()]"
    )
    malignant = np.array(probabilities)[np.array(labels) == 1]
    calibrated = 1 / (1 + np.exp(-np.log(malignant / (1 - malignant)) / served["temperature"]))
    assert served["sensitivity"] == 0.95
    assert np.mean(calibrated >= served["threshold"] - 1e-12) >= 0.95
    assert np.mean(calibrated > served["threshold"] + 1e-12) < 0.95


def test_the_report_has_intervals_baselines_and_calibration(done):
    scores = done.read("run.data.test_report")["all"]
    assert scores["auroc"]["value"] == pytest.approx(done.read("run.data.test_metrics['auroc']"), abs=1e-12)
    low, high = scores["auroc"]["interval"]
    assert low < high
    assert list(scores["baselines"]) == ["colours", "file traces", "source"]
    assert all(of["difference"]["value"] is not None for of in scores["baselines"].values())
    assert scores["calibration"]["before"]["brier"]["value"] > 0


def test_every_shift_is_in_the_stress_table(done):
    rows = done.read("run.data.stress")
    assert [row["name"] for row in rows] == [stress.UNCHANGED, *stress.SHIFTS]


def test_a_diverged_trial_is_recorded_and_the_sweep_goes_on(done):
    last = done.read("run.data.leaderboard.to_dict('records')[-1]")
    assert last["status"] == "diverged"
    assert "lower learning_rate" in last["reason"]


def test_the_best_trial_is_that_of_the_leaderboard(done):
    best, first = done.read("[run.data.best_trial, run.data.leaderboard['trial'][0]]")
    assert best["key"] == first
    assert best["architecture"] == TINY["architecture"]


def test_the_manifest_says_what_was_trained_on(done):
    manifest = done.read("run.data.manifest")
    assert manifest["n_images"] == 128
    assert sum(manifest["counts"]["test"].values()) == 32
    assert len(manifest["hash"]) == 64


def test_the_split_holds_validation_back_and_touches_no_test_image(done):
    split = done.read("{name: index.tolist() for name, index in run.data.split.items()}")
    train, validation, test = (set(split[name]) for name in ("train", "validation", "test"))
    assert len(train | validation | test) == len(train) + len(validation) + len(test)
    assert len(validation) / (len(train) + len(validation)) == pytest.approx(0.15, abs=0.01)
    assert len(test) == 32


def test_the_weights_are_plain_numpy(done):
    kinds = done.read("sorted({type(value).__module__ for value in run.data.weights.values()})")
    assert kinds == ["numpy"]


def test_no_artifact_knows_a_path_of_this_machine_but_what_the_user_gave(done):
    # `data` is the user's own words; the configs' default path is Metaflow's.
    found = done.read(
        "[name for name in [a.id for a in run['end'].task] if name not in ('data', 'tracking') "
        f"and {str(done.place.folder)!r} in str(run['end'].task[name].data)]"
    )
    assert found == []


def test_the_checkpoints_are_gone(done):
    assert done.place.checkpoints() == []


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ("ingest", ["128 images", "Nothing was rejected", "uplicate", "olour baseline", "file traces"]),
        ("train", ["Training: ", "learning rate", "olour baseline"]),
        ("select", ["Search: 3 trials, 1 failed", "diverged", "one standard error"]),
        ("evaluate", ["Test: resnet10-32px-", "sensitivity", "olour baseline", "cooler", "Grad-CAM", "Model card"]),
    ],
)
def test_every_card_shows_what_it_is_for(done, step, words):
    run_id = done.place.run_ids()[-1]
    task = next(iter((done.place.folder / ".metaflow/SkinLesionFlow" / run_id / step).glob("[0-9]*"))).name
    flow = str(Path(__file__).parents[2] / "flows" / "train.py")
    code, page = done.place.call(flow, "card", "get", f"{run_id}/{step}/{task}")
    assert code == 0, page
    data = "".join(base64.b64decode(blob).decode() for blob in re.findall(r'__MF_DATA__\["[^"]+"\] = "([^"]+)"', page))
    assert all(word in data for word in words), data[:2000]


@pytest.fixture(scope="module")
def client(done):
    return mlflow.MlflowClient(f"sqlite:///{done.place.folder}/mlflow.db")


@pytest.fixture(scope="module")
def mlflow_runs(client):
    experiment = client.get_experiment_by_name("skin-lesion")
    return client.search_runs([experiment.experiment_id])


def test_mlflow_has_one_parent_and_one_child_per_trial(mlflow_runs):
    parents = [run for run in mlflow_runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in mlflow_runs if "mlflow.parentRunId" in run.data.tags]
    assert len(parents) == 1
    assert sorted(run.info.status for run in children) == ["FAILED", "FINISHED", "FINISHED"]
    assert parents[0].info.status == "FINISHED"


def test_mlflow_has_the_curve_of_every_epoch(client, mlflow_runs):
    (three,) = [run for run in mlflow_runs if run.data.params.get("epochs") == "3"]
    points = client.get_metric_history(three.info.run_id, "validation_auroc")
    assert [point.step for point in points] == [1, 2, 3]


def test_mlflow_has_the_baselines_in_every_run(mlflow_runs):
    parent = next(run for run in mlflow_runs if "mlflow.parentRunId" not in run.data.tags)
    finished = [run for run in mlflow_runs if "mlflow.parentRunId" in run.data.tags and run.info.status == "FINISHED"]
    assert {"test_auroc_low", "test_colours_auroc", "test_above_colours_high"} <= parent.data.metrics.keys()
    assert {"test_file_traces_auroc_low", "test_above_file_traces"} <= parent.data.metrics.keys()
    assert all({"colours_auroc", "above_colours_low"} <= run.data.metrics.keys() for run in finished)
    assert all({"file_traces_auroc", "above_file_traces"} <= run.data.metrics.keys() for run in finished)


def test_mlflow_has_the_model_card_whole_and_as_the_version_s_description(done, client, mlflow_runs):
    parent = next(run for run in mlflow_runs if "mlflow.parentRunId" not in run.data.tags)
    card = mlflow.artifacts.load_text(f"{parent.info.artifact_uri}/model_card.md")
    assert card == done.read("run.data.model_card")
    reason = done.read("run.data.promotion['reason']")
    description = client.get_model_version("skin-lesion", "1").description
    assert description == registry.excerpt(f"{reason}\n\n{registry.excerpt(card)}")


def test_mlflow_names_what_a_repetition_needs(mlflow_runs):
    child = next(run for run in mlflow_runs if "mlflow.parentRunId" in run.data.tags)
    assert child.data.params["seed"] == "0"
    assert len(child.data.tags["skinlib.data_hash"]) == 64
    assert child.data.tags["skinlib.metaflow_task"].startswith("SkinLesionFlow/")


def test_the_registered_model_is_promoted_as_asked_for(done, client):
    registered = done.read("run.data.registered_model")
    assert registered == {"name": "skin-lesion", "version": "1", "uri": "models:/skin-lesion/1"}
    reason = "Not compared, since promotion is set to always."
    assert done.read("run.data.promotion") == {"alias": "champion", "champion": None, "reason": reason}
    assert client.get_model_version_by_alias("skin-lesion", "champion").version == 1
    assert "Registered: skin-lesion version 1, alias champion" in done.output
    assert reason in done.output


def test_the_command_and_the_flow_give_the_same_metrics(done, tiny_images):
    code, output = done.place.call_skinlib("evaluate", "models:/skin-lesion@champion", str(tiny_images), "--json")
    assert code == 0, output
    metrics = json.loads(output)
    assert set(metrics) == METRICS | {"report", "distance"}
    scores = {name: metrics[name] for name in METRICS}
    assert scores == pytest.approx(done.read("run.data.test_metrics"), rel=1e-9)
    assert metrics["report"]["all"]["auroc"] == done.read("run.data.test_report")["all"]["auroc"]


def test_the_registered_model_predicts_what_the_flow_scored(done, tiny_images, tmp_path):
    # In a bare directory and a process of its own, as a server would load it.
    program = f"""
import mlflow
import pandas as pd
from pathlib import Path
mlflow.set_tracking_uri("sqlite:///{done.place.folder}/mlflow.db")
model = mlflow.pyfunc.load_model("models:/skin-lesion@champion")
paths = sorted(Path({str(tiny_images)!r}, "test").rglob("*.jpg"), key=str)
print(model.predict(pd.DataFrame({{"image": [path.read_bytes() for path in paths]}}))["probability"].tolist())
"""
    result = subprocess.run(
        [sys.executable, "-I", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    served = json.loads(result.stdout.splitlines()[-1])
    np.testing.assert_allclose(served, done.read("run.data.test_probabilities.tolist()"), atol=1e-6)
