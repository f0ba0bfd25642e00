"""Servers that are away, slow or locked, and a trial that never ends, while real runs go on."""

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import mlflow
import pytest

from skinlib.tracking import promotion, runs
from tests.flow.conftest import Place, sweep, wait_for
from tests.flow.test_break import mlflow_runs, run_data
from tests.platform.conftest import Platform, platform  # noqa: F401 (fixture)
from tests.servers.faults import faulty
from tests.servers.mlflow import MlflowServer
from tests.unit.conftest import graph, network, weights  # noqa: F401 (fixtures)
from tests.unit.serving.conftest import registered  # noqa: F401 (fixture)
from tests.unit.serving.test_server import container, photograph, post, request  # noqa: F401 (fixture)
from tests.unit.tracking.test_promotion import contest, register  # noqa: F401 (fixture)

LONG = {"epochs": 30}


def test_the_metadata_service_is_away_for_a_minute(
    platform: Platform,  # noqa: F811
    tmp_path: Path,
    tiny_images: Path,
) -> None:
    names = ("METAFLOW_", "MLFLOW_", "AWS_")
    place = Place(tmp_path, {k: v for k, v in platform.environment().items() if k.startswith(names)})
    flow = place.start(*place.flow_command("--experiment", "away", config=sweep(LONG), data=tiny_images))
    wait_for(lambda: place.steps("train"), flow)
    platform.process("metadata").kill()
    time.sleep(60)
    platform.command("start")
    code, output = place.finish(flow, seconds=900)
    print(f"The run {'survived' if code == 0 else 'failed'}.\n{output[-2000:]}")
    if code != 0:
        code, output = place.resume()
        assert code == 0, output
    children, parents = mlflow_runs(place, place.env["MLFLOW_TRACKING_URI"], "away")
    assert parents == ["FINISHED"]
    assert list(children.values()) == [("FINISHED", list(range(1, 31)))]


def test_a_slow_mlflow_does_not_slow_the_training(
    mlflow_server: MlflowServer, tmp_path: Path, tiny_images: Path
) -> None:
    with faulty(mlflow_server.uri) as proxy:
        proxy.share, proxy.kinds, proxy.seconds = 1, ("stall",), 5
        place = Place(tmp_path, {"MLFLOW_TRACKING_URI": proxy.url})
        code, output = place.flow("--experiment", "slow", config=sweep(LONG), data=tiny_images)
        assert code == 0, output
        print(f"{proxy.done['stall']} requests of 5 s each")
        assert proxy.done["stall"] > 10
    history = run_data(place, "run['train'].task.data.result['history']")
    trained = sum(epoch["seconds"] for epoch in history[1:])
    assert (history[-1]["time_ms"] - history[0]["time_ms"]) / 1000 < trained + 5
    children, parents = mlflow_runs(place, mlflow_server.uri, "slow")
    assert parents == ["FINISHED"]
    assert list(children.values()) == [("FINISHED", list(range(1, 31)))]


def test_a_database_that_is_locked_for_half_a_minute(tmp_path: Path, tiny_images: Path) -> None:
    place = Place(tmp_path)
    flow = place.start(*place.flow_command(config=sweep(LONG), data=tiny_images))
    wait_for(place.checkpoints, flow)
    with closing(sqlite3.connect(tmp_path / "mlflow.db", timeout=60)) as database:
        database.execute("BEGIN EXCLUSIVE")
        time.sleep(30)
    code, output = place.finish(flow, seconds=900)
    assert code == 0, output
    children, parents = mlflow_runs(place)
    assert parents == ["FINISHED"]
    assert list(children.values()) == [("FINISHED", list(range(1, 31)))]


def test_a_trial_that_does_not_end_is_recorded_and_the_others_go_on(tmp_path: Path, tiny_images: Path) -> None:
    place = Place(tmp_path)
    (tmp_path / "limit.json").write_text(json.dumps({"backend": "local", "timeout_minutes": 1}))
    program, *arguments = place.flow_command(config=sweep({"epochs": 1000, "image_size": 224}, {}), data=tiny_images)
    code, output = place.call(program, "--config", "compute", "limit.json", *arguments)
    assert code == 0, output
    first, second = run_data(place, "run.data.leaderboard[['status', 'reason']].values.tolist()")
    assert first[0] == "finished"
    assert second == [
        "timed out",
        "no result within 1 minutes; raise timeout_minutes in the compute config, or lower epochs",
    ]


@contextmanager
def repeated(*actions: Callable[[], None]) -> Iterator[None]:
    """Do each of some things again and again, side by side, until the end of the block, where their errors appear."""
    over = threading.Event()

    def work(action: Callable[[], None]) -> None:
        while not over.is_set():
            action()

    with ThreadPoolExecutor(len(actions)) as pool:
        working = [pool.submit(work, action) for action in actions]
        try:
            yield
        finally:
            over.set()
    for each in working:
        each.result()


def test_a_champion_is_promoted_rolled_back_and_served_while_runs_register(
    mlflow_server: MlflowServer,
    container: int,  # noqa: F811
    graph: bytes,  # noqa: F811
    contest: promotion.Contest,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
    run = runs.start_run("promotion", "key", name="run", params={}, tags={})
    for number in (1, 2):
        register(run, graph, contest, number, "always")
    client, place = mlflow.MlflowClient(mlflow_server.uri), Place(tmp_path, {"MLFLOW_TRACKING_URI": mlflow_server.uri})
    champions, answers, moves = [], [], []

    def look() -> None:
        champions.append(str(client.get_model_version_by_alias("m", "champion").version))

    def ask() -> None:
        answers.append(post(container, request([photograph()]))[0])

    def move() -> None:
        for arguments in (("promote", "m", "1"), ("promote", "m", "2"), ("rollback", "m")):
            moves.append(place.call_skinlib(*arguments))

    with repeated(look, ask, move):
        registered = [register(run, graph, contest, number, "always") for number in range(3, 13)]
    assert set(answers) == {200}
    assert len(set(champions)) > 2
    assert [verdict["alias"] for _, verdict in registered] == ["champion"] * 10
    # A mover may find that a version is the champion already; it never finds that there is none.
    assert all(code == 0 or "is the champion already" in output for code, output in moves)
    standing, before = promotion.rollback("m", "ada")
    assert str(client.get_model_version_by_alias("m", "champion").version) == before != standing
    print(f"{len(registered)} versions, {len(moves)} moves, {len(answers)} requests, {len(champions)} looks: none lost")
