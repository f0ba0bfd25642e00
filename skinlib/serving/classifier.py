"""The model as it is served: photographs in, probabilities of malignancy out.

MLflow copies this file and all of skinlib into a registered model ("models from code"), so that the model loads
without this repository and without unpickling. MLflow puts that copy first on `sys.path`. Only a process that has
already imported another skinlib continues to use that one, because Python imports a package once.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from numpy.typing import ArrayLike

from skinlib import machine
from skinlib.data import images
from skinlib.data.manifest import CLASSES
from skinlib.errors import DataError
from skinlib.evaluation import calibration
from skinlib.networks import inference, resnet
from skinlib.serving.settings import ClassifierSettings


class SkinLesionClassifier(PythonModel):
    """A trained network with its preprocessing, temperature and operating point.

    Attributes:
        settings: as given to `save`, and the names of the `classes`.
    """

    def load_context(self, context: PythonModelContext) -> None:
        """Build the network from the artifacts that `save` wrote, on a GPU if there is one."""
        self.settings: ClassifierSettings = json.loads(Path(context.artifacts["config"]).read_text())
        with np.load(context.artifacts["weights"], allow_pickle=False) as weights:
            network = resnet.restore(self.settings["architecture"], weights)
        # torch counts the cores of the machine, a container may use fewer.
        torch.set_num_threads(min(torch.get_num_threads(), machine.cores()))
        self.network = network.to("cuda" if torch.cuda.is_available() else "cpu")

    def predict(
        self,
        context: PythonModelContext | None,
        model_input: np.ndarray,
        params: dict[str, object] | None = None,
    ) -> pd.DataFrame:
        """Classify photographs.

        Args:
            context: not used.
            model_input: RGB pixels, uint8 (N, H, W, 3) of any size, or what NumPy converts to that, such as a
                list of images; one image (H, W, 3) is a batch of one.
            params: not used.

        Returns:
            One row per image: `probability` (of malignancy), float64 in 0..1, after temperature scaling, and
            `malignant`, bool, whether the probability reaches the threshold.

        Raises:
            DataError: the input has another type or shape.
        """
        batch = _as_batch(model_input)
        fitted = np.stack([images.fit(image) for image in batch]) if len(batch) else batch
        uncalibrated = inference.predict(self.network, fitted, self.settings["image_size"])
        probability = calibration.calibrate(uncalibrated, self.settings["temperature"])
        return pd.DataFrame({"probability": probability, "malignant": probability >= self.settings["threshold"]})


def save(directory: Path, weights: Mapping[str, np.ndarray], settings: ClassifierSettings) -> dict[str, str]:
    """Write the files that `load_context` reads.

    Args:
        directory: an existing folder.
        weights: the network's state dict by name.
        settings: what the network is served with.

    Returns:
        The paths by artifact name, for MLflow's `artifacts`.
    """
    paths = {"weights": directory / "weights.npz", "config": directory / "config.json"}
    # Not torch.save, which writes a pickle.
    np.savez(paths["weights"], allow_pickle=False, **weights)
    paths["config"].write_text(json.dumps({**settings, "classes": CLASSES}, indent=2))
    return {name: str(path) for name, path in paths.items()}


def _as_batch(model_input: ArrayLike) -> np.ndarray:
    try:
        batch = np.asarray(model_input)
    except ValueError:
        raise DataError(
            "The images differ in size and cannot form one array; pass images of one size together, or one at a time."
        ) from None
    if batch.ndim == 3:
        batch = batch[np.newaxis]
    # Lists of Python integers, as JSON gives them, become int64.
    if batch.dtype == np.int64 and batch.size and batch.min() >= 0 and batch.max() <= 255:
        batch = batch.astype(np.uint8)
    if batch.dtype != np.uint8 or batch.ndim != 4 or batch.shape[3] != 3 or 0 in batch.shape[1:]:
        raise DataError(
            f"The classifier takes RGB images as uint8 (N, H, W, 3), not {batch.dtype} {batch.shape}; "
            "pass the pixels as they were read, 0 to 255, with the colour axis last."
        )
    return batch


set_model(SkinLesionClassifier())
