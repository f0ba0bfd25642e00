"""The threshold of the decision, chosen on validation images for a sensitivity."""

import math

import numpy as np
from numpy.typing import NDArray


def operating_threshold(labels: NDArray[np.int64], probabilities: NDArray[np.float64], sensitivity: float) -> float:
    """Find the highest threshold that reaches a sensitivity.

    Args:
        labels: int (N,) of validation images, 1 is malignant; at least one image is malignant.
        probabilities: float (N,) in 0..1, after temperature scaling.
        sensitivity: above 0, at most 1.
    """
    malignant = np.sort(probabilities[labels == 1])[::-1]
    return float(malignant[math.ceil(sensitivity * len(malignant) - 1e-9) - 1])
