"""The model registry: one version per flow run, and a model that loads without this repository."""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient

from skinlib.data import images
from skinlib.errors import TrackingError
from skinlib.serving import served as served_model
from skinlib.serving.graph import Graph
from skinlib.tracking import registry, runs
from skinlib.tracking.connection import connect
from skinlib.tracking.registry import RegisteredModel
from skinlib.tracking.runs import RecordedRun
from tests.servers.mlflow import MlflowServer
from tests.unit import results

SETTINGS = results.CLASSIFIER
CARD = "# Model card: resnet10\n" + "| AUROC | 0.912 |\n" * 500


@pytest.fixture(scope="module")
def registered(mlflow_server: MlflowServer, graph: bytes) -> tuple[RecordedRun, RegisteredModel]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri.replace("://", "://ada:s3cret@"))
        run = runs.start_run("registry", "key", name="run", params={}, tags={})
        return run, register(run, graph)


def register(run: RecordedRun, graph: bytes, **overrides: Any) -> RegisteredModel:
    arguments: dict[str, Any] = {
        "graph": graph,
        "weights": {"fc": np.ones(3, np.float32)},
        "settings": SETTINGS,
        "seen": np.array([3, 1, 3], np.uint64),
        "data_hash": "0123456789abcdef",
        "flow_run": "SkinLesionFlow/2",
        "metrics": {"auroc": 0.91234, "n": 60, "sensitivity": None},
        "figures": {"auroc_low": 0.8},
        "histograms": results.HISTOGRAMS,
        "model_card": CARD,
        "synthetic": True,
    }
    with connect(run["uri"]) as client:
        experiment = client.get_experiment(client.get_run(run["run_id"]).info.experiment_id)
    return registry.register(run, experiment.name, "key", "skin-lesion", **(arguments | overrides))


def test_the_model_becomes_a_version_with_a_description_and_without_an_alias(
    mlflow_server: MlflowServer, registered: tuple[RecordedRun, RegisteredModel]
) -> None:
    run, version = registered
    found = MlflowClient(mlflow_server.uri).get_model_version("skin-lesion", version["version"])
    assert version == {"name": "skin-lesion", "version": found.version, "uri": f"models:/skin-lesion/{found.version}"}
    assert not found.aliases
    assert found.run_id == run["run_id"]
    assert found.description == registry.excerpt(CARD)
    assert len(found.description) <= registry.DESCRIPTION_LIMIT == 5000 < len(CARD)
    assert len(found.tags.pop("skinlib.result")) == 64
    assert found.tags == {
        "skinlib.run": "key",
        "skinlib.metaflow_run": "SkinLesionFlow/2",
        "skinlib.data_hash": "0123456789abcdef",
        "skinlib.synthetic": "true",
        "skinlib.test.auroc": "0.9123",
        "skinlib.test.n": "60",
        "skinlib.test.auroc_low": "0.8",
    }


def test_the_whole_model_card_is_stored_with_the_run_and_with_the_model(
    mlflow_server: MlflowServer,
    registered: tuple[RecordedRun, RegisteredModel],
    downloaded: Path,
    tmp_path: Path,
) -> None:
    run, _ = registered
    found = MlflowClient(mlflow_server.uri).download_artifacts(run["run_id"], "model_card.md", str(tmp_path))
    assert Path(found).read_text() == CARD
    assert (downloaded / "model_card.md").read_text() == CARD


def test_registering_twice_creates_one_version(
    mlflow_server: MlflowServer,
    registered: tuple[RecordedRun, RegisteredModel],
    graph: bytes,
) -> None:
    run, version = registered
    assert register(run, graph) == version
    assert len(MlflowClient(mlflow_server.uri).search_model_versions("name = 'skin-lesion'")) == 1


