"""The colour baseline: its statistics, its fit, and the distance of other images."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from skinlib.audit import shortcut

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (150, 20, 20, 3), np.uint8)


def test_colours_are_the_mean_and_deviation_of_each_channel():
    found = shortcut.colours(IMAGES)
    expected = [np.r_[image.mean(axis=(0, 1)), image.std(axis=(0, 1))] / 255 for image in IMAGES.astype(np.float64)]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found.shape == (150, len(shortcut.STATISTICS))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.permutations(range(8)), st.integers(0, 3))
def test_colours_do_not_depend_on_order_or_orientation(order, turns):
    # Sums of float32 depend a little on their order.
    turned = np.rot90(IMAGES[:8][list(order)], turns, axes=(1, 2))
    np.testing.assert_allclose(shortcut.colours(turned), shortcut.colours(IMAGES[:8])[list(order)], atol=1e-6)


def made(n: int) -> tuple[np.ndarray, np.ndarray]:
    labels = RNG.integers(0, 2, n)
    return RNG.normal(0.5, 0.1, (n, 6)) + 0.1 * np.outer(labels, [1, 0, 0, 0, 0, 0]), labels


def test_probabilities_are_those_of_a_logistic_regression_on_standardised_colours():
    colours, labels = made(300)
    fit, score = np.arange(200), np.arange(200, 300)
    standardised = (colours - colours[fit].mean(axis=0)) / colours[fit].std(axis=0)
    expected = LogisticRegression().fit(standardised[fit], labels[fit]).predict_proba(standardised[score])[:, 1]
    found = shortcut.probabilities(colours[score], shortcut.fit(colours[fit], labels[fit]))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert 0.65 < roc_auc_score(labels[score], found) < 0.9


def test_a_constant_statistic_is_ignored():
    colours, labels = made(200)
    colours[:, 3] = 0.4
    learnt = shortcut.fit(colours, labels)
    other = colours + np.eye(6)[3]
    np.testing.assert_allclose(shortcut.probabilities(other, learnt), shortcut.probabilities(colours, learnt))


def test_the_fitted_baseline_survives_json():
    colours, labels = made(50)
    learnt = shortcut.fit(colours, labels)
    assert json.loads(json.dumps(learnt)) == learnt


def test_distance_is_in_standard_deviations_of_the_training_images():
    colours, labels = made(1000)
    rows = shortcut.distance(colours + np.eye(6)[0] * 0.3, shortcut.fit(colours, labels))
    assert rows[0]["statistic"] == "mean of red"
    assert rows[0]["deviations"] == pytest.approx(0.3 / colours[:, 0].std())
    assert [row["deviations"] for row in rows[1:]] == pytest.approx([0] * 5)
    assert rows[0]["here"] - rows[0]["training"] == pytest.approx(0.3)


def test_distance_is_undefined_if_the_training_images_do_not_differ():
    rows = shortcut.distance(np.full((4, 6), 0.6), shortcut.fit(np.full((6, 6), 0.5), np.arange(6) % 2))
    assert [row["deviations"] for row in rows] == [None] * 6
