"""How far a metric can be trusted: 95% intervals, and the paired difference of two AUROCs."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2_000
_LEVEL = 0.95
_Z = 1.959963984540054  # the normal distribution's 97.5% quantile
_BATCH_ELEMENTS = 1 << 21  # of float64: 16 MB per array for any number of images


class Estimate(TypedDict):
    """A metric with its 95% interval [low, high]; None where it is undefined."""

    value: float | None
    interval: list[float] | None


def estimate(value: float, low: float, high: float) -> Estimate:
    """Make an estimate from numbers that may be NaN.

    An interval without width becomes None: the resamples could not differ, for example because the classes separate
    perfectly, which does not make the value certain.
    """
    known = low < high
    return {
        "value": None if math.isnan(value) else float(value),
        "interval": [float(low), float(high)] if known else None,
    }


def is_above_zero(estimate: Estimate) -> bool:
    """Return whether a difference is above zero by more than noise: its whole interval is."""
    return estimate["interval"] is not None and estimate["interval"][0] > 0


def batches(rows: int, columns: int) -> Iterator[int]:
    """Cut the rows of a table into batches that fit in memory, and yield the size of each."""
    size = max(1, _BATCH_ELEMENTS // max(1, columns))
    for start in range(0, rows, size):
        yield min(size, rows - start)


def bootstrap(
    statistics: Callable[[NDArray[np.float64]], dict[str, NDArray[np.float64]]],
    groups: NDArray[np.int64],
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, NDArray[np.float64]]:
    """Resample groups of images with replacement, and take the percentiles of statistics.

    Args:
        statistics: maps weights, float (B, N), how often each image is drawn in each of B resamples, to arrays (B,)
            or (B, K) by name; NaN where a resample leaves a statistic undefined.
        groups: int (N,); images of a group are drawn together.
        seed: the resamples depend on it and on the groups only, not on the order of the images.
        resamples: how many.

    Returns:
        Arrays (3,) or (3, K) by name: the value for the images themselves, and the ends of its interval. The ends are
        NaN if more than 5% of the resamples leave the statistic undefined, because the others are a biased choice.
    """
    _, group = np.unique(groups, return_inverse=True)
    n_groups = int(group.max()) + 1
    rng = np.random.default_rng(seed)
    drawn: list[dict[str, NDArray[np.float64]]] = []
    for size in batches(resamples, len(groups)):
        picked = rng.integers(n_groups, size=(size, n_groups)) + np.arange(size)[:, np.newaxis] * n_groups
        times = np.bincount(picked.ravel(), minlength=size * n_groups).reshape(size, n_groups)
        drawn.append(statistics(times[:, group].astype(np.float64)))
    out = {}
    for name, [value] in statistics(np.ones((1, len(groups)))).items():
        values = np.concatenate([batch[name] for batch in drawn])
        undefined = np.isnan(values)
        values = np.where(undefined.all(axis=0), 0, values)  # nanquantile warns if all are NaN
        low, high = np.nanquantile(values, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2], axis=0)
        usable = undefined.mean(axis=0) <= 0.05
        out[name] = np.stack([value, np.where(usable, low, np.nan), np.where(usable, high, np.nan)])
    return out


def share(hits: NDArray[np.bool_], groups: NDArray[np.int64]) -> Estimate:
    """Estimate the share of hits, with Wilson's score interval (1927, doi:10.1080/01621459.1927.10502953).

    Unlike a bootstrap interval, it is correct near 0 and 1: 20 hits among 20 do not prove 100%.

    Args:
        hits: bool (N,).
        groups: int (N,); the images of a group count as fully dependent, so the interval is rather too wide. With
            m images per group it is the interval for sum(m) ** 2 / sum(m ** 2) observations, the effective sample size
            (Kish 1965, Survey Sampling), which is the number of groups if all have the same size.
    """
    return estimate(*_wilson(hits, groups))


def _wilson(hits: NDArray[np.bool_], groups: NDArray[np.int64]) -> tuple[float, float, float]:
    if not len(hits):
        return math.nan, math.nan, math.nan
    sizes = np.unique(groups, return_counts=True)[1]
    p, n = float(np.mean(hits)), float(sizes.sum() ** 2 / (sizes**2).sum())
    centre = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2)) / (1 + _Z**2 / n)
    # Float rounding would give 1e-17 instead of 0.
    return p, 0.0 if p == 0 else centre - half, 1.0 if p == 1 else centre + half


def predictive_value(
    right: NDArray[np.bool_],
    right_groups: NDArray[np.int64],
    wrong: NDArray[np.bool_],
    wrong_groups: NDArray[np.int64],
    prevalence: float,
) -> Estimate:
    """Estimate the predictive value of a class at a prevalence other than that of these images.

    With r the share of the images of this class and w the share of the other images that are classified as this class,
    it is 1 / (1 + (1 - prevalence) / prevalence * w / r). The interval is that of w / r by MOVER from the Wilson
    intervals of w and r (Donner and Zou 2012, doi:10.1177/0962280210383082).

    Args:
        right: bool (N,), whether each image of this class is classified as this class.
        right_groups: int (N,), their groups as in `share`.
        wrong: bool (M,), whether each image of the other class is classified as this class.
        wrong_groups: int (M,), their groups.
        prevalence: of this class, in 0..1.
    """
    r, r_low, r_high = _wilson(right, right_groups)
    w, w_low, w_high = _wilson(wrong, wrong_groups)
    if math.isnan(r + w) or r == w == 0:
        return estimate(math.nan, math.nan, math.nan)

    def root(w_end: float, r_end: float) -> float:
        return math.sqrt(max(0.0, (w * r) ** 2 - w_end * r_end * (2 * w - w_end) * (2 * r - r_end)))

    def value(ratio: float) -> float:
        return 1 / (1 + (1 - prevalence) / prevalence * ratio)

    # The paper's formula for the lower end is 0 / 0 if 2 r = r_high; this equal one is not.
    low = w_low * (2 * w - w_low) / (w * r + root(w_low, r_high)) if w else 0.0
    high = (w * r + root(w_high, r_low)) / (r_low * (2 * r - r_low)) if r else math.inf
    return estimate(value(w / r if r else math.inf), value(high), value(low))


@dataclass(frozen=True)
class AurocDifference:
    """Two AUROCs on the same images.

    Attributes:
        second: AUROC of the second scores; None if a class is absent.
        difference: that of the first scores minus `second`.
        standard_error: of the difference; None if a class has fewer than two images.
        interval: 95% [low, high] of the difference; None if it is undefined or the standard error is 0.
    """

    second: float | None
    difference: float | None
    standard_error: float | None
    interval: list[float] | None


def delong(labels: NDArray[np.int64], first: NDArray[np.float64], second: NDArray[np.float64]) -> AurocDifference:
    """Compare two AUROCs on the same images by DeLong's method (1988, doi:10.2307/2531595).

    With midranks it takes n log n steps, not n^2 (Sun and Xu 2014, doi:10.1109/LSP.2014.2337313). Images count as
    independent.

    Args:
        labels: int (N,), 1 is malignant.
        first: float (N,), higher means malignant.
        second: float (N,), other scores of the same images.
    """
    malignant = labels == 1
    n_malignant, n_benign = int(malignant.sum()), int((~malignant).sum())
    if n_malignant == 0 or n_benign == 0:
        return AurocDifference(None, None, None, None)
    (above_a, below_a), (above_b, below_b) = (_placements(malignant, scores) for scores in (first, second))
    a, b = float(above_a.mean()), float(above_b.mean())
    if n_malignant == 1 or n_benign == 1:
        return AurocDifference(b, a - b, None, None)
    variance = np.var(above_a - above_b, ddof=1) / n_malignant + np.var(below_a - below_b, ddof=1) / n_benign
    error = math.sqrt(variance)
    interval = [a - b - _Z * error, a - b + _Z * error] if error else None
    return AurocDifference(b, a - b, error, interval)


def _placements(
    malignant: NDArray[np.bool_], scores: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Share of benign images below each malignant one, and of malignant ones above each benign one; ties count half."""
    from scipy.stats import rankdata

    ranks = rankdata(scores)
    above = (ranks[malignant] - rankdata(scores[malignant])) / (~malignant).sum()
    below = 1 - (ranks[~malignant] - rankdata(scores[~malignant])) / malignant.sum()
    return above, below
