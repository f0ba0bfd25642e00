"""Saliency: the examples to show, and the heat where the network looks."""

import numpy as np
import pytest
import torch

from skinlib.evaluation import saliency
from skinlib.networks import resnet

LABELS = np.array([1, 1, 0, 0, 1, 1, 0, 0])
PROBABILITIES = np.array([0.1, 0.3, 0.9, 0.6, 0.8, 0.95, 0.05, 0.2])


@pytest.fixture(scope="module")
def dark_detector():
    """A network of random weights that scores a black image at 1 and a white one at -1."""
    torch.manual_seed(0)
    network = resnet.build("resnet10").eval()
    patterns = torch.zeros(2, 3, 128, 128)
    patterns[1] = 255
    features = []
    handle = network.backbone.avgpool.register_forward_hook(lambda _, __, out: features.append(out.flatten(1)))
    with torch.inference_mode():
        network(patterns)
    handle.remove()
    towards = torch.linalg.pinv(features[0]) @ torch.tensor([[1.0], [-1.0]])
    with torch.no_grad():
        network.backbone.fc.weight.copy_(towards.T)
        network.backbone.fc.bias.zero_()
    return network


def half_dark(side):
    """A white image, uint8 (224, 224, 3), whose left or right half is black."""
    image = np.full((224, 224, 3), 255, np.uint8)
    image[:, :112] = 0
    return image if side == "left" else image[:, ::-1]


def test_examples_are_the_most_confident_false_and_true_negatives_and_positives():
    assert list(saliency.examples(LABELS, PROBABILITIES, 0.5, each=1)) == [0, 2, 5, 6]


def test_examples_of_a_kind_are_sorted_by_confidence():
    assert list(saliency.examples(LABELS, PROBABILITIES, 0.5)) == [0, 1, 2, 3, 5, 4, 6, 7]


def test_examples_follow_the_threshold():
    assert list(saliency.examples(LABELS, PROBABILITIES, 0.25, each=1)) == [0, 2, 5, 6]
    assert list(saliency.examples(LABELS, PROBABILITIES, 0.01)) == [2, 3, 7, 6, 5, 4, 1, 0]


def test_a_model_without_mistakes_has_correct_examples_only():
    assert list(saliency.examples(LABELS, LABELS.astype(float), 0.5, each=1)) == [0, 2]


def test_heat_has_the_size_of_the_images_and_is_between_0_and_1(dark_detector):
    images = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), dtype=np.uint8)
    heat = saliency.grad_cam(dark_detector, images, 128, np.array([True, False, True]))
    assert (heat.shape, heat.dtype) == ((3, 224, 224), np.float32)
    assert heat.min() >= 0
    assert heat.max() == 1


@pytest.mark.parametrize("dark", ["left", "right"])
def test_evidence_for_malignant_is_where_the_network_looks(dark_detector, dark):
    heat = saliency.grad_cam(dark_detector, half_dark(dark)[None], 128, np.array([True]))[0]
    left, right = heat[:, :112].mean(), heat[:, 112:].mean()
    assert (left > right) == (dark == "left")


def test_evidence_for_benign_is_elsewhere(dark_detector):
    images = np.stack([half_dark("left")] * 2)
    for_malignant, for_benign = saliency.grad_cam(dark_detector, images, 128, np.array([True, False]))
    assert for_malignant[:, :112].mean() > for_benign[:, :112].mean()
    assert for_benign[:, 112:].mean() > for_malignant[:, 112:].mean()


def test_the_heat_of_an_image_does_not_depend_on_the_other_images(dark_detector):
    images, positive = np.stack([half_dark("left"), half_dark("right")]), np.array([True, False])
    together = saliency.grad_cam(dark_detector, images, 128, positive)
    alone = saliency.grad_cam(dark_detector, images[1:], 128, positive[1:])
    assert together[1] == pytest.approx(alone[0], abs=1e-4)


def test_heat_without_any_evidence_is_zero(dark_detector):
    blind = resnet.build("resnet10")
    blind.load_state_dict(dark_detector.state_dict())
    torch.nn.init.zeros_(blind.backbone.fc.weight)
    assert saliency.grad_cam(blind, half_dark("left")[None], 64, np.array([True])).max() == 0


def test_gradients_are_not_left_in_the_network(dark_detector):
    saliency.grad_cam(dark_detector, half_dark("left")[None], 64, np.array([True]))
    assert all(parameter.grad is None for parameter in dark_detector.parameters())
