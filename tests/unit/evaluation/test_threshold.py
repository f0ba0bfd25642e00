import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from skinlib.evaluation.metrics import binary_metrics
from skinlib.evaluation.threshold import operating_threshold, uncertain_band

scored = st.lists(st.tuples(st.integers(0, 1), st.floats(0, 1)), min_size=1, max_size=50)


@settings(derandomize=True)
@given(scored.filter(lambda pairs: any(label for label, _ in pairs)), st.sampled_from([0.5, 0.8, 0.9, 0.95, 1.0]))
def test_the_operating_threshold_is_the_highest_that_reaches_the_sensitivity(
    pairs: list[tuple[int, float]], sensitivity: float
) -> None:
    labels, probabilities = (np.array(column) for column in zip(*pairs, strict=True))
    threshold = operating_threshold(labels, probabilities, sensitivity)
    assert binary_metrics(labels, probabilities, threshold)["sensitivity"] >= sensitivity
    assert binary_metrics(labels, probabilities, np.nextafter(threshold, 2))["sensitivity"] < sensitivity


def test_float_rounding_does_not_cost_an_image() -> None:
    # 0.55 * 100 is a little more than 55 in binary.
    assert operating_threshold(np.ones(100), np.arange(100), 0.55) == 45


def test_the_uncertain_band_is_the_widest_in_which_images_are_as_often_wrong_as_right() -> None:
    # Wrong are 0.45 (a missed one) and 0.6; the band with 0.3 and 0.7 is half wrong, a wider one is not.
    probabilities = np.array([0.1, 0.3, 0.45, 0.6, 0.7, 0.9])
    labels = np.array([0, 0, 1, 0, 1, 1])
    assert uncertain_band(labels, probabilities, 0.5) == [0.3, 0.7]


def test_a_classifier_without_errors_is_never_uncertain() -> None:
    assert uncertain_band(np.array([0, 1]), np.array([0.2, 0.8]), 0.5) == [0.5, 0.5]


def test_a_classifier_that_guesses_is_always_uncertain() -> None:
    assert uncertain_band(np.array([0, 1, 0, 1]), np.array([0.0, 0.1, 0.9, 1.0]), 0.5) == [0.0, 1.0]
