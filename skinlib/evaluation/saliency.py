"""Where a network looked: Grad-CAM (Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391), and at which images."""

import numpy as np
import torch
from captum.attr import LayerGradCam
from numpy.typing import NDArray
from torch.nn import functional

from skinlib.networks.inference import to_tensor
from skinlib.networks.resnet import Network


def examples(
    labels: NDArray[np.integer], probabilities: NDArray[np.floating], threshold: float, each: int = 4
) -> NDArray[np.int64]:
    """Choose what to look at: the malignant that were missed, the benign that were called malignant, and successes.

    Args:
        labels: int (N,), 1 is malignant.
        probabilities: float (N,) of malignancy.
        threshold: a probability at or above it is called malignant.
        each: how many of missed, false alarms, found and cleared, the surest calls of each first.

    Returns:
        Their indices in that order, fewer where there are fewer.
    """
    called = probabilities >= threshold
    kinds = [(labels == 1) & ~called, (labels == 0) & called, (labels == 1) & called, (labels == 0) & ~called]
    surest_first = [
        np.flatnonzero(kind)[np.argsort(np.where(called, -probabilities, probabilities)[kind], kind="stable")][:each]
        for kind in kinds
    ]
    return np.concatenate(surest_first)


def grad_cam(
    network: Network, images: NDArray[np.uint8], image_size: int, called: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Say how much each part of an image spoke for what the network called it.

    Grad-CAM of the last residual block, one cell of which covers 32 x 32 of the pixels that the network sees: it
    shows on what part of the picture a call rests, not on what feature, and it is no proof.

    Args:
        network: on any device; left in evaluation mode.
        images: uint8 (N, H, H, 3), few: they are taken as one batch.
        image_size: side in pixels that the network was trained at.
        called: bool (N,), whether each was called malignant: evidence for that is shown, else evidence against.

    Returns:
        float32 (N, H, H) in 0..1, the strongest part of each image being 1; all 0 where nothing spoke for the call.
    """
    network.eval()
    device = next(network.parameters()).device
    pixels = to_tensor(images, image_size, device).float()
    # Not rectified by captum, since evidence against malignancy is what is negative here.
    evidence = LayerGradCam(network, network.backbone.layer4[-1]).attribute(pixels).detach()
    sign = torch.from_numpy(np.where(called, 1.0, -1.0)).to(evidence).view(-1, 1, 1, 1)
    heat = functional.interpolate((sign * evidence).relu(), images.shape[1:3], mode="bilinear")
    heat = heat / heat.amax(dim=(2, 3), keepdim=True).clamp_min(torch.finfo(heat.dtype).tiny)
    return heat.squeeze(1).cpu().numpy()
