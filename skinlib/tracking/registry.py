"""MLflow's model registry: the best network of a flow run becomes a version of the registered model."""

import hashlib
import io
import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

import mlflow
import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, Run
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.store.artifact.models_artifact_repo import ModelsArtifactRepository
from mlflow.store.artifact.utils.models import get_model_name_and_version
from mlflow.types import ColSpec, Schema
from numpy.typing import NDArray
from PIL import Image

from skinlib.errors import TrackingError, without_credentials
from skinlib.evaluation.metrics import Metrics
from skinlib.evaluation.scores import Histograms
from skinlib.serving import classifier, source
from skinlib.serving.served import Served, table
from skinlib.serving.settings import ClassifierSettings
from skinlib.tracking.connection import connect, is_missing, storing, unless_exists
from skinlib.tracking.requirements import pinned
from skinlib.tracking.runs import MODEL_CARD, RecordedRun, log_metrics, open_result, to_tags

DESCRIPTION_LIMIT = 5000  # characters, of MLflow's column for the description of a model version
# What the classifier imports. The small distribution of MLflow is enough to load and to serve it.
_PACKAGES = ("mlflow-skinny", "numpy", "onnxruntime", "pandas", "pillow")
_WEIGHTS, _SEEN, _HISTOGRAMS = "weights.npz", "seen.npy", "histograms.json"
_SIGNATURE = ModelSignature(
    Schema([ColSpec("binary", classifier.COLUMN)]),
    Schema(
        [
            ColSpec("double", "probability"),
            ColSpec("boolean", "malignant"),
            ColSpec("boolean", "uncertain"),
            ColSpec("boolean", "unfamiliar"),
            ColSpec("double", "unfamiliarity"),
            ColSpec("boolean", "unsupported"),
            ColSpec("string", "error", required=False),
        ]
    ),
)


class RegisteredModel(TypedDict):
    """The artifact `registered_model`; `uri` is models:/NAME/VERSION."""

    name: str
    version: str
    uri: str


def register(
    run: RecordedRun,
    experiment: str,
    run_key: str,
    name: str,
    *,
    flow_run: str,
    graph: bytes,
    weights: Mapping[str, np.ndarray],
    settings: ClassifierSettings,
    data_hash: str,
    metrics: Metrics,
    figures: Mapping[str, float | None],
    histograms: Histograms,
    model_card: str,
    synthetic: bool,
    seen: NDArray[np.uint64],
) -> RegisteredModel:
    """Register the best network as a version without an alias; `promotion.decide` gives it one.

    Each distinct result of a flow run and its resumed runs gets one run in MLflow and one version. Results are the same
    if weights, settings, data, metrics and figures are, so that repeated calls create nothing.

    Args:
        run: the parent run, from `runs.start_run`.
        experiment: as in `runs.start_run`.
        run_key: as in `runs.start_run`.
        name: of the registered model; it is created if missing.
        flow_run: names the run in MLflow if the parent run holds another result.
        graph: from `export_graph`; what is served.
        weights: the model's arrays by name, from `ensemble.join`, for further training.
        settings: what the network is served with.
        data_hash: of the manifest.
        metrics: on the test set; None is not recorded. They are logged, and become tags of the version.
        figures: further numbers to log, from `scores.flat_metrics`.
        histograms: of the probabilities of the test images.
        model_card: from `model_card.render`. Its excerpt becomes the version's description; the whole card is stored
            with the run and with the model's files.
        synthetic: whether the data set is the generated sample.
        seen: fingerprints of the images that had a part in the model, and of others of the same lesions.

    Raises:
        TrackingError: MLflow does not answer or refuses, or the model's files cannot be stored.
    """
    logged = {f"test_{key}": value for key, value in {**metrics, **figures}.items()}
    result_key = _result_key(weights, settings, data_hash, logged)
    scores = {key: f"{value:.4g}" for key, value in metrics.items() if isinstance(value, int | float)}
    intervals = {key: figures.get(key) for key in ("auroc_low", "auroc_high")}
    scores |= {key: f"{value:.4g}" for key, value in intervals.items() if value is not None}
    facts = {
        "run": run_key,
        "metaflow_run": flow_run,
        "result": result_key,
        "data_hash": data_hash,
        "synthetic": str(synthetic).lower(),
    }
    tags = {tag.key: tag.value for tag in to_tags(facts | {f"test.{key}": value for key, value in scores.items()})}
    with connect(run["uri"]) as client:
        same = f"tags.`skinlib.run` = '{run_key}' and tags.`skinlib.result` = '{result_key}'"
        mine = [version for version in client.search_model_versions(same) if version.name == name]
        number = str(mine[0].version) if mine else None
        if number is None:
            held = open_result(client, experiment, run_key, result_key, flow_run)
            if held.info.status != "FINISHED":
                with storing(held.info.artifact_uri):
                    client.log_text(held.info.run_id, model_card, MODEL_CARD)
                log_metrics(client, held, logged)
            model_id = _log_model(client, held, tags, graph, weights, seen, histograms, model_card)
            with unless_exists():
                client.create_registered_model(name)
            created = client.create_model_version(
                name,
                f"models:/{model_id}",
                held.info.run_id,
                tags=tags,
                description=excerpt(model_card),
                model_id=model_id,
            )
            number = str(created.version)
            client.set_terminated(held.info.run_id, "FINISHED")
    return {"name": name, "version": number, "uri": f"models:/{name}/{number}"}


