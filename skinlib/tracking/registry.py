"""MLflow's model registry: the winner of a flow run as a version of the registered model."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.pyfunc import PyFuncModel
from mlflow.types import ColSpec, Schema, TensorSpec

from skinlib.errors import TrackingError
from skinlib.model_card import excerpt
from skinlib.serving import classifier
from skinlib.tracking.connection import connect, unless_exists, without_credentials
from skinlib.tracking.runs import RecordedRun, to_tags

CHAMPION = "champion"
_CARD = "model_card.md"
_BLOCK = 256  # images; a multiple of the batch that `models.predict` makes, so that blocks change no digit
# What the classifier and its copy of skinlib import when they are served.
_PACKAGES = ("mlflow", "numpy", "pandas", "pillow", "pydantic", "torch", "torchvision")


def register(
    run: RecordedRun,
    name: str,
    run_key: str,
    *,
    weights: Mapping[str, np.ndarray],
    config: Mapping[str, Any],
    data_hash: str,
    metrics: Mapping[str, float | None],
    model_card: str,
    synthetic: bool,
) -> dict[str, str]:
    """Register the winner and make it the champion: one version a flow run, however often this is called.

    Args:
        run: the parent run, from `tracking.start_run`.
        name: of the registered model; it is created if missing.
        run_key: as in `tracking.start_run`; the version is found again by it.
        weights: the winner's state dict by name.
        config: what the winner is served with, see `classifier.save`.
        data_hash: of the manifest.
        metrics: on the test set; None is left out.
        model_card: from `model_card.render`. It becomes the version's description and lies, whole, among the run's
            artifacts and beside the model's files.
        synthetic: whether the data set is the generated sample, whose model is for trying out only.

    Returns:
        `name`, `version`, `uri` (models:/NAME/VERSION) and `alias`.

    Raises:
        TrackingError: MLflow does not answer or refuses, or the model's files cannot be stored.
    """
    scores = {key: f"{value:.4g}" for key, value in metrics.items() if value is not None}
    facts = {"run": run_key, "data_hash": data_hash, "synthetic": str(synthetic).lower()}
    tags = {tag.key: tag.value for tag in to_tags(facts | {f"test.{key}": value for key, value in scores.items()})}
    with connect(run["uri"]) as client:
        with _storing(client.get_run(run["run_id"]).info.artifact_uri):
            client.log_text(run["run_id"], model_card, _CARD)
        mine = client.search_model_versions(f"tags.`skinlib.run` = '{run_key}'")
        number = next((str(found.version) for found in mine if found.name == name), None)
        if number is None:
            model_id = _log_model(client, run["run_id"], tags, weights, config, model_card)
            with unless_exists():
                client.create_registered_model(name)
            created = client.create_model_version(
                name,
                f"models:/{model_id}",
                run["run_id"],
                tags=tags,
                description=excerpt(model_card),
                model_id=model_id,
            )
            number = str(created.version)
        client.set_registered_model_alias(name, CHAMPION, number)
    return {"name": name, "version": number, "uri": f"models:/{name}/{number}", "alias": CHAMPION}


def _log_model(
    client: MlflowClient,
    run_id: str,
    tags: dict[str, str],
    weights: Mapping[str, np.ndarray],
    config: Mapping[str, Any],
    model_card: str,
) -> str:
    """Store the classifier as a logged model of the run, and return its id.

    These are the steps of `mlflow.pyfunc.log_model`, which needs an active run and a global tracking URI.
    """
    experiment_id = client.get_run(run_id).info.experiment_id
    # A task that was killed has left a pending model, or one that is ready and only lacks its version.
    for model in client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'"):
        if model.status == "READY":
            return model.model_id
        client.delete_logged_model(model.model_id)
    model = client.create_logged_model(experiment_id, "classifier", source_run_id=run_id, tags=tags)
    code = Path(classifier.__file__)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model")
        mlflow.pyfunc.save_model(
            path,
            python_model=code,
            artifacts=classifier.save(Path(folder), weights, config),
            code_paths=[str(code.parent)],
            signature=ModelSignature(
                Schema([TensorSpec(np.dtype("uint8"), (-1, -1, -1, 3))]),
                Schema([ColSpec("double", "probability"), ColSpec("boolean", "malignant")]),
            ),
            # Small: MLflow stores it as JSON.
            input_example=np.zeros((2, 32, 32, 3), np.uint8),
            # Without the local part (+cu128), which no package index has.
            pip_requirements=[f"{package}=={version(package).split('+')[0]}" for package in _PACKAGES],
            mlflow_model=Model(artifact_path=model.artifact_location, run_id=run_id, model_id=model.model_id),
        )
        (path / _CARD).write_text(model_card)
        with _storing(model.artifact_location):
            client.log_model_artifacts(model.model_id, str(path))
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    return model.model_id


@contextmanager
def _storing(location: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # Each artifact store raises its own.
        raise TrackingError(
            f"The model's files cannot be stored at {without_credentials(location)} "
            f"({without_credentials(str(error))}); check that this machine may write there."
        ) from None


@dataclass(frozen=True)
class Served:
    """A registered model as whoever serves it has it.

    Attributes:
        config: what the model is served with, see `classifier.save`.
    """

    config: Mapping[str, Any]
    _model: PyFuncModel

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Give the calibrated probability of malignancy of each image.

        Args:
            images: RGB, uint8 (N, H, W, 3), a memory map as well: it is read in blocks.

        Returns:
            float64 (N,) in 0..1.
        """
        answers = [np.zeros(0)]
        for start in range(0, len(images), _BLOCK):
            table: Any = self._model.predict(np.asarray(images[start : start + _BLOCK]))
            answers.append(table["probability"].to_numpy())
        return np.concatenate(answers)


def load(model: str) -> Served:
    """Load a registered model as whoever serves it does.

    Args:
        model: `models:/NAME@ALIAS` or `models:/NAME/VERSION`.

    Raises:
        TrackingError: there is no such model, it was registered before models held temperature and operating point,
            or MLflow does not answer.
    """
    named = "models:/NAME@ALIAS or models:/NAME/VERSION"
    if not model.startswith("models:/"):
        raise TrackingError(f"{model!r} is not the name of a registered model; write {named}.")
    with connect() as client, tempfile.TemporaryDirectory() as folder:
        try:
            path = mlflow.artifacts.download_artifacts(model, dst_path=folder, tracking_uri=client.tracking_uri)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            where = without_credentials(client.tracking_uri)
            raise TrackingError(f"MLflow at {where} has no {model}; name one that is there as {named}.") from None
        loaded = mlflow.pyfunc.load_model(path)
        config = getattr(loaded.unwrap_python_model(), "config", {})
    if not {"temperature", "threshold", "shortcut"} <= config.keys():
        raise TrackingError(
            f"{model} was registered without its temperature, threshold and shortcut, by an older version of this "
            "project or by another one; train and register the model again."
        )
    return Served(config, loaded)