def test_another_result_of_the_same_flow_run_is_another_version_and_overwrites_no_figure(
    mlflow_database: str, graph: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_database)
    client = MlflowClient(mlflow_database)
    run = runs.start_run("results", "key", name="run", params={"seed": 0}, tags={})
    first = register(run, graph)
    runs.finish_run(run)
    edited = {"fc": np.zeros(3, np.float32)}
    others = [
        register(run, graph, weights=edited, model_card="# Another"),
        register(run, graph, settings=SETTINGS | {"threshold": 0.4}),
        register(run, graph, metrics={"auroc": 0.8}),
        register(run, graph, figures={"auroc_low": 0.7}),
        register(run, graph, data_hash="fedcba9876543210"),
    ]
    assert len({version["version"] for version in [first, *others]}) == 6
    assert register(run, graph, weights=edited, model_card="# Another") == others[0]
    assert register(run, graph) == first

    held = client.get_run(run["run_id"])
    assert held.info.status == "FINISHED"
    assert held.data.metrics == {"test_auroc": 0.91234, "test_n": 60.0, "test_auroc_low": 0.8}
    other = client.get_run(client.get_model_version("skin-lesion", others[2]["version"]).run_id)
    assert other.data.metrics == {"test_auroc": 0.8, "test_auroc_low": 0.8}
    assert other.data.params == {"seed": "0"}
    assert other.data.tags["mlflow.parentRunId"] == run["run_id"]


