"""The model as it is served: photographs in, probabilities of malignancy out.

A registered model consists of this file and one ONNX graph. `source.code` makes the file complete: it copies the code
that this one imports from skinlib, which decodes photographs, into it. So a model needs neither this project nor torch,
and keeps its own decoding when the project changes.
"""

import base64
import logging
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from numpy.typing import NDArray

from skinlib.data.images import MIN_SIDE, SIDE, decode, fit
from skinlib.errors import DataError
from skinlib.serving.graph import Graph

COLUMN = "image"  # of the input
_BASE64 = re.compile(rb"([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")


class SkinLesionClassifier(PythonModel):
    """A graph and its operating point behind MLflow's interface."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the graph, and let a server log which version it serves."""
        path = Path(context.artifacts["model"])
        self.graph = Graph(str(path))
        registered = path.parents[1] / "registered_model_meta"  # MLflow writes it when it downloads models:/...
        if registered.exists():
            version = ", ".join(registered.read_text().split("\n")).strip(", ")
            logging.getLogger("uvicorn.error").info("Serving %s", version)

    def pixels(self, data: bytes) -> NDArray[np.uint8] | str:
        """Decode an image file to what the graph scores, uint8 (224, 224, 3), or return why it cannot be decoded."""
        images, errors = _read([data])
        return images[0] if images else errors[0]

    def predict(
        self,
        context: PythonModelContext | None,
        model_input: pd.DataFrame,
        params: dict[str, object] | None = None,
    ) -> pd.DataFrame:
        """Classify photographs.

        Args:
            context: Not used.
            model_input: With a column `image`. Each cell is the content of an image file (bytes, or base64 in a
                string), or RGB pixels, uint8 (H, W, 3) in 0..255, at least 32 per side.
            params: Not used.

        Returns:
            One row per image, with the index of the input:

                probability    float64 in 0..1, of malignancy, calibrated
                malignant      whether the probability reaches the threshold
                uncertain      whether it is so close to the threshold that validation images were as often wrong as
                               right
                unfamiliar     whether the image is unlike the training images, so that the answer is worth nothing
                unfamiliarity  float64, the distance behind this; above 1 is unfamiliar
                unsupported    whether the image is like those of a source that had one class only in training, so
                               that the answer may come from the source and not from the lesion
                error          why the image has no answer: then all other columns are None

        Raises:
            MlflowException: There is no column `image`, or not one of the images can be used. MLflow's server answers
                it with HTTP 400.
        """
        if COLUMN not in model_input:
            raise MlflowException(f"The input needs a column '{COLUMN}'.", INVALID_PARAMETER_VALUE)
        images, errors = _read(model_input[COLUMN])
        if errors and not images:
            raise MlflowException(f"No image can be used. {_listed(errors)}.", INVALID_PARAMETER_VALUE)
        scores = self.graph.score(np.stack(list(images.values())) if images else np.zeros((0, SIDE, SIDE, 3), np.uint8))
        low, high = self.graph.settings["uncertain"]
        table = pd.DataFrame(
            {
                "probability": scores.probability,
                "malignant": scores.probability >= self.graph.settings["threshold"],
                "uncertain": (low <= scores.probability) & (scores.probability <= high),
                "unfamiliar": scores.unfamiliarity > 1,
                "unfamiliarity": scores.unfamiliarity,
                "unsupported": scores.unsupported,
                "error": None,
            },
            index=list(images),
        )
        if errors:
            table = table.astype(object).reindex(range(len(model_input)))
            table = table.where(table.notna(), None)
            table.loc[list(errors), "error"] = list(errors.values())
        return table.set_axis(model_input.index)


def _read(cells: Iterable[object]) -> tuple[dict[int, NDArray[np.uint8]], dict[int, str]]:
    """Return the pixels, uint8 (224, 224, 3), of the usable images by position, and the reasons for the others."""
    images, errors = {}, {}
    for position, cell in enumerate(cells):
        try:
            images[position] = _pixels(cell)
        except DataError as error:
            errors[position] = str(error)
    return images, errors


def _pixels(cell: object) -> NDArray[np.uint8]:
    if isinstance(cell, str):
        cell = cell.encode()
        if not _BASE64.fullmatch(cell):
            raise DataError("it is text, but not the base64 of an image file")
    if isinstance(cell, bytes | bytearray | memoryview):
        data = bytes(cell)
        # MLflow decodes base64 in some of its JSON formats only. No image file looks like base64.
        return decode(base64.b64decode(data) if _BASE64.fullmatch(data) else data)
    if not isinstance(cell, np.ndarray):
        raise DataError(f"it is a {type(cell).__name__}; send the content of an image file, in JSON as base64")
    if cell.dtype != np.uint8:
        raise DataError(f"its pixels are {cell.dtype}; pass them as they were read, uint8 from 0 to 255")
    if cell.ndim != 3 or cell.shape[2] != 3 or min(cell.shape[:2]) < MIN_SIDE:
        raise DataError(f"its shape is {cell.shape}; pass (height, width, 3), with at least {MIN_SIDE} pixels per side")
    return fit(cell)


def _listed(errors: dict[int, str]) -> str:
    shown = "; ".join(f"Image {position}: {reason}" for position, reason in list(errors.items())[:3])
    return shown if len(errors) <= 3 else f"{shown}; and {len(errors) - 3} more"


set_model(SkinLesionClassifier())
