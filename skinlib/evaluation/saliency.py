"""Saliency: which images to show, and where the network looked in them."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image


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


def heat_maps(evidence: NDArray[np.float32], positive: NDArray[np.bool_], side: int) -> NDArray[np.float32]:
    """Show how much each part of an image contributed to its classification (Grad-CAM, arXiv:1610.02391).

    Each cell of the evidence covers 32 x 32 pixels of the network's input. It shows which part of the picture mattered,
    not which feature, and it is no proof.

    Args:
        evidence: float32 (N, h, w), each cell's part of the logit, from `Network.evidence`.
        positive: bool (N,), whether each image was classified as malignant: if so, evidence for malignancy is shown,
            else evidence against it.
        side: H, of the images in pixels.

    Returns:
        float32 (N, H, H) in 0..1. The strongest part of an image is 1; without any evidence, all of it is 0.
    """
    shown = np.maximum(np.where(positive[:, None, None], evidence, -evidence), 0)
    heat = np.zeros((len(evidence), side, side), np.float32)
    for row, cells in zip(heat, shown, strict=True):
        row[:] = np.asarray(Image.fromarray(cells).resize((side, side), Image.Resampling.BILINEAR))
        row /= max(row.max(), np.finfo(np.float32).tiny)
    return heat
