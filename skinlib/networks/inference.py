"""From packed images to probabilities."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import nn

from skinlib.data.storage import map_ahead

_READERS = 2  # threads; each batch waits for the disk, and there are two batches for each thread


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
        batch = torch.from_numpy(np.array(images[index[start : start + batch_size]]))
        out[start : start + batch_size] = _place(batch, size, device)
    return out


def _place(batch: torch.Tensor, size: int, device: torch.device | str) -> torch.Tensor:
    return resize(batch.to(device, non_blocking=True).permute(0, 3, 1, 2), size)


class Streamed:
    """Packed images that do not fit on the device: each batch is read, copied and resized when it is needed.

    The pixels are those of `to_tensor`, to the bit.
    """

    def __init__(self, images: np.ndarray, size: int, device: torch.device | str, index: np.ndarray) -> None:
        """Take what `to_tensor` takes, and read nothing yet."""
        self._images, self._size, self._index, self.device = images, size, index, torch.device(device)

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, rows: slice) -> torch.Tensor:
        """Read some images, uint8 (n, 3, size, size)."""
        return to_tensor(self._images, self._size, self.device, self._index[rows])

    def batches(self, order: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Yield the images of each batch, uint8 (n, 3, size, size), while threads read the next ones.

        Args:
            order: The rows of each batch, int64 (n,).
        """

        def read(rows: torch.Tensor) -> torch.Tensor:
            batch = torch.from_numpy(self._images[self._index[rows.numpy()]])
            return batch.pin_memory() if self.device.type == "cuda" else batch

        for batch in map_ahead(read, order, _READERS):
            yield _place(batch, self._size, self.device)


@torch.inference_mode()
def predict_tensor(network: nn.Module, images: torch.Tensor | Streamed, batch_size: int = 64) -> np.ndarray:
    """Predict the probability of malignancy, float64 (N,), of uint8 images (N, 3, S, S) on the network's device.

    The network runs in float32 whatever the precision of the training, so that reported figures are those of the
    served model.
    """
    network.eval()
    logits = [network(images[i : i + batch_size]).double() for i in range(0, len(images), batch_size)]
    return torch.sigmoid(torch.cat(logits)).cpu().numpy()
