"""A registered model, for the servers."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient

from skinlib.tracking import registry, runs
from tests.unit import results


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory, graph: bytes) -> Iterator[Callable[[str], Path]]:
    """A function that registers a version in `mlflow.db` of a folder, and the champion's files in `model`."""
    folder = tmp_path_factory.mktemp("registry")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")

        def register(key: str) -> Path:
            run = runs.start_run("serving", key, name="run", params={}, tags={})
            facts: dict[str, Any] = {"data_hash": "0", "metrics": {"auroc": 0.9}, "figures": {}, "model_card": "# Card"}
            version = registry.register(
                run,
                "serving",
                key,
                "skin-lesion",
                flow_run="Flow/1",
                graph=graph,
                weights={"fc": np.ones(3, np.float32)},
                settings=results.CLASSIFIER,
                histograms=results.HISTOGRAMS,
                synthetic=False,
                seen=np.zeros(0, np.uint64),
                **facts,
            )
            MlflowClient().set_registered_model_alias("skin-lesion", "champion", version["version"])
            mlflow.artifacts.download_artifacts("models:/skin-lesion@champion", dst_path=str(folder / "model"))
            return folder

        yield register
