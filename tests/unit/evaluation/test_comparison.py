"""The paired comparison of two classifiers."""

import numpy as np
import pytest

from skinlib.evaluation.calibration import reliability
from skinlib.evaluation.comparison import compare
from skinlib.evaluation.metrics import auroc

RNG = np.random.default_rng(0)
LABELS = np.arange(300) % 2
GROUPS = np.arange(300)
GOOD = 1 / (1 + np.exp(-RNG.normal(4 * LABELS - 2, 2)))
WEAK = 1 / (1 + np.exp(-RNG.normal(LABELS - 0.5, 2)))


def test_the_differences_are_those_of_the_reported_metrics() -> None:
    found = compare(LABELS, GOOD, WEAK, GROUPS)
    assert found.auroc["value"] == pytest.approx(auroc(LABELS, GOOD) - auroc(LABELS, WEAK))
    errors = [reliability(LABELS, probabilities, GROUPS)["ece"] for probabilities in (GOOD, WEAK)]
    assert found.calibration_error["value"] == pytest.approx(errors[0] - errors[1])


def test_a_clear_difference_is_better_and_its_reverse_is_not() -> None:
    assert compare(LABELS, GOOD, WEAK, GROUPS).is_better
    assert not compare(LABELS, WEAK, GOOD, GROUPS).is_better


def test_noise_and_identity_are_not_better() -> None:
    noisy = np.clip(GOOD + RNG.normal(0, 0.02, 300), 0, 1)
    assert not compare(LABELS, noisy, GOOD, GROUPS).is_better
    assert not compare(LABELS, GOOD, GOOD, GROUPS).is_better


def test_the_same_order_with_extreme_probabilities_is_calibrated_worse() -> None:
    extreme = np.where(GOOD > 0.5, 0.9 + GOOD / 10, GOOD / 10)
    found = compare(LABELS, extreme, GOOD, GROUPS)
    assert found.is_worse_calibrated
    assert not compare(LABELS, GOOD, extreme, GROUPS).is_worse_calibrated


def test_copies_of_an_image_do_not_make_the_difference_more_certain() -> None:
    once = np.arange(60)
    copied = np.repeat(once, 5)
    apart = compare(LABELS[once], GOOD[once], WEAK[once], once).auroc["interval"]
    together = compare(LABELS[copied], GOOD[copied], WEAK[copied], copied).auroc["interval"]
    assert together == pytest.approx(apart)


def test_perfect_opposite_classifiers_differ_by_more_than_noise() -> None:
    labels = np.arange(40) % 2
    found = compare(labels, labels * 0.8 + 0.1, 0.9 - labels * 0.8, np.arange(40))
    assert found.auroc == {"value": 1.0, "interval": None}
    assert found.is_better
    assert not compare(labels, 0.9 - labels * 0.8, labels * 0.8 + 0.1, np.arange(40)).is_better
