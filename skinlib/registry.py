"""MLflow's model registry: the winner of a flow run as a version of the registered model."""

import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path

import mlflow
import numpy as np
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, Schema, TensorSpec

from skinlib import classifier
from skinlib.connection import connect, unless_exists, without_credentials
from skinlib.errors import TrackingError
from skinlib.tracking import RecordedRun, to_tags

CHAMPION = "champion"
# What the classifier and its copy of skinlib import when they are served.
_PACKAGES = ("mlflow", "numpy", "pandas", "pillow", "pydantic", "torch", "torchvision")


def register(
    run: RecordedRun,
    name: str,
    run_key: str,
    *,
    weights: Mapping[str, np.ndarray],
    architecture: str,
    image_size: int,
    data_hash: str,
    metrics: Mapping[str, float | None],
    synthetic: bool = False,
) -> dict[str, str]:
    """Register the winner and make it the champion: one version a flow run, however often this is called.

    Args:
        run: the parent run, from `tracking.start_run`.
        name: of the registered model; it is created if missing.
        run_key: as in `tracking.start_run`; the version is found again by it.
        weights: the winner's state dict by name.
        architecture: of the winner.
        image_size: side in pixels that the winner was trained at.
        data_hash: of the manifest.
        metrics: on the test set; None is left out.
        synthetic: whether the data set is the generated sample, whose model is for trying out only.

    Returns:
        `name`, `version`, `uri` (models:/NAME/VERSION) and `alias`.

    Raises:
        TrackingError: MLflow does not answer or refuses, or the model's files cannot be stored.
    """
    scores = {key: f"{value:.4g}" for key, value in metrics.items() if value is not None}
    facts = {"run": run_key, "data_hash": data_hash, "synthetic": str(synthetic).lower()}
    tags = {tag.key: tag.value for tag in to_tags(facts | {f"test.{key}": value for key, value in scores.items()})}
    description = (
        f"{'Trained on SYNTHETIC images, for trying out only. ' if synthetic else ''}"
        f"Benign or malignant, from photographs: {architecture} at {image_size} px, data {data_hash[:12]}. "
        f"On the test set: {', '.join(f'{key} {value}' for key, value in scores.items())}."
    )
    with connect(run["uri"]) as client:
        mine = client.search_model_versions(f"tags.`skinlib.run` = '{run_key}'")
        number = next((str(found.version) for found in mine if found.name == name), None)
        if number is None:
            model_id = _log_model(client, run["run_id"], tags, weights, architecture, image_size)
            with unless_exists():
                client.create_registered_model(name)
            created = client.create_model_version(
                name,
                f"models:/{model_id}",
                run["run_id"],
                tags=tags,
                description=description,
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
    architecture: str,
    image_size: int,
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
            artifacts=classifier.save(Path(folder), weights, architecture=architecture, image_size=image_size),
            code_paths=[str(code.parent)],
            signature=ModelSignature(
                Schema([TensorSpec(np.dtype("uint8"), (-1, -1, -1, 3))]),
                Schema([ColSpec("double", "probability")]),
            ),
            # Small: MLflow stores it as JSON.
            input_example=np.zeros((2, 32, 32, 3), np.uint8),
            # Without the local part (+cu128), which no package index has.
            pip_requirements=[f"{package}=={version(package).split('+')[0]}" for package in _PACKAGES],
            mlflow_model=Model(artifact_path=model.artifact_location, run_id=run_id, model_id=model.model_id),
        )
        try:
            client.log_model_artifacts(model.model_id, str(path))
        except Exception as error:  # Each artifact store raises its own.
            raise TrackingError(
                f"The model's files cannot be stored at {without_credentials(model.artifact_location)} "
                f"({without_credentials(str(error))}); check that this machine may write there."
            ) from None
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    return model.model_id


def load(model: str) -> Callable[[np.ndarray], np.ndarray]:
    """Load a registered model as whoever serves it does.

    Args:
        model: `models:/NAME@ALIAS` or `models:/NAME/VERSION`.

    Returns:
        A function of RGB images, uint8 (N, H, W, 3), that gives probabilities of malignancy, float64 (N,).

    Raises:
        TrackingError: there is no such model, or MLflow does not answer.
    """
    with connect() as client:
        mlflow.set_tracking_uri(client.tracking_uri)
        served = mlflow.pyfunc.load_model(model)
    return lambda images: served.predict(images)["probability"].to_numpy()
