"""Familiarity: the distance to the training images."""

import numpy as np
import pytest
import torch

from skinlib.networks import familiarity
from skinlib.networks.inference import to_tensor
from skinlib.networks.network import Network
from tests.unit import results


@pytest.fixture(scope="module")
def fitted(network: Network) -> familiarity.Familiarity:
    return familiarity.fit(network, results.photographs(60), 32, np.arange(40), np.arange(40, 60), np.zeros(60, bool))


@torch.inference_mode()
def distances(network: Network, fitted: familiarity.Familiarity, images: np.ndarray) -> np.ndarray:
    return np.asarray(fitted(network.stages(to_tensor(images, 32)))[0])


def test_the_distance_is_mahalanobis_s_in_units_of_the_validation_images_quantile() -> None:
    rng = np.random.default_rng(0)
    mean, whitening = rng.normal(size=4), rng.normal(size=(4, 4))
    maps = [torch.from_numpy(rng.normal(size=(6, 1, 5, 5)).astype(np.float32)) for _ in range(4)]
    features = familiarity.channel_statistics(maps).numpy()
    assert features.shape == (6, 4)
    np.testing.assert_allclose(features[:, 1], np.log(maps[0].numpy().std((1, 2, 3)) + 1e-3), rtol=1e-4)
    expected = np.sqrt(np.einsum("ni,ij,nj->n", features - mean, whitening @ whitening.T, features - mean))
    np.testing.assert_allclose(familiarity.Familiarity(mean, whitening, mean, 0)(maps)[0], expected, rtol=1e-4)


def test_images_like_the_training_images_are_nearer_than_others(
    network: Network, fitted: familiarity.Familiarity
) -> None:
    known = distances(network, fitted, results.photographs(40))
    strange = [np.full((224, 224, 3), value, np.uint8) for value in (0, 128, 255)]
    strange.append(np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8))
    assert known.max() < distances(network, fitted, np.stack(strange)).min()


@torch.inference_mode()
def test_images_like_those_of_a_source_with_one_class_are_unsupported(network: Network) -> None:
    images = results.photographs(80)
    dimmed = np.arange(80) % 2 == 1
    images[dimmed] = images[dimmed] // 2 + 20
    fitted = familiarity.fit(network, images, 32, np.arange(40), np.arange(40, 60), dimmed)
    unsupported = np.asarray(fitted(network.stages(to_tensor(images[60:], 32)))[1]) > 0
    assert unsupported[dimmed[60:]].all()
    assert unsupported[~dimmed[60:]].mean() <= 0.2  # by definition, 5% of the validation images are


@torch.inference_mode()
def test_no_image_is_unsupported_if_every_source_has_both_classes(
    network: Network, fitted: familiarity.Familiarity
) -> None:
    assert (fitted(network.stages(to_tensor(results.photographs(20), 32)))[1] < 0).all()
