"""Calibration: reliability of predicted probabilities, and temperature scaling to improve it."""

import math
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from skinlib.evaluation import intervals

BINS = 15
_EDGES = np.linspace(0, 1, BINS + 1)


class Bin(TypedDict):
    """The images whose predicted probability falls into one bin."""

    predicted: float  # mean of the probabilities
    observed: float | None  # share of malignant images
    interval: list[float] | None  # of `observed`, 95% [low, high]
    n: int  # images, at least one


class Reliability(TypedDict):
    """Predicted probabilities compared with labels, in 15 bins of equal width.

    `ece` is the expected calibration error: the mean distance of predicted and observed, weighted by images. For 95% of
    perfectly calibrated models with these probabilities it would be below `ece_noise`. It has no interval, because it
    is biased upward so much that a bootstrap interval misses the true value (with 660 images and a true error of 0.06,
    in more than half of the cases).
    """

    ece: float
    ece_noise: float
    bins: list[Bin]  # those with images, in order


def bin_of(probabilities: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the number of the bin, 0 to 14, of each probability, float (N,) in 0..1."""
    return np.searchsorted(_EDGES[1:-1], probabilities)


def calibrate(probabilities: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """Divide the logits of probabilities, float (N,) in 0..1, by a temperature; their order is never reversed."""
    with np.errstate(divide="ignore", over="ignore"):  # 0 and 1 have infinite logits and do not change
        logits = np.log(probabilities) - np.log1p(-probabilities)
        return np.asarray(1 / (1 + np.exp(-logits / temperature)))


def fit_temperature(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float:
    """Find the temperature with the highest likelihood (Guo et al. 2017, arXiv:1706.04599).

    The targets are Platt's (1999), slightly inside 0 and 1. Otherwise, if the network makes no mistake on these images,
    the probabilities would go to 0 and 1.

    Args:
        labels: int (N,) of validation images, 1 is malignant.
        probabilities: float (N,) in 0..1, as the network predicts them.

    Returns:
        The temperature, in 1/100..100; above 1 if the network is overconfident.
    """
    from scipy.optimize import minimize_scalar

    inside = np.clip(probabilities, 1e-12, 1 - 1e-12)
    logits = np.log(inside) - np.log1p(-inside)
    n_malignant = int((labels == 1).sum())
    n_benign = len(labels) - n_malignant
    targets = np.where(labels == 1, (n_malignant + 1) / (n_malignant + 2), 1 / (n_benign + 2))

    def loss(log_temperature: float) -> float:
        scaled = logits / math.exp(log_temperature)
        return float(np.mean(np.logaddexp(0, scaled) - targets * scaled))

    limit = math.log(100)
    found = minimize_scalar(loss, bounds=(-limit, limit), method="bounded", options={"xatol": 1e-8})
    return math.exp(found.x)


def reliability(
    labels: NDArray[np.int64], probabilities: NDArray[np.float64], groups: NDArray[np.int64]
) -> Reliability:
    """Compare predicted probabilities with labels.

    Args:
        labels: int (N,), 1 is malignant.
        probabilities: float (N,) in 0..1.
        groups: int (N,), as in `intervals.share`.
    """
    order = np.argsort(probabilities)  # so that the noise does not depend on the order of the images
    probabilities, malignant, groups = probabilities[order], labels[order] == 1, groups[order]
    index = bin_of(probabilities)
    member = (index[:, np.newaxis] == np.arange(BINS)).astype(np.float64)

    def error(outcomes: NDArray[np.bool_]) -> NDArray[np.float64]:
        return np.asarray(np.abs((outcomes - probabilities) @ member).sum(axis=1) / len(probabilities))

    rng = np.random.default_rng(0)
    noise = [
        error(rng.random((size, len(probabilities))) < probabilities)
        for size in intervals.batches(intervals.RESAMPLES, len(probabilities))
    ]
    bins: list[Bin] = []
    for each in np.unique(index):
        inside = index == each
        observed = intervals.share(malignant[inside], groups[inside])
        bins.append(
            {
                "predicted": float(probabilities[inside].mean()),
                "observed": observed["value"],
                "interval": observed["interval"],
                "n": int(inside.sum()),
            }
        )
    return {
        "ece": float(error(malignant[np.newaxis])[0]),
        "ece_noise": float(np.quantile(np.concatenate(noise), 0.95)),
        "bins": bins,
    }
