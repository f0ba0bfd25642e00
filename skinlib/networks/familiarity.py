"""Familiarity: does an image look like training images that the network could learn from?

The features are the mean and the logarithm of the standard deviation of each channel after the first two stages: they
describe colour and texture, while the last stages keep little more than the two classes. They answer two questions:

- Is the image unlike all training images (*unfamiliar*)? Its Mahalanobis distance to them tells, without classes
  (arXiv:1807.03888).
- Is it like those of a source that has images of one class only (*unsupported*)? The network may know such a source
  by its camera and has never had to tell its lesions apart. A logistic regression tells these sources from the others.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from skinlib.networks.inference import to_tensor
from skinlib.networks.network import Network

STAGES = 2
QUANTILE = 0.95  # of the validation images; beyond it, an image is unfamiliar or unsupported
_PENALTY = 0.03  # scikit-learn's C: there are more features than the rarest sources have images


class Familiarity(nn.Module):
    """Measures how well the training images support an answer.

    Attributes:
        mean: float32 (F,), of the training images' features.
        whitening: float32 (F, F); the features' covariance is the unit matrix after it, and the limit is 1.
        direction: float32 (F,), towards the sources of one class; zero if every source has both.
        offset: float32 (), so that 0 is the limit along `direction`.
    """

    mean: torch.Tensor
    whitening: torch.Tensor
    direction: torch.Tensor
    offset: torch.Tensor

    def __init__(
        self,
        mean: NDArray[np.float64],
        whitening: NDArray[np.float64],
        direction: NDArray[np.float64],
        offset: float,
    ) -> None:
        super().__init__()
        values = {"mean": mean, "whitening": whitening, "direction": direction, "offset": offset}
        for name, value in values.items():
            self.register_buffer(name, torch.from_numpy(np.asarray(value, np.float32)))

    def forward(self, stages: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Measure the output of `Network.stages`.

        Returns:
            Unfamiliarity, float32 (N,): the distance in units of its limit, above 1 an image is unfamiliar; and the
            log-odds of a source of one class less their limit, float32 (N,): above 0 an image is unsupported.
        """
        features = channel_statistics(stages) - self.mean
        return (features @ self.whitening).square().sum(1).sqrt(), features @ self.direction + self.offset


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
    unsupported: NDArray[np.bool_],
) -> Familiarity:
    """Fit the distance to the training images, and the limits to the validation images.

    Args:
        network: The trained network.
        images: The packed set, uint8 (N, 224, 224, 3); may be a memory map.
        image_size: Side of the network's input in pixels.
        train: Indices of the images that the distance is measured from.
        validation: Indices of the images that set the limits: 5% of them are unfamiliar, and 5% of those from sources
            with both classes are unsupported.
        unsupported: bool (N,), whether each image is from a source that has one class only.
    """
    from sklearn.covariance import LedoitWolf
    from sklearn.linear_model import LogisticRegression

    @torch.inference_mode()
    def features(index: NDArray[np.int64]) -> NDArray[np.float64]:
        device = next(network.parameters()).device
        parts = []
        for i in range(0, len(index), 64):
            stages = network.eval().stages(to_tensor(images, image_size, device, index[i : i + 64]))
            parts.append(channel_statistics(stages).double().cpu().numpy())
        return np.concatenate(parts)

    known, held_out = features(train), features(validation)
    scale = known.std(0) + 1e-6  # shrinkage towards the unit matrix needs features of one scale
    covariance = LedoitWolf().fit((known - known.mean(0)) / scale)
    whitening = np.linalg.cholesky(covariance.precision_) / scale[:, None]
    distances = np.linalg.norm((held_out - known.mean(0)) @ whitening, axis=1)
    direction, offset = np.zeros(known.shape[1]), -1.0
    if unsupported[train].any():
        model = LogisticRegression(C=_PENALTY, max_iter=1000).fit((known - known.mean(0)) / scale, unsupported[train])
        direction = model.coef_[0] / scale
        held_out_too = not unsupported[validation].all()
        supported = held_out[~unsupported[validation]] if held_out_too else known[~unsupported[train]]
        offset = -float(np.quantile((supported - known.mean(0)) @ direction, QUANTILE))
    return Familiarity(known.mean(0), whitening / np.quantile(distances, QUANTILE), direction, offset)
