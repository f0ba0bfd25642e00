"""A run with cross-validation: a branch for each trial and fold, and one model of all folds."""

import json

import mlflow
import numpy as np
import pytest

from tests.flow.conftest import Place, sweep
from tests.flow.test_run import DIVERGING, Done


@pytest.fixture(scope="module")
def done(tmp_path_factory, tiny_images):
    place = Place(tmp_path_factory.mktemp("folds"))
    config = {**sweep({}, DIVERGING | {"epochs": 1}), "folds": 2}
    code, output = place.flow("--promote", "always", config=config, data=tiny_images)
    assert code == 0, output
    return Done(place, code, output)


def test_each_training_image_is_held_out_once_with_its_group(done):
    folds, split, groups = done.read(
        "[[{n: i.tolist() for n, i in fold.items()} for fold in run.data.folds], "
        "{n: i.tolist() for n, i in run.data.split.items()}, run.data.groups.tolist()]"
    )
    assert split["train"] == split["validation"] == sorted(folds[0]["validation"] + folds[1]["validation"])
    assert (len(split["train"]), len(split["test"])) == (96, 32)
    for fold in folds:
        assert not {groups[i] for i in fold["train"]} & {groups[i] for i in fold["validation"]}


def test_the_leaderboard_shows_the_spread_over_the_folds_and_the_failed_trial(done):
    first, second = done.read("run.data.leaderboard.to_dict('records')")
    aurocs = done.read(
        "[t.data.result['validation_auroc'] for t in run['train'] if t.data.result['status'] == 'finished']"
    )
    assert (first["status"], first["folds"], len(aurocs)) == ("finished", 2, 2)
    assert (first["fold_lowest"], first["fold_highest"]) == (min(aurocs), max(aurocs))
    assert first["fold_mean"] == pytest.approx(np.mean(aurocs))
    assert second["status"] == "diverged"
    assert second["reason"].startswith("fold 1: ")


def test_selection_calibration_and_threshold_use_the_out_of_fold_predictions(done):
    best, served, labels, by_fold, folds, baseline = done.read(
        "[run.data.best_result['validation_probabilities'].tolist(), run.data.classifier, "
        "run.data.labels[run.data.split['train']].tolist(), {t.data.fold: t.data.result['validation_probabilities']"
        ".tolist() for t in run['train'] if t.data.result['status'] == 'finished'}, "
        "[fold['validation'].tolist() for fold in run.data.folds], "
        "run.data.baselines['validation']['colours'].tolist()]"
    )
    of_image = {i: p for fold, found in by_fold.items() for i, p in zip(folds[int(fold) - 1], found, strict=True)}
    assert best == [of_image[i] for i in sorted(of_image)]
    assert len(baseline) == len(best) == 96
    malignant = np.array(best)[np.array(labels) == 1]
    calibrated = 1 / (1 + np.exp(-np.log(malignant / (1 - malignant)) / served["temperature"]))
    assert np.mean(calibrated >= served["threshold"] - 1e-12) >= 0.95
    assert np.mean(calibrated > served["threshold"] + 1e-12) < 0.95


def test_the_weights_are_those_of_every_fold_of_the_winner(done):
    names, same = done.read(
        "[sorted({name.split('.')[0] for name in run.data.weights}), all((run.data.weights[f'fold-{t.data.fold}.{n}'] "
        "== w).all() for t in run['train'] for n, w in t.data.weights.items())]"
    )
    assert names == ["fold-1", "fold-2"]
    assert same


def test_mlflow_has_a_run_for_each_trial_and_fold(done):
    client = mlflow.MlflowClient(f"sqlite:///{done.place.folder}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("skin-lesion").experiment_id])
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    names = {run.data.tags["mlflow.runName"] for run in children}
    expected = {f"{run.data.tags['skinlib.trial']}.fold-{fold}" for run in children for fold in (1, 2)}
    assert len(names) == 4
    assert names == expected
    assert {run.data.params["validation_images"] for run in children} == {"48"}


def test_the_registered_model_is_the_mean_of_the_folds(done, tiny_images):
    code, output = done.place.call_skinlib("evaluate", "models:/skin-lesion@champion", str(tiny_images), "--json")
    assert code == 0, output
    assert json.loads(output)["auroc"] == pytest.approx(done.read("run.data.test_metrics['auroc']"), rel=1e-9)
    (weights,) = done.place.folder.glob("mlruns/**/weights.npz")
    assert {name.split(".")[0] for name in np.load(weights)} == {"fold-1", "fold-2"}


def test_the_output_and_the_model_card_say_that_the_model_is_a_mean(done):
    assert "the mean of 2 networks, each trained on 1 of 2 folds" in done.output
    assert "The mean of 2 networks, each trained on 1 of 2 folds" in done.read("run.data.model_card")
