"""The model as it is served: photographs in, probabilities of malignancy out.

MLflow copies this file and the whole package into a registered model ("models from code"), so that the model
loads where there is no skinlib, and without unpickling. MLflow puts that copy first on `sys.path`; only a
process that has imported another skinlib before keeps using that one, as Python imports a package once.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from skinlib.data import images
from skinlib.errors import DataError
from skinlib.evaluation import calibration
from skinlib.networks import inference, resnet


class SkinLesionClassifier(PythonModel):
    """A trial's winner with its preprocessing, temperature and operating point inside.

    Attributes:
        config: what `save` was given, and the names of the `classes`.
    """

    def load_context(self, context: PythonModelContext) -> None:
        """Build the network from the artifacts that `save` wrote, on a GPU where there is one."""
        self.config: dict[str, Any] = json.loads(Path(context.artifacts["config"]).read_text())
        network = resnet.build(self.config["architecture"])
        with np.load(context.artifacts["weights"], allow_pickle=False) as weights:
            network.load_state_dict({name: torch.from_numpy(weights[name]) for name in weights.files})
        self.network = network.to("cuda" if torch.cuda.is_available() else "cpu").eval()

    def predict(
        self,
        context: PythonModelContext | None,
        model_input: np.ndarray,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Classify photographs.

        Args:
            context: not used.
            model_input: RGB pixels, uint8 (N, H, W, 3) of any size, or what NumPy turns into that, such as a
                list of images; one image (H, W, 3) is taken as a batch of one.
            params: not used.

        Returns:
            A row an image: `probability` (of malignancy), float64 in 0..1, after temperature scaling, and
            `malignant`, bool, whether it reaches the threshold.

        Raises:
            DataError: the input is not of that type or shape.
        """
        batch = _as_batch(model_input)
        fitted = np.stack([images.fit(image) for image in batch]) if len(batch) else batch
        uncalibrated = inference.predict(self.network, fitted, self.config["image_size"])
        probability = calibration.calibrate(uncalibrated, self.config["temperature"])
        return pd.DataFrame({"probability": probability, "malignant": probability >= self.config["threshold"]})


def save(directory: Path, weights: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> dict[str, str]:
    """Write what `load_context` reads.

    Args:
        directory: an existing folder.
        weights: the network's state dict by name.
        config: plain values,
            `architecture`: one of `skinlib.sweep.Architecture`;
            `image_size`: side in pixels that the network was trained at;
            `temperature`: from `calibration.fit_temperature`;
            `threshold`: a calibrated probability at or above it is called malignant;
            `sensitivity`: that the threshold was to have on the validation images;
            `shortcut`: of the training images, from `shortcut.fit`: what the model is compared with elsewhere.

    Returns:
        The paths by artifact name, as MLflow's `artifacts` takes them.
    """
    from skinlib.data.manifest import CLASSES  # Serving goes without it.

    paths = {"weights": directory / "weights.npz", "config": directory / "config.json"}
    # torch.save writes a pickle, if one that can be read safely; this is arrays and nothing else.
    np.savez(paths["weights"], allow_pickle=False, **weights)
    paths["config"].write_text(json.dumps({**config, "classes": CLASSES}, indent=2))
    return {name: str(path) for name, path in paths.items()}


def _as_batch(model_input: Any) -> np.ndarray:
    try:
        batch = np.asarray(model_input)
    except ValueError:
        raise DataError(
            "The images differ in size and make no array; pass those of one size together, or one at a time."
        ) from None
    if batch.ndim == 3:
        batch = batch[np.newaxis]
    # Lists of Python integers, as JSON gives them, become int64.
    if batch.dtype == np.int64 and batch.size and batch.min() >= 0 and batch.max() <= 255:
        batch = batch.astype(np.uint8)
    if batch.dtype != np.uint8 or batch.ndim != 4 or batch.shape[3] != 3 or 0 in batch.shape[1:]:
        raise DataError(
            f"The classifier takes RGB images as uint8 (N, H, W, 3), not {batch.dtype} {batch.shape}; "
            "pass the pixels as they were read, 0 to 255 and colour last."
        )
    return batch


set_model(SkinLesionClassifier())
