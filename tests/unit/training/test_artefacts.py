"""Artefacts: each changes what it says, and only in its share of the images."""

import pytest
import torch

from skinlib.training import artefacts
from skinlib.training.artefacts import add_artefacts


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(images, strength=1.0):
    return artefacts._Draw(len(images), strength, seeded(), images.device)


@pytest.fixture(scope="module")
def images():
    return 255 * torch.rand((200, 3, 64, 64), generator=seeded(1))


@pytest.fixture(scope="module")
def grey():
    return torch.full((200, 3, 64, 64), 128.0)


def changed(before, after):
    """The share of images that differ."""
    return (before != after).flatten(1).any(1).float().mean().item()


@pytest.mark.parametrize(
    ("add", "share"),
    [
        (artefacts._blur, 0.3),
        (artefacts._draw_hairs, 0.3),
        (artefacts._draw_ruler, 0.3),
        (artefacts._darken_corners, 0.3),
        (artefacts._add_noise, 0.4),
    ],
)
@pytest.mark.parametrize("strength", [0.5, 1])
def test_each_artefact_changes_its_share_of_the_images(images, add, share, strength):
    assert changed(images, add(images, draw(images, strength))) == pytest.approx(share * strength, abs=0.08)


def test_blur_and_lower_resolution_remove_detail_and_keep_the_mean(images):
    for add in (artefacts._blur, artefacts._lower_resolution):
        out = add(images, draw(images))
        assert out.mean().item() == pytest.approx(images.mean().item(), rel=0.01)
        assert out.std() < images.std()


def test_dark_corners_leave_the_centre(grey):
    out = artefacts._darken_corners(grey, draw(grey))
    assert out[..., :8, :8].mean() < out[..., 28:36, 28:36].mean() - 10
    assert (out <= grey + 0.01).all()


def test_hairs_are_dark_and_thin(grey):
    out = artefacts._draw_hairs(grey, draw(grey))
    touched = (out != grey).any(1).float().mean((1, 2))
    assert 0 < touched.max() < 0.5
    assert out.min() < 80


def test_the_mean_of_both_classes_stays_the_same_without_strength(images):
    assert torch.equal(add_artefacts(images, 0.0, seeded()), images)
