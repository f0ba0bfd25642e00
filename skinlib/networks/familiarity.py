"""Familiarity: does an image look like the training images, as the network sees them?

The Mahalanobis distance of an image's features to those of the training images (arXiv:1807.03888), without classes.
The features are the mean and the logarithm of the standard deviation of each channel after the first two stages: they
describe colour and texture, while the last stages keep little more than the two classes.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from skinlib.networks.inference import to_tensor
from skinlib.networks.resnet import Network

STAGES = 2
QUANTILE = 0.95  # of the validation images' distances; beyond it, an image is unfamiliar


class Familiarity(nn.Module):
    """Maps feature maps to unfamiliarity, float32 (N,): the distance in units of its limit, so that 1 is the limit.

    Attributes:
        mean: float32 (F,), of the training images' features.
        whitening: float32 (F, F); the features' covariance is the unit matrix after it, and the limit is 1.
    """

    mean: torch.Tensor
    whitening: torch.Tensor

    def __init__(self, mean: NDArray[np.float64], whitening: NDArray[np.float64]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(mean.astype(np.float32)))
        self.register_buffer("whitening", torch.from_numpy(whitening.astype(np.float32)))

    def forward(self, stages: list[torch.Tensor]) -> torch.Tensor:
        """Measure the output of `Network.stages`."""
        return ((channel_statistics(stages) - self.mean) @ self.whitening).square().sum(1).sqrt()


def channel_statistics(stages: list[torch.Tensor]) -> torch.Tensor:
    """Return mean and logarithm of the standard deviation of each channel of the first stages, float32 (N, F)."""
    parts = [(maps.mean((2, 3)), maps.flatten(2).std(2, correction=0).add(1e-3).log()) for maps in stages[:STAGES]]
    return torch.cat([statistic for pair in parts for statistic in pair], 1)


def fit(
    network: Network,
    images: NDArray[np.uint8],
    image_size: int,
    train: NDArray[np.int64],
    validation: NDArray[np.int64],
) -> Familiarity:
    """Fit the distance to the training images, and its limit to the validation images.

    Args:
        network: The trained network.
        images: The packed set, uint8 (N, 224, 224, 3); may be a memory map.
        image_size: Side of the network's input in pixels.
        train: Indices of the images that the distance is measured from.
        validation: Indices of the images that set the limit: 5% of them are beyond it.
    """
    from sklearn.covariance import LedoitWolf

    @torch.inference_mode()
    def features(index: NDArray[np.int64]) -> NDArray[np.float64]:
        device = next(network.parameters()).device
        parts = []
        for i in range(0, len(index), 64):
            stages = network.eval().stages(to_tensor(images, image_size, device, index[i : i + 64]))
            parts.append(channel_statistics(stages).double().cpu().numpy())
        return np.concatenate(parts)

    known = features(train)
    scale = known.std(0) + 1e-6  # shrinkage towards the unit matrix needs features of one scale
    covariance = LedoitWolf().fit((known - known.mean(0)) / scale)
    whitening = np.linalg.cholesky(covariance.precision_) / scale[:, None]
    distances = np.linalg.norm((features(validation) - known.mean(0)) @ whitening, axis=1)
    return Familiarity(known.mean(0), whitening / np.quantile(distances, QUANTILE))
