"""The curve of a hair, for the synthetic sample and for the stress test of a classifier."""

import numpy as np
from numpy.typing import NDArray


def curve(rng: np.random.Generator, lean: float, shortest: float) -> NDArray[np.float64]:
    """Draw a slightly bent line at random: a quadratic Bézier curve.

    Args:
        rng: Random generator; the order of its draws must not change, or the sample changes.
        lean: Mean direction of the hairs of an image, in radians.
        shortest: Lower bound of half the length, as a fraction of the image's side; the upper bound is 0.6.

    Returns:
        float64 (24, 2), points x, y as fractions of the side; the middle is inside the image, the ends may not be.
    """
    direction = lean + rng.normal(0, 0.5)
    middle = rng.uniform(0, 1, 2)
    half = rng.uniform(shortest, 0.6) * np.array([np.cos(direction), np.sin(direction)])
    bend = middle + rng.normal(0, 0.15, 2)
    t = np.linspace(0, 1, 24)[:, None]
    return (1 - t) ** 2 * (middle - half) + 2 * t * (1 - t) * bend + t**2 * (middle + half)
