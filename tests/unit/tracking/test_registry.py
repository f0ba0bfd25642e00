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
from skinlib.evaluation import calibration
from skinlib.networks import inference, resnet
from skinlib.tracking import connection, registry, runs
from skinlib.tracking.registry import RegisteredModel
from skinlib.tracking.runs import RecordedRun
from tests.servers.mlflow import MlflowServer
from tests.unit import results

SETTINGS = results.CLASSIFIER
SIZE = SETTINGS["image_size"]
CARD = "# Model card: resnet10\n" + "| AUROC | 0.912 |\n" * 500


@pytest.fixture(scope="module")
def registered(mlflow_server: MlflowServer, weights: dict[str, np.ndarray]) -> tuple[RecordedRun, RegisteredModel]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri.replace("://", "://ada:s3cret@"))
        run = runs.start_run("registry", "key", name="run", params={}, tags={})
        return run, register(run, weights)


def register(run: RecordedRun, weights: dict[str, np.ndarray], **overrides: Any) -> RegisteredModel:
    arguments: dict[str, Any] = {
        "weights": weights,
        "settings": SETTINGS,
        "data_hash": "0123456789abcdef",
        "flow_run": "SkinLesionFlow/2",
        "metrics": {"auroc": 0.91234, "n": 60, "sensitivity": None},
        "figures": {"auroc_low": 0.8},
        "model_card": CARD,
        "synthetic": True,
    }
    with connection.connect(run["uri"]) as client:
        experiment = client.get_experiment(client.get_run(run["run_id"]).info.experiment_id)
    return registry.register(run, experiment.name, "key", "skin-lesion", **(arguments | overrides))


def test_the_model_becomes_a_champion_with_a_description(
    mlflow_server: MlflowServer, registered: tuple[RecordedRun, RegisteredModel]
) -> None:
    run, version = registered
    found = MlflowClient(mlflow_server.uri).get_model_version_by_alias("skin-lesion", "champion")
    assert version == {
        "name": "skin-lesion",
        "version": found.version,
        "uri": f"models:/skin-lesion/{found.version}",
        "alias": "champion",
    }
    assert found.run_id == run["run_id"]
    assert found.description == registry.excerpt(CARD)
    assert len(found.description) <= registry.DESCRIPTION_LIMIT == 5000 < len(CARD)
    assert len(found.tags.pop("skinlib.result")) == 64
    assert found.tags == {
        "skinlib.run": "key",
        "skinlib.data_hash": "0123456789abcdef",
        "skinlib.synthetic": "true",
        "skinlib.test.auroc": "0.9123",
        "skinlib.test.n": "60",
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
    weights: dict[str, np.ndarray],
) -> None:
    run, version = registered
    assert register(run, weights) == version
    assert len(MlflowClient(mlflow_server.uri).search_model_versions("name = 'skin-lesion'")) == 1


def test_another_result_of_the_same_flow_run_is_another_version_and_overwrites_no_figure(
    mlflow_database: str, weights: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_database)
    client = MlflowClient(mlflow_database)
    run = runs.start_run("results", "key", name="run", params={"seed": 0}, tags={})
    first = register(run, weights)
    runs.finish_run(run)
    name = next(iter(weights))
    edited = weights | {name: weights[name] + 1}
    others = [
        register(run, edited, model_card="# Another"),
        register(run, weights, settings=SETTINGS | {"threshold": 0.4}),
        register(run, weights, metrics={"auroc": 0.8}),
        register(run, weights, figures={"auroc_low": 0.7}),
        register(run, weights, data_hash="fedcba9876543210"),
    ]
    assert len({version["version"] for version in [first, *others]}) == 6
    assert register(run, edited, model_card="# Another") == others[0]
    assert register(run, weights) == first

    held = client.get_run(run["run_id"])
    assert held.info.status == "FINISHED"
    assert held.data.metrics == {"test_auroc": 0.91234, "test_n": 60.0, "test_auroc_low": 0.8}
    other = client.get_run(client.get_model_version("skin-lesion", others[2]["version"]).run_id)
    assert other.data.metrics == {"test_auroc": 0.8, "test_auroc_low": 0.8}
    assert other.data.params == {"seed": "0"}
    assert other.data.tags["mlflow.parentRunId"] == run["run_id"]


