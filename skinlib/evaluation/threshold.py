"""The threshold of the decision and the band of uncertainty around it, chosen on validation images."""

import math
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from skinlib.audit.drift import Histogram, histogram
from skinlib.evaluation.calibration import calibrate, fit_temperature


class Operation(TypedDict):
    """How a classifier is operated; the images at both ends of `uncertain` belong to the band.

    `scores` is how the calibrated probabilities of the validation images are distributed.
    """

    temperature: float
    threshold: float
    uncertain: list[float]
    scores: Histogram


def operate(labels: NDArray[np.int64], uncalibrated: NDArray[np.float64], sensitivity: float) -> Operation:
    """Choose temperature, threshold and band of uncertainty on validation images; arguments as below."""
    temperature = fit_temperature(labels, uncalibrated)
    probabilities = calibrate(uncalibrated, temperature)
    threshold = operating_threshold(labels, probabilities, sensitivity)
    return {
        "temperature": temperature,
        "threshold": threshold,
        "uncertain": uncertain_band(labels, probabilities, threshold),
        "scores": histogram(probabilities),
    }


def operating_threshold(labels: NDArray[np.int64], probabilities: NDArray[np.float64], sensitivity: float) -> float:
    """Find the highest threshold that reaches a sensitivity.

    Args:
        labels: int (N,) of validation images, 1 is malignant; at least one image is malignant.
        probabilities: float (N,) in 0..1, after temperature scaling.
        sensitivity: above 0, at most 1.
    """
    malignant = np.sort(probabilities[labels == 1])[::-1]
    return float(malignant[math.ceil(sensitivity * len(malignant) - 1e-9) - 1])


def uncertain_band(labels: NDArray[np.int64], probabilities: NDArray[np.float64], threshold: float) -> list[float]:
    """Find the widest band around the threshold in which images are as often wrong as right.

    Images are added in the order of the distance between their logit and that of the threshold. The band is the largest
    set in which at least half of the images are on the wrong side of the threshold.

    Args:
        labels: int (N,) of validation images, 1 is malignant.
        probabilities: float (N,) in 0..1, after temperature scaling.
        threshold: Images with this probability or a higher one are classified as malignant.

    Returns:
        The lowest and the highest probability in the band; twice the threshold if no such band exists.
    """
    distance = np.abs(_logit(probabilities) - _logit(np.array(threshold)))
    nearest = np.argsort(distance, kind="stable")
    wrong = (probabilities >= threshold) != (labels == 1)
    share = np.cumsum(wrong[nearest]) / np.arange(1, len(labels) + 1)
    inside = np.flatnonzero(share >= 0.5)
    band = probabilities[nearest[: inside[-1] + 1]] if len(inside) else np.array([threshold])
    return [float(band.min()), float(band.max())]


def _logit(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    inside = np.clip(probabilities, 1e-15, 1 - 1e-15)
    return np.asarray(np.log(inside) - np.log1p(-inside))
