"""A small network with fixed weights, for what serves it and what registers it."""

import numpy as np
import pytest
import torch

from skinlib.networks.network import Network, build
from skinlib.serving.export import export_graph
from tests.unit import results


@pytest.fixture(scope="session")
def network() -> Network:
    torch.manual_seed(0)
    return build("resnet10").eval()


@pytest.fixture(scope="session")
def weights(network: Network) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in network.state_dict().items()}


@pytest.fixture(scope="session")
def graph(weights: dict[str, np.ndarray]) -> bytes:
    """The network as it is served. It is familiar with smooth pictures."""
    return export_graph(weights, results.CLASSIFIER, results.photographs(60), results.FOLDS, np.zeros(60, bool))
