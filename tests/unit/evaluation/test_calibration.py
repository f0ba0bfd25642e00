"""Temperature scaling and the measures of calibration, checked against scikit-learn and torchmetrics."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from torchmetrics.functional.classification import binary_calibration_error

from skinlib.evaluation.calibration import BINS, calibrate, fit_temperature, reliability


def outcomes(n: int, temperature: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and probabilities that become right when they are scaled by the temperature."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, n)
    labels = (rng.random(n) < 1 / (1 + np.exp(-logits))).astype(int)
    return labels, 1 / (1 + np.exp(-logits * temperature))


# Temperature


@pytest.mark.parametrize("temperature", [0.4, 1, 2.5])
def test_the_temperature_is_found_again(temperature: float) -> None:
    assert fit_temperature(*outcomes(20_000, temperature)) == pytest.approx(temperature, rel=0.05)


@pytest.mark.parametrize("temperature", [0.4, 2.5])
def test_the_inverse_temperature_is_the_coefficient_of_a_logistic_regression(temperature: float) -> None:
    labels, probabilities = outcomes(200, temperature)
    malignant, benign = (np.sum(labels == label) for label in (1, 0))
    # A target inside 0 and 1 is that share of an image of one class, and the rest of one of the other.
    targets = np.where(labels == 1, (malignant + 1) / (malignant + 2), 1 / (benign + 2))
    reference = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10).fit(
        np.tile(np.log(probabilities / (1 - probabilities)), 2).reshape(-1, 1),
        np.repeat([1, 0], 200),
        sample_weight=np.concatenate([targets, 1 - targets]),
    )
    assert fit_temperature(labels, probabilities) == pytest.approx(1 / reference.coef_.item(), rel=1e-4)


def test_a_model_without_a_mistake_is_not_made_certain() -> None:
    labels = np.arange(40) // 20
    probabilities = np.where(labels == 1, 0.8, 0.2)
    scaled = calibrate(probabilities, fit_temperature(labels, probabilities))
    assert scaled[labels == 1] == pytest.approx(21 / 22)


def test_scaling_by_one_changes_nothing_and_half_is_never_moved() -> None:
    probabilities = np.array([0, 1e-300, 0.1, 0.5, 0.9, 1])
    assert calibrate(probabilities, 1) == pytest.approx(probabilities)
    assert calibrate(np.array([0.5]), 3) == [0.5]


@settings(derandomize=True)
@given(st.lists(st.floats(0, 1), min_size=2), st.floats(0.1, 10))
def test_scaling_keeps_the_order_and_stays_a_probability(probabilities: list[float], temperature: float) -> None:
    scaled = calibrate(np.sort(probabilities), temperature)
    assert (np.diff(scaled) >= 0).all()
    assert ((scaled >= 0) & (scaled <= 1)).all()


# Reliability


@pytest.mark.parametrize("seed", range(5))
def test_the_calibration_error_is_that_of_torchmetrics(seed: int) -> None:
    labels, probabilities = outcomes(300, 1.5, seed)
    reference = binary_calibration_error(torch.tensor(probabilities), torch.tensor(labels), n_bins=BINS)
    assert reliability(labels, probabilities, np.arange(300))["ece"] == pytest.approx(float(reference), abs=1e-9)


@pytest.mark.parametrize("n", [5, 300])
def test_the_bins_are_scikit_learns_calibration_curve(n: int) -> None:
    labels, probabilities = outcomes(n, 1.5)
    bins = reliability(labels, probabilities, np.arange(n))["bins"]
    observed, predicted = calibration_curve(labels, probabilities, n_bins=BINS)
    assert [each["observed"] for each in bins] == pytest.approx(list(observed))
    assert [each["predicted"] for each in bins] == pytest.approx(list(predicted))
    assert sum(each["n"] for each in bins) == n


def test_a_calibrated_model_shows_no_more_than_noise_in_95_of_100_samples() -> None:
    shown = [reliability(*outcomes(200, 1, seed), np.arange(200)) for seed in range(200)]
    assert 0.9 <= np.mean([each["ece"] <= each["ece_noise"] for each in shown]) <= 0.99


def test_a_model_that_is_too_sure_shows_more_than_noise() -> None:
    shown = reliability(*outcomes(600, 2), np.arange(600))
    assert shown["ece"] > 2 * shown["ece_noise"]


@settings(derandomize=True, deadline=None, max_examples=20)
@given(
    st.lists(st.tuples(st.integers(0, 1), st.floats(0, 1), st.integers(0, 9)), min_size=1, max_size=30),
    st.randoms(use_true_random=False),
)
def test_the_order_of_the_images_does_not_matter(rows: list[tuple[int, float, int]], random) -> None:
    shuffled = random.sample(rows, len(rows))
    first, second = (
        reliability(*(np.array(column) for column in zip(*each, strict=True))) for each in (rows, shuffled)
    )
    assert {**first, "bins": 0} == pytest.approx({**second, "bins": 0})
    for one, other in zip(first["bins"], second["bins"], strict=True):
        assert one == {name: pytest.approx(value) for name, value in other.items()}