def test_registering_continues_where_a_killed_task_stopped(
    tmp_path: Path, graph: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = runs.start_run("killed", "key", name="run", params={}, tags={})

    def killed(*arguments: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    for method in ("log_text", "log_model_artifacts", "create_model_version"):
        with monkeypatch.context() as attempt:
            attempt.setattr(MlflowClient, method, killed)
            with pytest.raises(KeyboardInterrupt):
                register(run, graph)
    version = register(run, graph)["version"]

    client = MlflowClient(run["uri"])
    logged = client.search_logged_models([client.get_run(run["run_id"]).info.experiment_id])
    assert [model.status for model in logged] == ["READY"]
    # MLflow gives numbers from a database and strings from a server.
    assert [str(found.version) for found in client.search_model_versions()] == [version]


@pytest.mark.parametrize("old_project_stays", [True, False])
def test_a_copied_or_moved_project_keeps_its_files_to_itself(
    old_project_stays: bool, tmp_path: Path, graph: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    old, new = tmp_path / "old", tmp_path / "nëw project"
    old.mkdir()
    monkeypatch.chdir(old)
    run = runs.start_run("moved", "key", name="run", params={}, tags={})
    register(run, graph)
    before = sorted(old.rglob("*"))
    shutil.copytree(old, new)
    if not old_project_stays:
        shutil.rmtree(old)
    monkeypatch.chdir(new)
    register(run, graph, data_hash="fedcba9876543210")

    assert registry.load("models:/skin-lesion/1").settings == SETTINGS
    assert registry.load("models:/skin-lesion/2").settings == SETTINGS
    assert sorted(old.rglob("*")) == (before if old_project_stays else [])
    assert sorted(path.name for path in new.iterdir()) == ["mlflow.db", "mlruns"]
    assert {path.name for path in tmp_path.iterdir()} <= {"old", "nëw project"}


def test_files_of_a_model_that_are_missing_are_named_with_their_place(
    tmp_path: Path, graph: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    register(runs.start_run("lost", "key", name="run", params={}, tags={}), graph)
    shutil.rmtree(tmp_path / "mlruns")
    with pytest.raises(TrackingError, match=r"The files of models:/skin-lesion/1 cannot be read from file:///.*mlruns"):
        registry.load("models:/skin-lesion/1")


@pytest.fixture(scope="module")
def downloaded(
    mlflow_server: MlflowServer,
    registered: tuple[RecordedRun, RegisteredModel],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
        folder = tmp_path_factory.mktemp("downloaded")
        return Path(mlflow.artifacts.download_artifacts(registered[1]["uri"], dst_path=str(folder)))


def test_the_model_is_one_graph_and_one_file_of_code_without_pickle_and_password(downloaded: Path) -> None:
    files = [path for path in downloaded.rglob("*") if path.is_file()]
    names = {str(path.relative_to(downloaded)) for path in files}
    assert {name for name in names if name.endswith((".onnx", ".py", ".npz", ".npy", ".md"))} == {
        "artifacts/model.onnx",
        "classifier.py",
        "weights.npz",
        "seen.npy",
        "model_card.md",
    }
    assert {Path(name).suffix for name in names} == {
        ".onnx",
        ".py",
        ".npz",
        ".npy",
        ".md",
        ".yaml",
        ".txt",
        ".json",
        "",
    }
    assert not [path for path in files if b"s3cret" in path.read_bytes()]


def test_the_model_names_no_folder_of_the_machine_that_registered_it(downloaded: Path) -> None:
    folders = (tempfile.gettempdir(), str(Path(registry.__file__).parents[2]))
    described = "".join(path.read_text(errors="replace") for path in downloaded.iterdir() if path.is_file())
    assert "model_code_path: classifier.py" in described
    assert not [folder for folder in folders if f"{folder}/" in described]


def test_the_model_pins_what_serving_needs_and_no_package_of_the_flow(downloaded: Path) -> None:
    pins = (downloaded / "requirements.txt").read_text().splitlines()
    names = {pin.split("==")[0] for pin in pins}
    assert {"mlflow-skinny", "numpy", "onnxruntime", "pandas", "pillow"} <= names
    assert not {"mlflow", "torch", "torchvision", "metaflow", "obstore", "kubernetes", "scipy"} & names


def test_the_model_loads_and_agrees_without_this_repository(downloaded: Path, graph: bytes, tmp_path: Path) -> None:
    packed, raw = photographs(224, 224), photographs(50, 70)
    np.savez(tmp_path / "images.npz", packed=packed, raw=raw)
    code = """
import json, sys
for name in ("skinlib", "torch", "torchvision", "metaflow", "boto3", "obstore", "matplotlib", "sklearn", "scipy"):
    sys.modules[name] = None  # Importing it fails.
import mlflow, numpy as np, pandas as pd
model = mlflow.pyfunc.load_model(sys.argv[1])
with np.load("images.npz") as images:
    tables = [model.predict(pd.DataFrame({"image": list(images[name])})) for name in ("packed", "raw")]
print(json.dumps([list(table["probability"]) for table in tables]))
"""
    # -I: neither PYTHONPATH nor the user's packages.
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, str(downloaded)],
        cwd=tmp_path,
        env={"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    batches = [packed, np.stack([images.fit(image) for image in raw])]
    expected = [Graph(graph).score(batch).probability for batch in batches]
    np.testing.assert_allclose(json.loads(done.stdout.splitlines()[-1]), expected, rtol=1e-6)


def test_a_loaded_model_scores_any_number_of_images_like_the_flow(
    registered: tuple[RecordedRun, RegisteredModel],
    graph: bytes,
    mlflow_server: MlflowServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
    monkeypatch.setattr(served_model, "_BLOCK", 64)
    before = mlflow.get_tracking_uri()
    served = registry.load("models:/skin-lesion/1")
    assert mlflow.get_tracking_uri() == before
    assert served.settings == SETTINGS
    assert served.seen.tolist() == [1, 3]
    assert (served.histograms, served.model_card) == (results.HISTOGRAMS, CARD)
    packed = np.random.default_rng(0).integers(0, 256, (70, 224, 224, 3), np.uint8)
    answers = Graph(graph).score(packed)
    np.testing.assert_array_equal(served.predict(packed)["probability"], answers.probability)
    assert served.predict(packed[:0]).shape == (0, 7)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("skin-lesion", "'skin-lesion' is not the name of a registered model; "),
        ("models:/nothing@champion", " has no models:/nothing@champion; "),
        ("models:/skin-lesion@nobody", " has no models:/skin-lesion@nobody; "),
        ("models:/skin-lesion/99", " has no models:/skin-lesion/99; "),
        ("models:/skin-lesion", "'models:/skin-lesion' is not the name of a registered model; "),
    ],
)
def test_a_model_that_does_not_exist_is_named_in_one_sentence(
    name: str, sentence: str, registered: Any, mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri.replace("://", "://ada:s3cret@"))
    with pytest.raises(TrackingError) as error:
        registry.load(name)
    assert sentence in str(error.value)
    assert str(error.value).endswith("models:/NAME@ALIAS or models:/NAME/VERSION.")
    assert "s3cret" not in str(error.value)


def test_a_model_whose_code_does_not_fit_this_version_is_refused_in_one_sentence(
    registered: Any, mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)

    def outdated(path: str) -> None:
        raise ImportError("cannot import name 'models' from 'skinlib'")

    monkeypatch.setattr(mlflow.pyfunc, "load_model", outdated)
    with pytest.raises(TrackingError, match=r"^models:/skin-lesion/1 was registered by another project[^.]*\.$"):
        registry.load("models:/skin-lesion/1")


def test_a_longer_card_is_cut_between_lines_and_says_so() -> None:
    kept, note = registry.excerpt(CARD).rsplit("\nThe rest", 1)
    assert CARD.startswith(kept + "\n")
    assert "artifacts" in note


def test_a_card_within_the_limit_is_kept_whole() -> None:
    card = "x" * registry.DESCRIPTION_LIMIT
    assert registry.excerpt(card) == card


def photographs(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, height, width, 3), np.uint8)
