import numpy as np
import pytest
import torch

from skinlib.networks.inference import predict_tensor, resize, to_tensor
from skinlib.networks.network import build


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 224, 224, 3), dtype=np.uint8)


def test_resizing_is_antialiased():
    stripes = torch.zeros(1, 3, 224, 224, dtype=torch.uint8)
    stripes[..., ::2] = 255
    small = resize(stripes, 32)
    # Without antialiasing, every seventh column is kept and the stripes stay.
    assert small.min() > 100
    assert small.max() < 155


def test_resizing_to_the_same_size_changes_nothing(images):
    batch = torch.from_numpy(images).permute(0, 3, 1, 2)
    assert torch.equal(resize(batch, 224), batch)


def test_images_reach_the_device_in_their_order(images):
    whole = to_tensor(images, 64)
    assert torch.equal(to_tensor(images, 64, batch_size=2), whole)
    assert whole.shape == (5, 3, 64, 64)


def test_chosen_images_are_read_in_batches_only(images):
    sizes = []

    class Recorded:
        def __len__(self):
            return len(images)

        def __getitem__(self, index):
            sizes.append(len(index))
            return images[index]

    chosen = np.array([4, 0, 2])
    assert torch.equal(to_tensor(Recorded(), 64, index=chosen, batch_size=2), to_tensor(images[chosen], 64))
    assert sizes == [2, 1]


def test_predicting_in_batches_changes_nothing(images):
    network = build("resnet10")
    tensor = to_tensor(images, 64)
    whole = predict_tensor(network, tensor)
    np.testing.assert_allclose(predict_tensor(network, tensor, batch_size=2), whole, atol=1e-6)
