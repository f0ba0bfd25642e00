"""From packed images to probabilities."""

import numpy as np
import torch
from torch import nn


def resize(images: torch.Tensor, size: int) -> torch.Tensor:
    """Resize square uint8 images (N, 3, H, H) to uint8 (N, 3, size, size), with antialiasing."""
    if images.shape[-1] == size:
        return images
    scaled = nn.functional.interpolate(images.float(), size=(size, size), mode="bilinear", antialias=True)
    return scaled.round_().clamp_(0, 255).to(torch.uint8)


def to_tensor(
    images: np.ndarray,
    size: int,
    device: torch.device | str = "cpu",
    index: np.ndarray | None = None,
    batch_size: int = 256,
) -> torch.Tensor:
    """Copy packed images to a device, at the size of the network's input.

    Args:
        images: uint8 (M, 224, 224, 3); may be a memory map, which is read batch by batch.
        size: Side of the network's input in pixels.
        device: Where the result is stored.
        index: int (N,), the images to copy; all, if it is None.
        batch_size: Number of images that are resized at once.

    Returns:
        uint8 (N, 3, size, size) in channels_last order.
    """
    index = np.arange(len(images)) if index is None else index
    out = torch.empty((len(index), 3, size, size), dtype=torch.uint8, device=device, memory_format=torch.channels_last)
    for start in range(0, len(index), batch_size):
        batch = torch.from_numpy(np.array(images[index[start : start + batch_size]])).to(device)
        out[start : start + batch_size] = resize(batch.permute(0, 3, 1, 2), size)
    return out


@torch.inference_mode()
def predict_tensor(network: nn.Module, images: torch.Tensor, batch_size: int = 64) -> np.ndarray:
    """Predict the probability of malignancy, float64 (N,), of uint8 images (N, 3, S, S) on the network's device.

    The network runs in float32 whatever the precision of the training, so that reported figures are those of the
    served model.
    """
    network.eval()
    logits = [network(images[i : i + batch_size]).double() for i in range(0, len(images), batch_size)]
    return torch.sigmoid(torch.cat(logits)).cpu().numpy()
