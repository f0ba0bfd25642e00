import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skinlib.evaluation import binary_metrics

LABELS = np.array([0, 0, 0, 1, 1])
PROBABILITIES = np.array([0.1, 0.5, 0.3, 0.7, 0.2])


def test_the_metrics_of_a_case_done_by_hand():
    assert binary_metrics(LABELS, PROBABILITIES) == {
        "n": 5,
        "n_malignant": 2,
        "threshold": 0.5,
        "auroc": pytest.approx(4 / 6),
        "accuracy": pytest.approx(3 / 5),
        "sensitivity": pytest.approx(1 / 2),
        "specificity": pytest.approx(2 / 3),
    }


def test_a_metric_that_is_undefined_is_none():
    metrics = binary_metrics(np.array([0, 0]), np.array([0.1, 0.9]))
    assert metrics["auroc"] is None
    assert metrics["sensitivity"] is None
    assert metrics["specificity"] == 0.5


scored = st.lists(st.tuples(st.integers(0, 1), st.floats(0, 1)), min_size=1, max_size=50)


@given(scored, st.randoms(use_true_random=False))
def test_the_order_of_the_images_does_not_matter(pairs, random):
    shuffled = random.sample(pairs, len(pairs))
    first, second = (binary_metrics(*map(np.array, zip(*p, strict=True))) for p in (pairs, shuffled))
    assert first == pytest.approx(second)
