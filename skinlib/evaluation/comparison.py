"""Is a classifier better than another on the same images, by more than noise?"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skinlib.evaluation import intervals
from skinlib.evaluation.calibration import BINS, bin_of
from skinlib.evaluation.intervals import Estimate
from skinlib.evaluation.metrics import Ranking


@dataclass(frozen=True)
class Comparison:
    """The first classifier minus the second, on the same images; paired bootstrap over groups, 95%.

    Attributes:
        auroc: Difference of the AUROCs.
        calibration_error: Difference of the expected calibration errors (15 bins).
        is_better: Whether the first one has the higher AUROC by more than noise. Also if both separate the classes
            perfectly, in opposite directions, so that the interval has no width.
        is_worse_calibrated: Whether the first one has the larger calibration error by more than noise.
    """

    auroc: Estimate
    calibration_error: Estimate
    is_better: bool
    is_worse_calibrated: bool


def compare(
    labels: NDArray[np.int64],
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    groups: NDArray[np.int64],
) -> Comparison:
    """Compare the probabilities of two classifiers.

    Args:
        labels: int (N,), 1 is malignant; at least one image.
        first: float (N,) in 0..1, calibrated.
        second: float (N,) in 0..1, calibrated.
        groups: int (N,), equal for images of the same lesion, which are resampled together.
    """
    rankings = [Ranking(labels, probabilities) for probabilities in (first, second)]
    residuals = [_residuals(labels, probabilities) for probabilities in (first, second)]

    def statistics(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        aurocs = [ranking.positives(weights).auroc() for ranking in rankings]
        errors = [np.abs(weights @ residual).sum(axis=1) / weights.sum(axis=1) for residual in residuals]
        return {"auroc": aurocs[0] - aurocs[1], "error": errors[0] - errors[1]}

    drawn = intervals.bootstrap(statistics, groups)
    above_zero = [bool(drawn[name][1] > 0) for name in ("auroc", "error")]  # the lower end; NaN is not above it
    return Comparison(intervals.estimate(*drawn["auroc"]), intervals.estimate(*drawn["error"]), *above_zero)


def _residuals(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return probability minus outcome of each image in the column of its bin, float64 (N, BINS)."""
    return np.where(
        bin_of(probabilities)[:, np.newaxis] == np.arange(BINS), (probabilities - labels)[:, np.newaxis], 0.0
    )
