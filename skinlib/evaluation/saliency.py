"""Saliency: which images to show, and where the network looked in them."""

import numpy as np
import torch
from captum.attr import LayerGradCam
from numpy.typing import NDArray
from torch.nn import functional

from skinlib.networks.inference import to_tensor
from skinlib.networks.resnet import Network


def examples(
    labels: NDArray[np.int64], probabilities: NDArray[np.float64], threshold: float, each: int = 4
) -> NDArray[np.int64]:
    """Choose false negatives, false positives, true positives and true negatives, the most confident first.

    Args:
        labels: int (N,), 1 is malignant.
        probabilities: float (N,) of malignancy.
        threshold: images with this probability or a higher one are classified as malignant.
        each: how many of each kind, at most.

    Returns:
        Their indices, kind by kind in this order.
    """
    malignant, positive = labels == 1, probabilities >= threshold
    kinds = [malignant & ~positive, ~malignant & positive, malignant & positive, ~malignant & ~positive]
    most_confident_first = np.argsort(np.where(positive, -probabilities, probabilities), kind="stable")
    return np.concatenate([most_confident_first[kind[most_confident_first]][:each] for kind in kinds])


def grad_cam(
    network: Network, images: NDArray[np.uint8], image_size: int, positive: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Compute how much each part of an image contributed to its classification (Grad-CAM, arXiv:1610.02391).

    It uses the last residual block, in which one cell covers 32 x 32 pixels of the network's input. It shows which part
    of the picture mattered, not which feature, and it is no proof.

    Args:
        network: on any device; left in evaluation mode.
        images: uint8 (N, H, H, 3), few enough for one batch.
        image_size: side of the network's input in pixels.
        positive: bool (N,), whether each image was classified as malignant: if so, evidence for malignancy is computed,
            else evidence against it.

    Returns:
        float32 (N, H, H) in 0..1. The strongest part of an image is 1; without any evidence, all of it is 0.
    """
    network.eval()
    device = next(network.parameters()).device
    pixels = to_tensor(images, image_size, device).float()
    # captum must not rectify it, because negative values are evidence against malignancy.
    evidence = LayerGradCam(network, network.backbone.layer4[-1]).attribute(pixels).detach()
    sign = torch.from_numpy(np.where(positive, 1.0, -1.0)).to(evidence).view(-1, 1, 1, 1)
    heat = functional.interpolate((sign * evidence).relu(), images.shape[1:3], mode="bilinear")
    heat = heat / heat.amax(dim=(2, 3), keepdim=True).clamp_min(torch.finfo(heat.dtype).tiny)
    return heat.squeeze(1).cpu().numpy()