def _result_key(
    weights: Mapping[str, np.ndarray],
    settings: ClassifierSettings,
    data_hash: str,
    figures: Mapping[str, object],
) -> str:
    # Without digits that depend on the number of threads.
    rounded = {key: f"{value:.5g}" for key, value in figures.items() if isinstance(value, int | float)}
    facts = json.dumps([data_hash, settings, rounded], sort_keys=True)
    digest = hashlib.sha256(facts.encode())
    for key, value in sorted(weights.items()):
        digest.update(f"{key} {value.dtype} {value.shape}".encode() + value.tobytes())
    return digest.hexdigest()


def excerpt(card: str) -> str:
    """Return as much of a model card as MLflow can keep as a description, in whole lines: nearly always all of it."""
    if len(card) <= DESCRIPTION_LIMIT:
        return card
    note = "\nThe rest does not fit here: see the run's artifacts.\n"
    return card[: card.rindex("\n", 0, DESCRIPTION_LIMIT - len(note))] + note


def _log_model(
    client: MlflowClient,
    run: Run,
    tags: dict[str, str],
    graph: bytes,
    weights: Mapping[str, np.ndarray],
    seen: NDArray[np.uint64],
    histograms: Histograms,
    model_card: str,
) -> str:
    """Store the classifier as a logged model of the run, and return its id.

    These are the steps of `mlflow.pyfunc.log_model`, which itself needs an active run and a global tracking URI.
    """
    experiment_id, run_id = run.info.experiment_id, run.info.run_id
    # A killed task may have left a pending model, or one that is ready but has no version yet.
    for model in client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'"):
        if model.status == "READY":
            return model.model_id
        client.delete_logged_model(model.model_id)
    model = client.create_logged_model(experiment_id, "classifier", source_run_id=run_id, tags=tags)
    with tempfile.TemporaryDirectory() as folder:
        path, code, onnx = (Path(folder, name) for name in ("model", "classifier.py", "model.onnx"))
        code.write_text(source.code())
        onnx.write_bytes(graph)
        mlflow.pyfunc.save_model(
            path,
            python_model=code,
            artifacts={"model": str(onnx)},
            signature=_SIGNATURE,
            input_example=_example(),
            pip_requirements=pinned(_PACKAGES),
            mlflow_model=Model(run_id=run_id, model_id=model.model_id),
        )
        # Not torch.save, which writes a pickle.
        np.savez(path / _WEIGHTS, allow_pickle=False, **weights)
        np.save(path / _SEEN, np.unique(seen), allow_pickle=False)
        _remove_local_paths(path)
        (path / _HISTOGRAMS).write_text(json.dumps(histograms))
        (path / MODEL_CARD).write_text(model_card)
        with storing(model.artifact_location):
            client.log_model_artifacts(model.model_id, str(path))
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    return model.model_id


def _remove_local_paths(folder: Path) -> None:
    """Remove what MLflow records of this machine's folders in a saved model; loading needs the names only."""
    model = Model.load(str(folder))
    flavor = model.flavors["python_function"]
    flavor["model_code_path"] = Path(flavor["model_code_path"]).name
    for artifact in flavor["artifacts"].values():
        artifact["uri"] = artifact["path"]
    model.save(str(folder / "MLmodel"))


def _example() -> pd.DataFrame:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "tan").save(file, "png")
    return table([file.getvalue()])


def load(model: str) -> Served:
    """Load a registered model as for serving.

    Args:
        model: `models:/NAME@ALIAS` or `models:/NAME/VERSION`.

    Raises:
        TrackingError: there is no such model, an older version of this project registered it, or MLflow does not
            answer.
    """
    named = "models:/NAME@ALIAS or models:/NAME/VERSION"
    if not re.fullmatch("models:/[^/@]+[/@][^/@]+", model):
        raise TrackingError(f"{model!r} is not the name of a registered model; write {named}.")
    with connect() as client, tempfile.TemporaryDirectory() as folder:
        try:
            name, version = get_model_name_and_version(client, model)  # type: ignore[no-untyped-call]
            uri = f"models:/{name}/{version}"
            address = without_credentials(ModelsArtifactRepository.get_underlying_uri(uri))  # type: ignore[no-untyped-call]
        except MlflowException as error:
            if not is_missing(error):
                raise
            where = without_credentials(client.tracking_uri)
            raise TrackingError(f"MLflow at {where} has no {model}; name an existing one as {named}.") from None
        try:
            path = mlflow.artifacts.download_artifacts(uri, dst_path=folder, tracking_uri=client.tracking_uri)
            if not Path(path, "MLmodel").exists():
                raise FileNotFoundError("there are no files")
        except Exception as error:  # Each artifact store raises its own errors.
            raise TrackingError(
                f"The files of {model} cannot be read from {address} ({without_credentials(str(error)).rstrip('.')}); "
                "give this machine read access, or copy them there from where the model was registered."
            ) from None
        try:
            own = mlflow.pyfunc.load_model(path).unwrap_python_model()
            settings = getattr(getattr(own, "graph", None), "settings", None)
        except ImportError:  # Older models have a copy of skinlib, with other modules than the one that runs.
            settings = None
        if settings is None or not Path(path, _HISTOGRAMS).exists():
            raise TrackingError(
                f"{model} was registered by another project, or by an older version of this one that this version "
                "cannot read; train and register the model again."
            )
        seen = np.load(Path(path, _SEEN), allow_pickle=False)
        histograms = json.loads(Path(path, _HISTOGRAMS).read_text())
        return Served(uri, settings, seen, histograms, Path(path, MODEL_CARD).read_text(), own)
