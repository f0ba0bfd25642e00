"""Promotion: which version becomes the champion, and what it leaves behind."""

import dataclasses
import getpass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

from skinlib.cli import commands
from skinlib.data.manifest import Manifest
from skinlib.data.packing import PackedDataset
from skinlib.errors import TrackingError
from skinlib.serving.graph import Graph
from skinlib.tracking import promotion, registry, runs
from skinlib.tracking.promotion import Contest, Policy, Verdict
from skinlib.tracking.runs import RecordedRun
from tests.unit import results

N = 80
TEST = np.arange(N)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RecordedRun:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return runs.start_run("promotion", "key", name="run", params={}, tags={})


@pytest.fixture(scope="module")
def contest(graph: bytes) -> Contest:
    """Test images whose labels the graph, which is the champion, gets wrong in one of three cases."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (N, 224, 224, 3), np.uint8)
    champion = Graph(graph).score(images).probability
    labels = np.where(rng.random(N) < 0.33, champion < np.median(champion), champion >= np.median(champion))
    manifest = Manifest(
        tuple(f"test/{i}.png" for i in range(N)),
        (1,) * N,
        tuple(labels.astype(int).tolist()),
        ("test",) * N,
        tuple(f"{i:016x}{0:048x}" for i in range(N)),
    )
    shortcut: Any = {"difference": {"value": 0.1, "interval": [0.05, 0.15]}}
    return Contest(PackedDataset(images, manifest), np.arange(N), TEST, champion, shortcut)


def better(contest: Contest) -> Contest:
    return with_probabilities(contest, 0.02 + 0.96 * contest.packed.labels)


def with_probabilities(contest: Contest, probabilities: np.ndarray) -> Contest:
    jitter = np.random.default_rng(1).normal(0, 0.05, N)
    return dataclasses.replace(contest, probabilities=np.clip(probabilities + jitter, 0.01, 0.99))


def register(
    run: RecordedRun, graph: bytes, contest: Contest, result: int, policy: Policy = "auto", seen: Any = ()
) -> tuple[str, Verdict]:
    """Register a version with a result of its own, and decide on it."""
    version = registry.register(
        run,
        "promotion",
        "key",
        "m",
        flow_run=f"Flow/{result}",
        graph=graph,
        weights={"fc": np.full(1, result, np.float32)},
        settings=results.CLASSIFIER,
        data_hash="0" * 64,
        metrics={"auroc": 0.9},
        figures={"auroc_low": 0.85, "auroc_high": 0.95},
        histograms=results.HISTOGRAMS,
        model_card="# Model card",
        synthetic=False,
        seen=np.array(seen, np.uint64),
    )
    return version["version"], promotion.decide(run, version, policy, contest, "ada")


def mlflow_client() -> MlflowClient:
    return MlflowClient(f"sqlite:///{Path('mlflow.db').absolute()}")  # MLflow keeps connections by their names


def aliases() -> dict[str, str]:
    found = mlflow_client().get_registered_model("m").aliases
    return {alias: str(number) for alias, number in found.items()}


def test_the_first_version_becomes_champion_if_it_beats_the_colour_baseline(
    run: RecordedRun, graph: bytes, contest: Contest
) -> None:
    weak: Any = {"difference": {"value": 0.1, "interval": [-0.05, 0.25]}}
    number, verdict = register(run, graph, dataclasses.replace(contest, above_shortcut=weak), 1)
    assert (verdict["alias"], aliases()) == ("challenger", {"challenger": number})
    assert "not above the colour baseline by more than noise: AUROC +0.100 (-0.050 to +0.250)" in verdict["reason"]
    number, verdict = register(run, graph, contest, 2)
    assert (verdict["alias"], verdict["champion"]) == ("champion", None)
    assert aliases()["champion"] == number


def test_a_worse_version_leaves_the_champion_in_place_and_says_why(
    run: RecordedRun, graph: bytes, contest: Contest
) -> None:
    first, _ = register(run, graph, contest, 1)
    number, verdict = register(run, graph, with_probabilities(contest, 0.5 - 0.2 * contest.packed.labels), 2)
    assert aliases() == {"champion": first, "challenger": number}
    assert verdict["reason"].startswith(f"It does not beat models:/m/{first} by more than noise: AUROC -")
    assert f"on {N} test images" in verdict["reason"]
    found = mlflow_client().get_model_version("m", number)
    assert found.tags["skinlib.reason"] == verdict["reason"]
    assert found.description.startswith(verdict["reason"])


def test_a_better_version_replaces_the_champion_and_a_rollback_returns_it(
    run: RecordedRun, graph: bytes, contest: Contest
) -> None:
    first, _ = register(run, graph, contest, 1)
    second, verdict = register(run, graph, better(contest), 2)
    assert (verdict["alias"], verdict["champion"]) == ("champion", first)
    assert aliases() == {"champion": second}
    tags = mlflow_client().get_model_version("m", second).tags
    assert (tags["skinlib.promoted_by"], tags["skinlib.promoted_from"]) == ("ada", first)
    assert promotion.rollback("m", "eve") == (second, first)
    assert aliases() == {"champion": first}
    tags = mlflow_client().get_model_version("m", first).tags
    assert (tags["skinlib.rolled_back_by"], tags["skinlib.rolled_back_from"]) == ("eve", second)
    assert tags["skinlib.rolled_back_at"] >= "2026"
    with pytest.raises(TrackingError, match=r"^m has no champion before the standing one"):
        promotion.rollback("m", "eve")


def test_a_better_order_with_worse_calibration_is_not_promoted(
    run: RecordedRun, graph: bytes, contest: Contest
) -> None:
    first, _ = register(run, graph, contest, 1)
    _, verdict = register(run, graph, with_probabilities(contest, 0.3 * contest.packed.labels), 2)
    assert verdict["alias"] == "challenger"
    assert "but is calibrated worse: ECE +" in verdict["reason"]
    assert aliases()["champion"] == first


def test_images_that_the_champion_knows_and_their_near_duplicates_do_not_count(
    run: RecordedRun, graph: bytes, contest: Contest
) -> None:
    register(run, graph, contest, 1, seen=range(5))
    groups = np.where(np.arange(N) < 10, np.arange(N) % 5, np.arange(N))
    _, verdict = register(run, graph, dataclasses.replace(better(contest), groups=groups), 2)
    assert "on 70 test images, without the 10 that the champion was trained on" in verdict["reason"]


def test_too_few_unknown_images_give_no_verdict(run: RecordedRun, graph: bytes, contest: Contest) -> None:
    register(run, graph, contest, 1, seen=range(50))
    _, verdict = register(run, graph, better(contest), 2)
    assert verdict["alias"] == "challenger"
    assert verdict["reason"].startswith("Too few images remain to compare it with models:/m/1: 30 test images")


@pytest.mark.parametrize(("policy", "alias"), [("never", "challenger"), ("always", "champion")])
def test_the_other_policies_do_not_compare(
    policy: Policy, alias: str, run: RecordedRun, graph: bytes, contest: Contest
) -> None:
    register(run, graph, contest, 1)
    number, verdict = register(run, graph, with_probabilities(contest, np.full(N, 0.5)), 2, policy)
    assert verdict["alias"] == alias
    assert aliases()[alias] == number


def test_a_resumed_old_run_does_not_move_the_alias_back(run: RecordedRun, graph: bytes, contest: Contest) -> None:
    _, before = register(run, graph, contest, 1)
    second, _ = register(run, graph, better(contest), 2)
    assert register(run, graph, contest, 1) == ("1", before)
    assert aliases() == {"champion": second}


@pytest.mark.parametrize("step", ["set_model_version_tag", "update_model_version", "set_registered_model_alias"])
def test_a_killed_decision_is_taken_again(
    step: str, run: RecordedRun, graph: bytes, contest: Contest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*arguments: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as attempt:
        attempt.setattr(MlflowClient, step, killed)
        with pytest.raises(KeyboardInterrupt):
            register(run, graph, contest, 1)
    number, verdict = register(run, graph, contest, 1)
    assert verdict["alias"] == "champion"
    assert aliases() == {"champion": number}
    assert len(mlflow_client().search_model_versions("name = 'm'")) == 1


def test_a_version_that_was_promoted_by_hand_before_its_verdict_keeps_the_alias(
    run: RecordedRun, graph: bytes, contest: Contest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as attempt:
        attempt.setattr(promotion, "_judge", killed)
        with pytest.raises(KeyboardInterrupt):
            register(run, graph, contest, 1)
    promotion.promote("m", "1", "eve")
    expected: Verdict = {"alias": "champion", "champion": None, "reason": "Promoted by hand by eve."}
    assert register(run, graph, contest, 1, "never") == ("1", expected)
    assert aliases() == {"champion": "1"}


def test_a_champion_that_changes_during_the_comparison_is_compared_too(
    run: RecordedRun, graph: bytes, contest: Contest, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(run, graph, contest, 1)
    register(run, graph, with_probabilities(contest, np.full(N, 0.5)), 2, "never")
    load, loaded = registry.load, []

    def other_run_finishes(model: str) -> registry.Served:
        loaded.append(model)
        if len(loaded) == 1:
            promotion.promote("m", "2", "eve")
        return load(model)

    monkeypatch.setattr(registry, "load", other_run_finishes)
    number, verdict = register(run, graph, better(contest), 3)
    assert loaded == ["models:/m/1", "models:/m/2"]
    assert verdict["champion"] == "2"
    assert aliases()["champion"] == number


def test_the_sample_and_deployed_branches_have_models_of_their_own() -> None:
    assert promotion.model_name("m", False, "user.ada") == "m"
    assert promotion.model_name("m", False, "prod") == "m"
    assert promotion.model_name("m", False, "test.staging") == "m-staging"
    assert promotion.model_name("m", False, "prod.v2") == "m-v2"
    assert promotion.model_name("m", True, "user.ada") == "m-sample"


def test_the_commands_list_promote_and_roll_back(run: RecordedRun, graph: bytes, contest: Contest) -> None:
    register(run, graph, contest, 1)
    register(run, graph, contest, 2)

    def skinlib(*arguments: str) -> str:
        return CliRunner().invoke(commands, arguments, catch_exceptions=False).output

    heads, second, first = skinlib("models", "m").splitlines()
    assert heads.split() == ["model", "version", "alias", "created", "(UTC)", "test", "AUROC", "data", "run", "why"]
    assert first.split()[:3] == ["m", "1", "champion"]
    assert "0.9 (0.85 to 0.95)  000000000000  Flow/1  There was no champion" in first
    assert second.split()[:3] == ["m", "2", "challenger"]
    assert skinlib("promote", "m", "2") == "m version 2 is the champion now, instead of version 1.\n"
    assert f"Promoted by hand by {getpass.getuser()}." in skinlib("models")
    assert skinlib("rollback", "m") == "m version 1 is the champion again, instead of version 2.\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["models", "no"], " has no model no; there are m."),
        (["promote", "m", "9"], "There is no version 9 of m; see them with: skinlib models"),
        (["promote", "no", "1"], "There is no version 1 of no; see them with: skinlib models"),
        (["promote", "m", "1"], "Version 1 of m is the champion already."),
        (["rollback", "no"], "no has no champion before the standing one"),
    ],
)
def test_a_mistake_is_one_sentence(
    arguments: list[str], sentence: str, run: RecordedRun, graph: bytes, contest: Contest
) -> None:
    register(run, graph, contest, 1)
    with pytest.raises(TrackingError) as error:
        CliRunner().invoke(commands, arguments, catch_exceptions=False)
    assert sentence in str(error.value)
