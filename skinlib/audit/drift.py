"""Drift: are the colours and scores of new images distributed as those that the model was made with?

The population stability index (PSI) compares two histograms, over the deciles of the reference:
sum((new share - reference share) * ln(new share / reference share)). Below 0.1 is usually called stable, and above 0.25
a shift (N. Siddiqi, Credit Risk Scorecards, Wiley 2006). A few images differ by more than that by chance: for equal
distributions, PSI is distributed as (1 / N + 1 / M) times chi-squared with bins - 1 degrees of freedom (B. Yurdakul,
Statistical Properties of Population Stability Index, 2018), and only what exceeds its 99.9% quantile counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

SOME, LARGE = 0.1, 0.25
_BINS = 10
_CHANCE = 0.999
_UNFAMILIAR = 0.10  # twice the share of the validation images that are unfamiliar by definition

Verdict = Literal["stable", "some drift", "drift"]


class Histogram(TypedDict):
    """How values are distributed: the `counts` of the bins between `edges`; the outer bins are open."""

    edges: list[float]
    counts: list[int]


@dataclass(frozen=True)
class Drift:
    """How far the distribution of one value has moved; `psi` is None without images."""

    name: str
    psi: float | None
    verdict: Verdict


def histogram(values: NDArray[np.float64]) -> Histogram:
    """Describe values, float (N,) with N > 0, by their deciles."""
    edges = np.unique(np.quantile(values, np.arange(1, _BINS) / _BINS)).tolist()
    return {"edges": edges, "counts": count(values, edges).tolist()}


def count(values: NDArray[np.float64], edges: Sequence[float]) -> NDArray[np.int64]:
    """Count values, float (N,), in the bins between K edges: int64 (K + 1,). An edge belongs to the bin above it."""
    return np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1).astype(np.int64)


def compare(name: str, counts: NDArray[np.int64], reference: Histogram) -> Drift:
    """Compare new images, from `count` with the edges of the reference, with the reference."""
    from scipy.stats import chi2

    known = np.array(reference["counts"])
    if not counts.sum():
        return Drift(name, None, "stable")
    new, old = _shares(counts), _shares(known)
    psi = float(np.sum((new - old) * np.log(new / old)))
    chance = chi2.ppf(_CHANCE, len(known) - 1) * (1 / counts.sum() + 1 / known.sum())
    return Drift(name, psi, "stable" if psi < max(SOME, chance) else "some drift" if psi < LARGE else "drift")


def familiarity(n_unfamiliar: int, n: int) -> Verdict:
    """Judge the number of unfamiliar images: drift if their share is above 10%, by more than chance (99.9%)."""
    from scipy.stats import binom

    return "drift" if n_unfamiliar > max(_UNFAMILIAR * n, binom.ppf(_CHANCE, n, _UNFAMILIAR)) else "stable"


def _shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the share of each bin; half an image more in each keeps the logarithm of an empty one finite."""
    return (counts + 0.5) / (counts.sum() + 0.5 * len(counts))