def test_registering_continues_where_a_killed_task_stopped(
    tmp_path: Path, weights: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = runs.start_run("killed", "key", name="run", params={}, tags={})

    def killed(*arguments: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    for method in ("log_text", "log_model_artifacts", "create_model_version", "set_registered_model_alias"):
        with monkeypatch.context() as attempt:
            attempt.setattr(MlflowClient, method, killed)
            with pytest.raises(KeyboardInterrupt):
                register(run, weights)
    version = register(run, weights)["version"]

    client = MlflowClient(run["uri"])
    logged = client.search_logged_models([client.get_run(run["run_id"]).info.experiment_id])
    assert [model.status for model in logged] == ["READY"]
    # MLflow gives numbers from a database and strings from a server.
    assert [str(found.version) for found in client.search_model_versions()] == [version]
    assert str(client.get_model_version_by_alias("skin-lesion", "champion").version) == version


@pytest.mark.parametrize("old_project_stays", [True, False])
def test_a_copied_or_moved_project_keeps_its_files_to_itself(
    old_project_stays: bool, tmp_path: Path, weights: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    old, new = tmp_path / "old", tmp_path / "nëw project"
    old.mkdir()
    monkeypatch.chdir(old)
    run = runs.start_run("moved", "key", name="run", params={}, tags={})
    register(run, weights)
    before = sorted(old.rglob("*"))
    shutil.copytree(old, new)
    if not old_project_stays:
        shutil.rmtree(old)
    monkeypatch.chdir(new)
    register(run, weights, data_hash="fedcba9876543210")

    assert registry.load("models:/skin-lesion/1").settings == SETTINGS
    assert registry.load("models:/skin-lesion/2").settings == SETTINGS
    assert sorted(old.rglob("*")) == (before if old_project_stays else [])
    assert sorted(path.name for path in new.iterdir()) == ["mlflow.db", "mlruns"]
    assert {path.name for path in tmp_path.iterdir()} <= {"old", "nëw project"}


def test_files_of_a_model_that_are_missing_are_named_with_their_place(
    tmp_path: Path, weights: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    register(runs.start_run("lost", "key", name="run", params={}, tags={}), weights)
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


def test_the_model_contains_no_pickle_and_no_password(downloaded: Path) -> None:
    files = [path for path in downloaded.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {
        "MLmodel",
        "weights.npz",
        "config.json",
        "classifier.py",
        "resnet.py",
    }
    assert not [path for path in files if path.suffix in (".pkl", ".pickle", ".pt", ".pyc")]
    assert not [path for path in files if b"s3cret" in path.read_bytes()]


def test_the_model_names_no_folder_of_the_machine_that_registered_it(downloaded: Path) -> None:
    folders = (tempfile.gettempdir(), str(Path(registry.__file__).parents[2]))
    described = "".join(path.read_text() for path in downloaded.iterdir() if path.is_file())
    assert "model_code_path: classifier.py" in described
    assert not [folder for folder in folders if f"{folder}/" in described]


def test_the_model_pins_what_serving_needs_and_no_package_of_the_flow(downloaded: Path) -> None:
    pins = (downloaded / "requirements.txt").read_text().splitlines()
    names = {pin.split("==")[0] for pin in pins}
    assert {"mlflow", "numpy", "pandas", "pillow", "torch", "torchvision"} <= names
    assert not {"metaflow", "obstore", "captum", "kubernetes"} & names


def test_the_model_loads_and_agrees_without_this_repository(
    downloaded: Path, network: resnet.Network, tmp_path: Path
) -> None:
    packed, raw = photographs(224, 224), photographs(50, 70)
    np.savez(tmp_path / "images.npz", packed=packed, raw=raw)
    (tmp_path / "skinlib").mkdir()
    (tmp_path / "skinlib" / "__init__.py").write_text("raise ImportError('this is another skinlib')")
    code = """
import json, pathlib, sys
sys.path.insert(0, ".")  # The folder of the other skinlib.
for name in ("metaflow", "boto3", "obstore", "matplotlib", "sklearn", "scipy"):
    sys.modules[name] = None  # Importing it fails.
import mlflow, numpy as np
folder = sys.argv[1]
model = mlflow.pyfunc.load_model(folder)
with np.load("images.npz") as images:
    tables = [model.predict(images[name]) for name in ("packed", "raw")]
answers = [list(table["probability"]) for table in tables]
called = [table["malignant"].tolist() for table in tables]
example = pathlib.Path(folder, "serving_input_example.json").read_text()
served = mlflow.models.validate_serving_input(folder, example)
import skinlib
assert not [name for name in sys.modules if name.startswith(("skinlib.training", "skinlib.tracking"))]
print(json.dumps({"answers": answers, "called": called, "served": len(served), "skinlib": skinlib.__file__}))
"""
    # -I: neither PYTHONPATH nor the user's packages.
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, str(downloaded)],
        cwd=tmp_path,
        env={"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert Path(found["skinlib"]).is_relative_to(downloaded)
    assert found["served"] == 2
    fitted = np.stack([images.fit(image) for image in raw])
    raw_answers = [inference.predict(network, batch, SIZE) for batch in (packed, fitted)]
    expected = np.stack([calibration.calibrate(answer, SETTINGS["temperature"]) for answer in raw_answers])
    np.testing.assert_allclose(found["answers"], expected, rtol=1e-5)
    assert found["called"] == (expected >= SETTINGS["threshold"]).tolist()


def test_a_loaded_model_scores_any_number_of_images_like_the_flow(
    registered: tuple[RecordedRun, RegisteredModel],
    network: resnet.Network,
    mlflow_server: MlflowServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
    monkeypatch.setattr(registry, "_BLOCK", 64)
    before = mlflow.get_tracking_uri()
    served = registry.load("models:/skin-lesion@champion")
    assert mlflow.get_tracking_uri() == before
    assert served.settings == {**SETTINGS, "classes": ["benign", "malignant"]}
    packed = np.random.default_rng(0).integers(0, 256, (70, 224, 224, 3), np.uint8)
    expected = calibration.calibrate(inference.predict(network, packed, SIZE), SETTINGS["temperature"])
    np.testing.assert_array_equal(served.predict(packed), expected)
    assert served.predict(packed[:0]).shape == (0,)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("skin-lesion", "'skin-lesion' is not the name of a registered model; "),
        ("models:/nothing@champion", " has no models:/nothing@champion; "),
        ("models:/skin-lesion@nobody", " has no models:/skin-lesion@nobody; "),
        ("models:/skin-lesion/99", " has no models:/skin-lesion/99; "),
        ("models:/skin-lesion", " has no models:/skin-lesion; "),
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
