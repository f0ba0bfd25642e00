"""A small network with fixed weights, for what serves it and what registers it."""

import numpy as np
import pytest
import torch

from skinlib.networks import resnet


@pytest.fixture(scope="module")
def network() -> resnet.Network:
    torch.manual_seed(0)
    return resnet.build("resnet10").eval()


@pytest.fixture(scope="module")
def weights(network: resnet.Network) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in network.state_dict().items()}
