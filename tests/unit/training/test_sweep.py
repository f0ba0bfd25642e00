import json
from pathlib import Path

import pytest

from skinlib.errors import ConfigError
from skinlib.training.sweep import branches, folds_from, trials_from
from skinlib.training.trial import Trial

CONFIGS = Path(__file__).parents[3] / "configs" / "sweeps"


def listed(*trials, **base):
    return {"strategy": "list", "base": base, "trials": list(trials)}


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.json")), ids=lambda path: path.stem)
def test_every_config_that_ships_is_valid(path):
    assert trials_from(json.loads(path.read_text()), seed=0)


def test_the_gpu_search_is_a_full_one():
    trials = trials_from(json.loads((CONFIGS / "gpu.json").read_text()), seed=0)
    assert len(trials) >= 12
    assert {trial.image_size for trial in trials} == {224}
    assert {trial.architecture for trial in trials} == {"resnet18", "resnet34", "resnet50"}


def test_a_trial_stands_on_the_base():
    (trial,) = trials_from(listed({"epochs": 3}, epochs=9, batch_size=8), seed=0)
    assert (trial.epochs, trial.batch_size) == (3, 8)


def test_a_grid_has_every_combination():
    config = {"strategy": "grid", "space": {"epochs": [1, 2], "learning_rate": [0.1, 0.01, 0.001]}}
    pairs = {(trial.epochs, trial.learning_rate) for trial in trials_from(config, seed=0)}
    assert pairs == {(e, r) for e in (1, 2) for r in (0.1, 0.01, 0.001)}


RANDOM = {
    "strategy": "random",
    "samples": 20,
    "space": {"learning_rate": {"log_uniform": [1e-4, 1e-2]}, "label_smoothing": {"uniform": [0, 0.2]}},
}


def test_a_random_search_stays_within_its_bounds():
    trials = trials_from(RANDOM, seed=3)
    assert len(trials) == 20
    assert all(1e-4 <= trial.learning_rate <= 1e-2 and 0 <= trial.label_smoothing <= 0.2 for trial in trials)


def test_a_random_search_repeats_with_its_seed():
    assert trials_from(RANDOM, seed=3) == trials_from(RANDOM, seed=3)


def test_a_random_search_changes_with_its_seed():
    assert trials_from(RANDOM, seed=3) != trials_from(RANDOM, seed=4)


def test_the_key_of_a_trial_does_not_change_between_processes():
    # Checkpoints and MLflow runs are found by it: a new value here orphans those of runs in progress.
    assert Trial().key == "resnet18-128px-" + Trial().key[-8:]
    assert Trial().key == Trial.model_validate(json.loads(Trial().model_dump_json())).key


def test_the_key_tells_every_hyperparameter_apart():
    others = [Trial(epochs=21), Trial(weight_decay=0.06), Trial(weights="imagenet"), Trial(patience=3)]
    assert len({trial.key for trial in [Trial(), *others]}) == 5


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, ["strategy must be list or grid or random"]),
        ({"strategy": "bayes"}, ["strategy must be list or grid or random"]),
        (listed(), ["trials", "at least 1"]),
        (listed({"learnin_rate": 0.1}), ["trial 1", "learnin_rate is unknown", "did you mean learning_rate"]),
        (listed({}, {"epochs": "12"}), ["trial 2", "epochs", "integer", "'12'"]),
        (listed({"epochs": 0}), ["epochs", "greater than or equal to 1", "not 0"]),
        (listed({"image_size": 100}), ["image_size", "multiple of 32", "not 100"]),
        (listed({"architecture": "vgg"}), ["architecture", "resnet18", "'vgg'"]),
        (listed({"learning_rate": float("nan")}), ["learning_rate", "finite"]),
        (
            listed({"architecture": "resnet10", "weights": "imagenet"}),
            ["resnet10 has no ImageNet weights; use another"],
        ),
        (listed({"epochs": 3}, {"epochs": 3}), ["trial 2 repeats trial 1"]),
        ({**listed({}), "trails": []}, ["trails is unknown", "did you mean trials"]),
        ({**listed({}), "fold": 5}, ["fold is unknown", "did you mean folds"]),
        ({**listed({}), "folds": 0}, ["folds", "greater than or equal to 1", "not 0"]),
        ({**listed({}), "folds": 21}, ["folds", "less than or equal to 20", "not 21"]),
        ({**listed({}), "folds": "5"}, ["folds", "integer", "'5'"]),
        ({"strategy": "grid", "space": {"epochs": []}}, ["space.epochs", "at least 1"]),
        ({"strategy": "grid", "space": {"epochs": 3}}, ["space.epochs", "list"]),
        ({"strategy": "random", "samples": 3, "space": {"epochs": [1, 2]}}, ["3 samples", "2 combinations"]),
        (
            {"strategy": "random", "samples": 3, "space": {"learning_rate": {"uniform": [0.2, 0.1]}}},
            ["first bound must be below"],
        ),
        (
            {"strategy": "random", "samples": 3, "space": {"learning_rate": {"log_uniform": [0, 0.1]}}},
            ["learning_rate", "greater than 0"],
        ),
    ],
)
def test_a_wrong_config_is_one_sentence_that_names_the_key(config, words):
    with pytest.raises(ConfigError) as raised:
        trials_from(config, seed=0)
    message = str(raised.value)
    assert all(word in message for word in words), message
    assert "\n" not in message


@pytest.mark.parametrize(
    "config",
    [
        {"strategy": "list", "trials": [{}] * 1001},
        {"strategy": "grid", "space": {name: [1] * 100 for name in "abcdefgh"}},
    ],
    ids=["list", "grid"],
)
def test_more_trials_than_anyone_trains_are_refused_at_once(config):
    with pytest.raises(ConfigError, match=r"The sweep config has [\d,]+ trials, more than 1,000; give fewer values"):
        trials_from(config, seed=0)


@pytest.mark.parametrize(
    "config",
    [
        {"strategy": "list", "trials": [{}] * 201},
        {"strategy": "grid", "space": {"epochs": list(range(1, 202))}},
        {"strategy": "random", "samples": 201, "space": {"epochs": list(range(1, 999))}},
    ],
    ids=["list", "grid", "random"],
)
def test_the_limit_counts_every_fold(config):
    with pytest.raises(ConfigError, match=r"has 201 trials of 5 folds, more than 200; give fewer values"):
        trials_from({**config, "folds": 5}, seed=0)


def test_a_config_without_folds_has_one():
    assert folds_from(listed({})) == 1
    assert folds_from({**listed({}), "folds": 5}) == 5


def test_the_branches_of_one_fold_are_the_trials():
    assert branches(["a", "b"], 1) == {"a": {"trial": "a", "fold": 1}, "b": {"trial": "b", "fold": 1}}


def test_each_trial_has_a_branch_for_each_fold():
    assert branches(["a", "b"], 2) == {
        "a.fold-1": {"trial": "a", "fold": 1},
        "a.fold-2": {"trial": "a", "fold": 2},
        "b.fold-1": {"trial": "b", "fold": 1},
        "b.fold-2": {"trial": "b", "fold": 2},
    }
