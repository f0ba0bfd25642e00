"""Drift: the population stability index, and what chance alone would give."""

import numpy as np
import pytest

from skinlib.audit import drift

NORMAL = np.random.default_rng(0).normal(size=5000)


def compare(values: np.ndarray, reference: np.ndarray = NORMAL) -> drift.Drift:
    known = drift.histogram(reference)
    return drift.compare("x", drift.count(values, known["edges"]), known)


def test_the_bins_are_the_deciles_of_the_reference() -> None:
    assert drift.histogram(np.arange(1000.0))["counts"] == [100] * 10


def test_a_reference_of_few_distinct_values_has_fewer_bins() -> None:
    assert drift.histogram(np.array([0.0] * 8 + [1.0] * 2))["counts"] == [0, 8, 0, 2]


def test_the_index_is_that_of_the_formula() -> None:
    reference: drift.Histogram = {"edges": [0.0], "counts": [5000, 5000]}
    psi = drift.compare("x", np.array([2000, 8000]), reference).psi
    assert psi == pytest.approx((0.2 - 0.5) * np.log(0.2 / 0.5) + (0.8 - 0.5) * np.log(0.8 / 0.5), abs=1e-3)


@pytest.mark.parametrize(("shift", "verdict"), [(0.1, "stable"), (0.4, "some drift"), (1.0, "drift")])
def test_a_shift_of_a_normal_distribution_is_judged_by_its_size(shift: float, verdict: str) -> None:
    moved = compare(np.random.default_rng(1).normal(shift, size=5000))
    assert moved.psi == pytest.approx(shift**2, rel=0.15)  # a little less for bins than for densities
    assert moved.verdict == verdict


@pytest.mark.parametrize("seed", range(20))
def test_twenty_images_of_the_same_distribution_are_no_drift(seed: int) -> None:
    assert compare(np.random.default_rng(seed).normal(size=20)).verdict == "stable"


def test_without_images_the_index_is_undefined() -> None:
    assert compare(np.zeros(0)) == drift.Drift("x", None, "stable")


@pytest.mark.parametrize(
    ("n_unfamiliar", "n", "verdict"), [(5, 100, "stable"), (30, 100, "drift"), (2, 5, "stable"), (0, 0, "stable")]
)
def test_too_many_unfamiliar_images_are_drift(n_unfamiliar: int, n: int, verdict: str) -> None:
    assert drift.familiarity(n_unfamiliar, n) == verdict
