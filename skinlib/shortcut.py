"""What colour alone tells: the baseline that every result stands beside.

On the public images a logistic regression on each image's mean and deviation of red, green and blue reaches an AUROC
of 0.86, though it has seen no lesion. What a network adds to that is what it has learnt of lesions, at most.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

STATISTICS = tuple(f"{what} of {channel}" for what in ("mean", "deviation") for channel in ("red", "green", "blue"))


def colours(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Reduce images to the mean and the standard deviation of their colours.

    Args:
        images: uint8 (N, H, W, 3), a memory map as well: it is read image by image.

    Returns:
        float64 (N, 6) in 0..1, the columns as in `STATISTICS`.
    """
    levels = np.arange(256) / 255
    out = np.zeros((len(images), 6))
    for row, image in zip(out, images, strict=True):
        # From histograms: exact, and twelve times as fast as the pixels as floats.
        share = np.reshape(Image.fromarray(image).histogram(), (3, 256)) / image[..., 0].size
        mean = share @ levels
        row[:] = *mean, *np.sqrt(np.maximum(share @ levels**2 - mean**2, 0))
    return out


def probabilities(
    colours: NDArray[np.float64], labels: NDArray[np.int64], fit: NDArray[np.int64], score: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Predict malignancy from colours alone, by a logistic regression on standardised statistics.

    Args:
        colours: float64 (N, 6), from `colours`.
        labels: int (N,), 1 is malignant.
        fit: int, the images to learn from, which hold both classes.
        score: int (M,), the images to score.

    Returns:
        float64 (M,) in 0..1.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(colours[fit], labels[fit])
    return np.asarray(model.predict_proba(colours[score])[:, 1], np.float64)


def reference(colours: NDArray[np.float64]) -> dict[str, list[float]]:
    """Summarise the training images for `distance`: the `mean` and the `deviation` of each statistic."""
    return {"mean": colours.mean(axis=0).tolist(), "deviation": colours.std(axis=0).tolist()}


def distance(colours: NDArray[np.float64], reference: Mapping[str, list[float]]) -> list[dict[str, Any]]:
    """Say how far images are from those that a model was trained on, as far as colours show it.

    Args:
        colours: float64 (N, 6), N > 0, from `colours`.
        reference: from `reference`.

    Returns:
        A row a statistic: `statistic`; `here` and `training`, its mean over the images; and `deviations`, their
        difference in standard deviations of the training images, None where those do not differ.
    """
    rows = zip(STATISTICS, colours.mean(axis=0), reference["mean"], reference["deviation"], strict=True)
    return [
        {
            "statistic": name,
            "here": float(here),
            "training": training,
            "deviations": (float(here) - training) / deviation if deviation else None,
        }
        for name, here, training, deviation in rows
    ]
