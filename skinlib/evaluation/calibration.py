"""Whether probabilities mean what they say, and temperature scaling, which makes them so."""

import math
from typing import TypedDict

import numpy as np

from skinlib.evaluation import intervals

BINS = 15
_EDGES = np.linspace(0, 1, BINS + 1)


class Bin(TypedDict):
    """The images of one bin: mean prediction, share of malignant images with its interval, and their number."""

    predicted: float
    observed: float | None
    interval: list[float] | None
    n: int


class Reliability(TypedDict):
    """How predicted probabilities compare with what was observed.

    `ece` is the expected calibration error. 95% of perfectly calibrated models would show less than `ece_noise` on as
    many images. `bins` holds only bins with images.
    """

    ece: float | None
    ece_noise: float | None
    bins: list[Bin]


def calibrate(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Divide the logits of probabilities, float (N,) in 0..1, by a temperature; their order is never reversed."""
    with np.errstate(divide="ignore", over="ignore"):  # 0 and 1 have infinite logits and stay what they are
        logits = np.log(probabilities) - np.log1p(-probabilities)
        return 1 / (1 + np.exp(-logits / temperature))


def fit_temperature(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Find the temperature that makes probabilities likeliest (Guo et al. 2017, arXiv:1706.04599).

    Args:
        labels: int (N,), 1 is malignant; of validation images.
        probabilities: float (N,) in 0..1, as the network gives them.

    Returns:
        The temperature, in 1/100..100: above 1 for a network that is too sure. Targets are Platt's (1999), a little
        inside 0 and 1, since otherwise a network that makes no mistake on these images is made ever surer.
    """
    from scipy.optimize import minimize_scalar

    labels = np.asarray(labels)
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


def reliability(labels: np.ndarray, probabilities: np.ndarray, groups: np.ndarray, seed: int = 0) -> Reliability:
    """Compare predicted probabilities with what was observed, in 15 bins of equal width.

    Args:
        labels: int (N,), 1 is malignant.
        probabilities: float (N,) in 0..1.
        groups: int (N,), as in `intervals.share`.
        seed: of `ece_noise`.

    Returns:
        `ece`: expected calibration error, the mean distance of predicted and observed, weighted by images.
        `ece_noise`: what 95 % of perfectly calibrated models with these probabilities would stay below. The error
        itself is biased upward so far that a bootstrap interval of it misses the truth (with 660 images and a true
        error of 0.06 more often than not), hence it gets none.
        `bins`: of those with images `predicted` (mean), `observed` (share of malignant), `interval` and `n`.
    """
    order = np.argsort(probabilities)  # so that the noise does not depend on the order of the images
    probabilities = np.asarray(probabilities, dtype=np.float64)[order]
    malignant, groups = np.asarray(labels)[order] == 1, np.asarray(groups)[order]
    index = np.searchsorted(_EDGES[1:-1], probabilities)
    member = (index[:, np.newaxis] == np.arange(BINS)).astype(np.float64)

    def error(outcomes: np.ndarray) -> np.ndarray:
        return np.abs((outcomes - probabilities) @ member).sum(axis=1) / len(probabilities)

    rng = np.random.default_rng(seed)
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
