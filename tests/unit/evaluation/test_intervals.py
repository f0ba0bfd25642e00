"""Intervals: that they cover, and that they know what cannot be known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, norm

from skinlib.evaluation.intervals import bootstrap, delong, predictive_value, share
from skinlib.evaluation.metrics import auroc, auroc_estimate

# The bootstrap


def normal_scores(rng: np.random.Generator, n: int, distance: float) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and scores whose true AUROC is Phi(distance / sqrt(2))."""
    labels = (rng.random(n) < 0.45).astype(int)
    return labels, labels * distance + rng.normal(size=n)


def test_the_interval_of_an_auroc_covers_the_true_one_in_95_of_100_draws() -> None:
    rng = np.random.default_rng(0)
    true = norm.cdf(1.5 / np.sqrt(2))
    covered = 0
    for draw in range(500):
        labels, scores = normal_scores(rng, 150, 1.5)
        low, high = auroc_estimate(labels, scores, np.arange(150), seed=draw)["interval"]
        covered += low <= true <= high
    assert 0.93 <= covered / 500 <= 0.97


def test_images_of_a_group_count_once() -> None:
    labels, scores = normal_scores(np.random.default_rng(0), 100, 1)
    groups = np.arange(100)
    once = auroc_estimate(labels, scores, groups)
    twice = auroc_estimate(np.tile(labels, 2), np.tile(scores, 2), np.tile(groups, 2))
    assert twice["value"] == pytest.approx(once["value"])
    assert twice["interval"] == pytest.approx(once["interval"])


def test_many_images_are_resampled_in_batches_that_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, scores = normal_scores(np.random.default_rng(0), 100, 1)
    at_once = auroc_estimate(labels, scores, np.arange(100))
    sizes = []
    monkeypatch.setattr("skinlib.evaluation.intervals._BATCH_ELEMENTS", 100 * 300)

    def mean(weights: np.ndarray) -> dict[str, np.ndarray]:
        sizes.append(len(weights))
        return {"mean": weights @ scores / 100}

    bootstrap(mean, np.arange(100))
    assert sorted(sizes) == [1, 200, *[300] * 6]
    assert auroc_estimate(labels, scores, np.arange(100)) == at_once


def test_classes_that_separate_perfectly_have_no_interval() -> None:
    labels = np.arange(40) // 20
    assert auroc_estimate(labels, labels.astype(float), np.arange(40)) == {"value": 1.0, "interval": None}


def test_a_class_that_many_resamples_lack_has_no_interval() -> None:
    labels = (np.arange(40) == 0).astype(int)
    scores = np.random.default_rng(0).random(40)
    assert auroc_estimate(labels, scores, np.arange(40)) == {
        "value": pytest.approx(auroc(labels, scores)),
        "interval": None,
    }


# Shares


@pytest.mark.parametrize(("hits", "n"), [(81, 263), (15, 148), (0, 20), (1, 29), (7, 7)])
def test_the_interval_of_a_share_is_scipys_wilson_interval(hits: int, n: int) -> None:
    reference = binomtest(hits, n).proportion_ci(method="wilson")
    estimate = share(np.arange(n) < hits, np.arange(n))
    assert estimate == {"value": hits / n, "interval": pytest.approx([reference.low, reference.high])}


def test_a_share_without_misses_is_not_certain() -> None:
    assert share(np.ones(20, dtype=bool), np.arange(20)) == {
        "value": 1,
        "interval": [pytest.approx(0.8389, abs=1e-4), 1],
    }


def test_a_share_of_groups_counts_each_once() -> None:
    hits, groups = np.arange(30) < 12, np.arange(30)
    once, twice = share(hits, groups), share(np.tile(hits, 2), np.tile(groups, 2))
    assert twice == once


@pytest.mark.parametrize("sizes", [[10] * 40 + [1] * 40, [30] + [1] * 70, [2] * 75])
def test_the_interval_of_a_share_covers_the_true_one_in_groups_of_any_size(sizes: list[int]) -> None:
    # Each group has one outcome: nothing could be less independent. Of few large groups not even the error is known.
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(len(sizes)), sizes)
    covered = 0
    for _ in range(1000):
        low, high = share((rng.random(len(sizes)) < 0.8)[groups], groups)["interval"]
        covered += low <= 0.8 <= high
    assert 0.93 <= covered / 1000 <= 0.98


