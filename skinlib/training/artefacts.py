"""Traces of cameras and clinics, added to training images at random, so that they tell nothing about the class.

In collections of dermoscopic images, sharpness, dark corners, rulers and hairs differ between the sources, and the
sources between the classes. A network learns such shortcuts, and fails where they are missing. Drawn for both classes
alike, they carry no information.
"""

import math

import torch
from torch.nn import functional

_HAIRS = 5  # at most, per image
_HAIR_COLOUR = (40.0, 28.0, 22.0)


def add_artefacts(images: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
    """Lower the resolution, blur, draw hairs and a ruler, darken the corners and add noise, each for a share of images.

    Args:
        images: float32 (N, 3, S, S) in 0..255.
        strength: From 0 to 1, share of images that get an artefact, as a part of the largest shares.
        generator: A CPU generator.

    Returns:
        float32 (N, 3, S, S) in 0..255.
    """
    draw = _Draw(len(images), strength, generator, images.device)
    for add in (_lower_resolution, _blur, _draw_hairs, _draw_ruler, _darken_corners, _add_noise):
        images = add(images, draw)
    return images.clamp(0, 255)


class _Draw:
    """Random numbers for the images of a batch, uniform in 0..1."""

    def __init__(self, n: int, strength: float, generator: torch.Generator, device: torch.device) -> None:
        self.n, self.strength, self.generator, self.device = n, strength, generator, device

    def __call__(self, *shape: int) -> torch.Tensor:
        """Draw numbers (N, *shape, 1, 1)."""
        return torch.rand((self.n, *(shape or (1,)), 1, 1), generator=self.generator).to(self.device)

    def chosen(self, share: float) -> torch.Tensor:
        """Choose a share of the images at strength 1, bool (N, 1, 1, 1)."""
        return self() < share * self.strength

    def normal(self, images: torch.Tensor) -> torch.Tensor:
        """Draw standard normal numbers in the shape of `images`."""
        return torch.randn(images.shape, generator=self.generator).to(self.device)


def _lower_resolution(images: torch.Tensor, draw: _Draw) -> torch.Tensor:
    """Reduce and enlarge, by a factor of up to 2.9 that is log-uniform and the same for a quarter of the batch."""
    side, parts = images.shape[-1], []
    for part in images.chunk(4):
        factor, used = torch.rand(2, generator=draw.generator).tolist()
        small = max(24, int(side * 0.35**factor))
        if used < 0.6 * draw.strength and small < side:
            reduced = functional.interpolate(part, size=(small, small), mode="bilinear", antialias=True)
            part = functional.interpolate(reduced, size=(side, side), mode="bilinear")
        parts.append(part)
    return torch.cat(parts)


def _blur(images: torch.Tensor, draw: _Draw) -> torch.Tensor:
    """Blur with a Gaussian of 0.3 to 1.5 pixels."""
    n, channels, side, _ = images.shape
    radius, sigma = 4, 0.3 + 1.2 * draw().view(n, 1)
    kernel = torch.exp(-(torch.arange(-radius, radius + 1, device=images.device) ** 2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)[:, None]
    flat, groups = images.reshape(1, n * channels, side, side), n * channels  # each image has a kernel of its own
    wide = functional.pad(flat, (radius,) * 4, mode="reflect")
    blurred = functional.conv2d(
        functional.conv2d(wide, kernel[:, :, None], groups=groups), kernel[..., None], groups=groups
    )
    return torch.where(draw.chosen(0.3), blurred.view_as(images), images)


def _draw_hairs(images: torch.Tensor, draw: _Draw) -> torch.Tensor:
    """Draw up to five dark curves."""
    side = images.shape[-1]
    along, across = _turned(side, math.pi * draw(_HAIRS))
    distance = (across - (2 * draw(_HAIRS) - 1) - (draw(_HAIRS) - 0.5) * along**2).abs()
    width = (0.5 + draw(_HAIRS)) / side
    cover = (1.5 - distance / width).clamp(0, 1) * (draw(_HAIRS) < 0.6) * draw.chosen(0.3)
    cover = 0.8 * (1 - (1 - cover).prod(1, keepdim=True))
    colour = torch.tensor(_HAIR_COLOUR, device=images.device).view(1, 3, 1, 1) * (0.5 + 2 * draw())
    return images * (1 - cover) + cover * colour


def _draw_ruler(images: torch.Tensor, draw: _Draw) -> torch.Tensor:
    """Draw the marks of a ruler near an edge, longer ones at each fifth, sometimes on a white strip."""
    side = images.shape[-1]
    along, across = _turned(side, 2 * math.pi * draw())
    edge, spacing = 0.45 + 0.5 * draw(), 0.06 + 0.12 * draw()
    number = (along / spacing).round()
    length = (0.06 + 0.06 * (number % 5 == 0)) * (0.7 + 0.8 * draw())
    in_band = (across > edge - length) & (across < edge)
    mark = in_band & ((along - number * spacing).abs() < 1.2 / side)
    strip = (across > edge - length) & (across < edge + 0.15) & (draw() < 0.3)
    shade = torch.where(draw() < 0.7, 30.0, 230.0)
    chosen = draw.chosen(0.3)
    images = torch.where(strip & chosen, 0.3 * images + 0.7 * 235, images)
    return torch.where(mark & chosen, 0.3 * images + 0.7 * shade, images)


def _darken_corners(images: torch.Tensor, draw: _Draw) -> torch.Tensor:
    """Darken what is far from a point near the centre, softly like a lens or sharply like a round aperture."""
    x, y = _turned(images.shape[-1], torch.zeros_like(draw()))
    distance = torch.hypot(x - 0.3 * (2 * draw() - 1), y - 0.3 * (2 * draw() - 1))
    radius, softness = 0.85 + 0.5 * draw(), 0.03 + 0.4 * draw()
    light = ((radius - distance) / softness + 0.5).clamp(0, 1)
    return images * (1 - draw.chosen(0.3) * (1 - light) * (0.4 + 0.6 * draw()))


def _add_noise(images: torch.Tensor, draw: _Draw) -> torch.Tensor:
    """Add Gaussian noise of up to 12 of 255."""
    return images + 12 * draw() * draw.chosen(0.4) * draw.normal(images)


def _turned(side: int, angle: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the coordinates of each pixel, -1 to 1 between the edges, in axes turned by angles (N, K, 1, 1)."""
    axis = torch.linspace(-1, 1, side, device=angle.device)
    x, y = axis[None, None, None, :], axis[None, None, :, None]
    cos, sin = torch.cos(angle), torch.sin(angle)
    return x * cos + y * sin, y * cos - x * sin
