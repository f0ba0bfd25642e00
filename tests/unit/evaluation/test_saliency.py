"""Saliency: the examples to show, and the heat where the network looks."""

import numpy as np

from skinlib.evaluation import saliency

LABELS = np.array([1, 1, 0, 0, 1, 1, 0, 0])
PROBABILITIES = np.array([0.1, 0.3, 0.9, 0.6, 0.8, 0.95, 0.05, 0.2])


def test_examples_are_the_most_confident_false_and_true_negatives_and_positives():
    assert list(saliency.examples(LABELS, PROBABILITIES, 0.5, each=1)) == [0, 2, 5, 6]


def test_examples_of_a_kind_are_sorted_by_confidence():
    assert list(saliency.examples(LABELS, PROBABILITIES, 0.5)) == [0, 1, 2, 3, 5, 4, 6, 7]


def test_examples_follow_the_threshold():
    assert list(saliency.examples(LABELS, PROBABILITIES, 0.25, each=1)) == [0, 2, 5, 6]
    assert list(saliency.examples(LABELS, PROBABILITIES, 0.01)) == [2, 3, 7, 6, 5, 4, 1, 0]


def test_a_model_without_mistakes_has_correct_examples_only():
    assert list(saliency.examples(LABELS, LABELS.astype(float), 0.5, each=1)) == [0, 2]


def heat_of(*cells, positive=True):
    return saliency.heat_maps(np.array(cells, np.float32), np.full(len(cells), positive), 224)


def test_heat_has_the_size_of_the_images_and_its_strongest_part_is_1():
    heat = heat_of(*np.random.default_rng(0).normal(size=(3, 4, 4)))
    assert (heat.shape, heat.dtype) == ((3, 224, 224), np.float32)
    assert heat.min() >= 0
    assert heat.max((1, 2)).tolist() == [1, 1, 1]


def test_a_positive_decision_shows_evidence_for_it_and_a_negative_one_evidence_against():
    cells = [[2.0, -1.0], [2.0, -1.0]]
    for_malignant, for_benign = heat_of(cells)[0], heat_of(cells, positive=False)[0]
    assert for_malignant[:, 0].min() == 1
    assert for_malignant[:, -1].max() == 0
    assert for_benign[:, -1].min() == 1
    assert for_benign[:, 0].max() == 0


def test_heat_without_any_evidence_is_zero():
    assert heat_of([[0.0, 0.0], [0.0, -1.0]]).max() == 0
