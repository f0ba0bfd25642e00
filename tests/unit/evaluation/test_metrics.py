"""Metrics, checked against scikit-learn and against definitions written out."""

import doctest

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skinlib.evaluation import metrics
from skinlib.evaluation.calibration import calibrate
from skinlib.evaluation.metrics import auroc, binary_metrics, decision_curve

LABELS = np.array([0, 0, 0, 1, 1])
PROBABILITIES = np.array([0.1, 0.5, 0.3, 0.7, 0.2])


def test_metrics_equal_those_computed_by_hand() -> None:
    assert binary_metrics(LABELS, PROBABILITIES) == {
        "n": 5,
        "n_malignant": 2,
        "threshold": 0.5,
        "auroc": pytest.approx(4 / 6),
        "accuracy": pytest.approx(3 / 5),
        "sensitivity": pytest.approx(1 / 2),
        "specificity": pytest.approx(2 / 3),
    }


def test_undefined_metrics_are_none() -> None:
    found = binary_metrics(np.array([0, 0]), np.array([0.1, 0.9]))
    assert found["auroc"] is None
    assert found["sensitivity"] is None
    assert found["specificity"] == 0.5


scored = st.lists(st.tuples(st.integers(0, 1), st.floats(0, 1)), min_size=1, max_size=50)


@given(scored, st.randoms(use_true_random=False))
def test_metrics_do_not_depend_on_the_order_of_the_images(pairs, random):
    shuffled = random.sample(pairs, len(pairs))
    first, second = (binary_metrics(*map(np.array, zip(*p, strict=True))) for p in (pairs, shuffled))
    assert first == pytest.approx(second)


# A few decimals, so that float rounding in a map cannot make ties.
@settings(derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 100)), min_size=1, max_size=50))
def test_a_monotone_map_does_not_change_the_auroc(pairs: list[tuple[int, int]]) -> None:
    labels, percent = np.array(pairs).T
    expected = auroc(labels, percent / 100)
    for mapped in (np.exp(percent / 10), percent**3, calibrate(percent / 100, 2.5)):
        assert auroc(labels, mapped) == expected


# The operating point


# Decision curve and ranking


def test_net_benefit_is_true_positives_minus_false_positives_at_the_odds_of_the_threshold() -> None:
    rng = np.random.default_rng(0)
    labels, probabilities = rng.integers(0, 2, 300), rng.random(300).round(2)
    for threshold, model, all_malignant in zip(*decision_curve(labels, probabilities).values(), strict=True):
        positive = threshold <= probabilities
        for chosen, benefit in ((positive, model), (np.ones_like(positive), all_malignant)):
            true, false = np.sum(chosen & (labels == 1)), np.sum(chosen & (labels == 0))
            assert benefit == pytest.approx((true - false * threshold / (1 - threshold)) / 300)


def test_the_worked_example_of_a_ranking_holds() -> None:
    assert doctest.testmod(metrics) == (0, 6)