def test_a_share_of_nothing_is_undefined() -> None:
    assert share(np.zeros(0, dtype=bool), np.zeros(0)) == {"value": None, "interval": None}


# Predictive values


def test_predictive_values_follow_bayes() -> None:
    sensitive, alarms = np.arange(100) < 90, np.arange(200) < 40
    for prevalence in (0.02, 0.1, 0.45):
        estimate = predictive_value(sensitive, np.arange(100), alarms, np.arange(200), prevalence)
        assert estimate["value"] == pytest.approx(0.9 * prevalence / (0.9 * prevalence + 0.2 * (1 - prevalence)))
        assert estimate["interval"][0] < estimate["value"] < estimate["interval"][1]


@pytest.mark.parametrize(("sensitivity", "false_alarms"), [(0.95, 0.3), (0.9, 0.02)])
def test_the_interval_of_a_predictive_value_covers_the_true_one(sensitivity: float, false_alarms: float) -> None:
    rng = np.random.default_rng(0)
    true = 0.1 * sensitivity / (0.1 * sensitivity + 0.9 * false_alarms)
    covered = 0
    for _ in range(1000):
        found, alarms = rng.random(150) < sensitivity, rng.random(200) < false_alarms
        low, high = predictive_value(found, np.arange(150), alarms, np.arange(200), 0.1)["interval"]
        covered += low <= true <= high
    assert 0.93 <= covered / 1000 <= 0.98


def test_a_predictive_value_without_false_alarms_is_not_certain() -> None:
    estimate = predictive_value(np.ones(50, bool), np.arange(50), np.zeros(50, bool), np.arange(50), 0.02)
    assert estimate["value"] == 1
    assert estimate["interval"][0] < 0.5
    assert estimate["interval"][1] == 1


def test_a_predictive_value_of_calls_that_are_always_wrong_is_0() -> None:
    estimate = predictive_value(np.zeros(9, bool), np.arange(9), np.ones(9, bool), np.arange(9), 0.1)
    assert estimate["value"] == 0
    assert estimate["interval"][0] == 0
    assert 0 < estimate["interval"][1] < 0.1


@pytest.mark.parametrize("n", [0, 9])
def test_a_predictive_value_of_no_calls_is_undefined(n: int) -> None:
    estimate = predictive_value(np.zeros(n, bool), np.arange(n), np.zeros(9, bool), np.arange(9), 0.1)
    assert estimate == {"value": None, "interval": None}


outcomes = st.lists(st.booleans(), min_size=1, max_size=40).map(np.array)


@settings(derandomize=True)
@given(outcomes, outcomes, st.floats(0.001, 0.999))
def test_a_predictive_value_lies_in_its_interval(right: np.ndarray, wrong: np.ndarray, prevalence: float) -> None:
    estimate = predictive_value(right, np.arange(len(right)), wrong, np.arange(len(wrong)), prevalence)
    if estimate["value"] is not None:
        low, high = estimate["interval"]
        assert 0 <= low <= estimate["value"] + 1e-12
        assert estimate["value"] - 1e-12 <= high <= 1


# DeLong

# The patients of DeLong et al. (1988) without a missing value, as printed in SAS/STAT's example of PROC LOGISTIC:
# albumin, total protein, Krebs-Goplerud score, and whether the patient will benefit from surgery.
PATIENTS_TEXT = """
    3.0 5.8 10 0  3.2 6.3 5 1  3.9 6.8 3 1  2.8 4.8 6 0  3.2 5.8 3 1  0.9 4.0 5 0  2.5 5.7 8 0  1.6 5.6 5 1
    3.8 5.7 5 1   3.7 6.7 6 1  3.2 5.4 4 1  3.8 6.6 6 1  4.1 6.6 5 1  3.6 5.7 5 1  4.3 7.0 4 1  3.6 6.7 4 0
    2.3 4.4 6 1   4.2 7.6 4 0  4.0 6.6 6 0  3.5 5.8 6 1  3.8 6.8 7 1  3.0 4.7 8 0  4.5 7.4 5 1  3.7 7.4 5 1
    3.1 6.6 6 1   4.1 8.2 6 1  4.3 7.0 5 1  4.3 6.5 4 1  3.2 5.1 5 1  2.6 4.7 6 1  3.3 6.8 6 0  1.7 4.0 7 0
    3.7 6.1 5 1   3.3 6.3 7 1  4.2 7.7 6 1  3.5 6.2 5 1  2.9 5.7 9 0  2.1 4.8 7 1  2.8 6.2 8 0  4.0 7.0 7 1
    3.3 5.7 6 1   3.7 6.9 5 1  3.6 6.6 5 1
"""
PATIENTS = np.array(PATIENTS_TEXT.split(), dtype=float).reshape(-1, 4)


