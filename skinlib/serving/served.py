"""A registered model in use: loaded with its own code, whatever version of this project is installed."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skinlib.evaluation.scores import Histograms
from skinlib.serving.classifier import COLUMN, SkinLesionClassifier
from skinlib.serving.settings import ClassifierSettings

_BLOCK = 256  # images; a multiple of the served model's batches, so that blocks change no digit


def table(images: Iterable[object]) -> pd.DataFrame:
    """Return the input of a model: image files or pixels in one column."""
    return pd.DataFrame({COLUMN: pd.Series(list(images), dtype=object)})


@dataclass(frozen=True)
class Served:
    """A registered model.

    Attributes:
        uri: models:/NAME/VERSION.
        settings: What the model is served with.
        seen: Fingerprints of the images that had a part in the model, and of others of the same lesions, uint64 (K,).
        histograms: Of the probabilities of the test images.
        model_card: In Markdown.
        model: An instance of the class in the model's own file.
    """

    uri: str
    settings: ClassifierSettings
    seen: NDArray[np.uint64]
    histograms: Histograms
    model_card: str
    model: SkinLesionClassifier

    def predict(self, images: NDArray[np.uint8]) -> pd.DataFrame:
        """Return the model's answers for packed images.

        Args:
            images: RGB, uint8 (N, 224, 224, 3); a memory map is read in blocks.

        Returns:
            One row for each image; for the columns see `SkinLesionClassifier.predict`.
        """
        blocks = [images[start : start + _BLOCK] for start in range(0, max(1, len(images)), _BLOCK)]
        return pd.concat([self.model.predict(None, table(block)) for block in blocks], ignore_index=True)
