import pytest
import torch

from skinlib.training.augment import augment


@pytest.fixture
def images():
    return torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_without_strength_nothing_changes(images):
    assert torch.equal(augment(images, 0, 0, 0, seeded()), images.float())


@pytest.mark.parametrize("strengths", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (2, 2, 1)])
def test_values_stay_in_range(images, strengths):
    out = augment(images, *strengths, seeded())
    assert out.dtype == torch.float32
    assert out.min() >= 0
    assert out.max() <= 255


def test_it_repeats_with_its_seed(images):
    assert torch.equal(augment(images, 1, 1, 1, seeded(1)), augment(images, 1, 1, 1, seeded(1)))


def test_it_changes_with_its_seed(images):
    assert not torch.equal(augment(images, 1, 1, 0, seeded(1)), augment(images, 1, 1, 0, seeded(2)))


def test_each_image_is_distorted_in_its_own_way():
    same = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8, generator=seeded()).expand(8, 3, 32, 32)
    out = augment(same, 1, 1, 0, seeded())
    assert all(not torch.equal(out[0], other) for other in out[1:])


def test_geometry_leaves_the_colour_of_an_even_image_alone():
    even = torch.full((16, 3, 32, 32), 90, dtype=torch.uint8)
    torch.testing.assert_close(augment(even, 2, 0, 0, seeded()), even.float(), atol=0.01, rtol=0)


def test_colour_leaves_the_place_of_things_alone():
    dot = torch.full((16, 3, 32, 32), 200, dtype=torch.uint8)
    dot[:, :, 5, 7] = 30
    out = augment(dot, 0, 1, 0, seeded()).mean(dim=1)
    assert (out.flatten(1).argmin(dim=1) == 5 * 32 + 7).all()


def test_a_mark_turns_to_all_sides():
    mark = torch.zeros((256, 3, 32, 32), dtype=torch.uint8)
    mark[:, :, 14:18, 26:30] = 255
    out = augment(mark, 1, 0, 0, seeded())[:, 0]
    quadrants = [out[:, :16, :16], out[:, :16, 16:], out[:, 16:, :16], out[:, 16:, 16:]]
    weight = torch.stack([q.sum(dim=(1, 2)) for q in quadrants]).argmax(dim=0)
    assert torch.bincount(weight, minlength=4).min() > 256 / 4 * 0.6


def test_erasing_covers_a_box_of_some_images():
    ramp = torch.arange(32, dtype=torch.uint8).mul(8).expand(256, 3, 32, 32)
    from skinlib.training.augment import _erase

    changed = (_erase(ramp.float(), 0.25, seeded()) != ramp).any(dim=1).flatten(1)
    share = changed.any(dim=1).float().mean()
    assert 0.15 < share < 0.35
    assert changed.float().mean(dim=1).max() < 0.34**2 * 1.2


def test_colours_are_changed_step_by_step(images):
    generator = seeded(3)

    def factor(width, channels=1):
        draw = 2 * torch.rand((64, channels, 1, 1), generator=generator).double() - 1
        return (1 + width) ** (1.5 * draw)

    gamma, brightness, white_balance, contrast, saturation = (
        factor(0.3), factor(0.3), factor(0.2, 3), factor(0.3), factor(0.4),
    )  # fmt: skip
    out = (images.double() / 255).clamp(1e-4, 1) ** gamma * brightness * white_balance
    mean = out.mean(dim=(1, 2, 3), keepdim=True)
    out = mean + (out - mean) * contrast
    grey = out.mean(dim=1, keepdim=True)
    out = 255 * (grey + (out - grey) * saturation).clamp(0, 1)
    torch.testing.assert_close(augment(images, 0, 1.5, 0, seeded(3)).double(), out, atol=0.01, rtol=0)
