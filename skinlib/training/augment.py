"""Augmentation of a whole batch at once, on the device of the images.

A lesion has no orientation, so every rotation and mirror image is valid. Light and colour change with the camera,
the dermatoscope and the clinic, and a network that never saw such changes fails on another hospital's images.
Therefore geometry, colour and artefacts have a strength of their own.
"""

import math

import torch
from torch.nn import functional

from skinlib.training.artefacts import add_artefacts


def augment(
    images: torch.Tensor, geometry: float, colour: float, artefacts: float, generator: torch.Generator
) -> torch.Tensor:
    """Distort each image of a batch at random.

    Args:
        images: uint8 (N, 3, S, S).
        geometry: Strength of rotation, mirroring, scale, shift and erasing; 0 disables them.
        colour: Strength of brightness, contrast, saturation, gamma and white balance; 0 disables them.
        artefacts: Strength of blur, noise, hairs, rulers and dark corners; 0 disables them.
        generator: A CPU generator; the draws are few, and the same for every device.

    Returns:
        float32 (N, 3, S, S), values in 0..255.
    """
    out = images.float()
    if geometry > 0:
        out = _warp(out, geometry, generator)
    if colour > 0:
        out = _recolour(out, colour, generator)
    if artefacts > 0:
        out = add_artefacts(out, artefacts, generator)
    if geometry > 0:
        out = _erase(out, 0.25 * geometry, generator)
    return out


def _warp(images: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
    """Rotate, mirror, scale and shift in one affine resampling with reflected borders."""
    n = len(images)
    draw = torch.rand((5, n), generator=generator)
    angle = 2 * math.pi * draw[0]
    scale = torch.exp((2 * draw[1] - 1) * 0.25 * strength)
    mirror = torch.where(draw[2] < 0.5, -1.0, 1.0)
    shift = (2 * draw[3:5] - 1) * 0.1 * strength
    cos, sin = scale * torch.cos(angle), scale * torch.sin(angle)
    matrix = torch.stack(
        [torch.stack([mirror * cos, -sin, shift[0]], 1), torch.stack([mirror * sin, cos, shift[1]], 1)], 1
    ).to(images.device)
    grid = functional.affine_grid(matrix, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _recolour(images: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
    """Change gamma, brightness, white balance, contrast and saturation by factors that are log-uniform around 1."""
    n = len(images)

    def factor(width: float, channels: int = 1) -> torch.Tensor:
        draw = 2 * torch.rand((n, channels, 1, 1), generator=generator) - 1
        return torch.exp(draw * math.log(1 + width) * strength).to(images.device)

    gamma, brightness, white_balance = factor(0.3), factor(0.3), factor(0.2, channels=3)
    contrast, saturation = factor(0.3), factor(0.4)
    # exp and log are four times as fast as a power with an exponent for each image.
    values = (images / 255).clamp_(1e-4, 1).log_().mul_(gamma).exp_()
    # Brightness, white balance, contrast around the mean and saturation around the grey of a pixel are all linear: a
    # share of the channel itself, one of all channels, and a constant.
    scale = 255 * brightness * white_balance
    mean = (values.mean(dim=(2, 3), keepdim=True) * scale).mean(dim=1, keepdim=True)
    grey = (values * (contrast * (1 - saturation) / 3 * scale)).sum(dim=1, keepdim=True) + (1 - contrast) * mean
    return torch.addcmul(grey, values, contrast * saturation * scale).clamp_(0, 255)


def _erase(images: torch.Tensor, probability: float, generator: torch.Generator) -> torch.Tensor:
    """Overwrite one box of up to a third of each side with the image's mean, in place (Zhong et al. 2017)."""
    n, _, height, width = images.shape
    draw = torch.rand((5, n), generator=generator)
    chosen = (draw[4] < probability).nonzero().squeeze(1)
    draw, rows_of = draw[:, chosen].to(images.device), chosen.to(images.device)
    box_h, box_w = (0.1 + 0.23 * draw[0]) * height, (0.1 + 0.23 * draw[1]) * width
    top, left = draw[2] * (height - box_h), draw[3] * (width - box_w)
    rows = torch.arange(height, device=images.device)[None, :]
    columns = torch.arange(width, device=images.device)[None, :]
    in_rows = (rows >= top[:, None]) & (rows < (top + box_h)[:, None])
    in_columns = (columns >= left[:, None]) & (columns < (left + box_w)[:, None])
    box = in_rows[:, None, :, None] & in_columns[:, None, None, :]
    erased = images[rows_of]
    images[rows_of] = torch.where(box, erased.mean(dim=(2, 3), keepdim=True), erased)
    return images