@pytest.mark.parametrize(
    ("test", "expected"),
    # As MLstatkit 0.1.91 gives them: both areas, the variance of their difference.
    [
        (0, (0.7365591397849462, 0.7258064516129032, 0.009090405441862261)),
        (1, (0.6478494623655915, 0.7258064516129032, 0.010943166051776873)),
    ],
    ids=["albumin", "total protein"],
)
def test_delong_agrees_with_another_library_on_the_papers_patients(
    test: int, expected: tuple[float, float, float]
) -> None:
    found = delong(PATIENTS[:, 3], PATIENTS[:, test], 10 - PATIENTS[:, 2])
    assert (found.second, found.standard_error**2) == pytest.approx(expected[1:])
    assert found.difference == pytest.approx(expected[0] - expected[1])
    assert found.interval == pytest.approx(found.difference + norm.ppf([0.025, 0.975]) * found.standard_error)


def naive_delong(labels: np.ndarray, first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """The difference and its standard error as DeLong et al. wrote them down: every malignant with every benign."""
    areas, placements = [], []
    for scores in (first, second):
        malignant, benign = scores[labels == 1, None], scores[labels == 0]
        wins = (malignant > benign) + 0.5 * (malignant == benign)
        areas.append(wins.mean())
        placements.append((wins.mean(axis=1), wins.mean(axis=0)))
    (above_a, below_a), (above_b, below_b) = placements
    covariance = np.cov(above_a, above_b) / len(above_a) + np.cov(below_a, below_b) / len(below_a)
    contrast = np.array([1, -1])
    return areas[0] - areas[1], np.sqrt(contrast @ covariance @ contrast)


score = st.integers(0, 20)  # few, so that ties are frequent
twice_scored = st.lists(st.tuples(st.integers(0, 1), score, score), min_size=4, max_size=60).filter(
    lambda rows: 2 <= sum(row[0] for row in rows) <= len(rows) - 2
)


@settings(derandomize=True)
@given(twice_scored)
def test_delong_with_midranks_equals_the_papers_double_sum(rows: list[tuple[int, int, int]]) -> None:
    labels, first, second = np.array(rows).T
    found = delong(labels, first, second)
    difference, error = naive_delong(labels, first, second)
    assert found.difference == pytest.approx(difference, abs=1e-12)
    assert found.standard_error == pytest.approx(error, abs=1e-7)
    assert found.second == pytest.approx(auroc(labels, second))


def test_delong_is_antisymmetric() -> None:
    rng = np.random.default_rng(0)
    labels, first = normal_scores(rng, 80, 1)
    second = first + rng.normal(size=80)
    there, back = delong(labels, first, second), delong(labels, second, first)
    assert (there.difference, there.standard_error) == (-back.difference, back.standard_error)


def test_a_model_does_not_differ_from_itself() -> None:
    labels, scores = normal_scores(np.random.default_rng(0), 50, 1)
    found = delong(labels, scores, 2 * scores + 1)
    assert (found.difference, found.standard_error, found.interval) == (0, 0, None)


def test_delong_is_undefined_without_both_classes() -> None:
    found = delong(np.zeros(3), np.arange(3), np.arange(3))
    assert set(vars(found).values()) == {None}


def test_delong_knows_no_error_of_a_single_malignant_image() -> None:
    found = delong(np.array([0, 0, 1]), np.array([1, 2, 3]), np.array([1, 3, 2]))
    assert (found.difference, found.standard_error, found.interval) == (0.5, None, None)
