import hashlib

import numpy as np
import pytest
import torch
import torchvision

from skinlib import models
from skinlib.errors import ConfigError

ARCHITECTURES = ["resnet10", "resnet18", "resnet34", "resnet50"]


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 224, 224, 3), dtype=np.uint8)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_network_gives_one_logit_an_image(architecture):
    with torch.inference_mode():
        logits = models.build(architecture).eval()(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    assert logits.shape == (2,)


@pytest.mark.parametrize("architecture", ARCHITECTURES[1:])
def test_the_backbone_has_the_weights_of_torchvisions(architecture):
    names = set(torchvision.models.get_model(architecture, num_classes=1).state_dict())
    assert set(models.build(architecture).backbone.state_dict()) == names


@pytest.mark.parametrize("architecture", ARCHITECTURES[1:])
def test_the_operations_are_those_torchvision_publishes(architecture):
    # Published as multiply-adds, in units of 1e9, of the network with 1,000 classes.
    published = torchvision.models.get_model_weights(architecture).IMAGENET1K_V1.meta["_ops"]
    assert models.forward_flops(architecture, 224) / 2e9 == pytest.approx(published, rel=0.01)


def test_the_network_normalises_its_input():
    network = models.build("resnet10").eval()
    network.backbone = torch.nn.Flatten()
    white = (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    out = network(torch.full((1, 3, 1, 1), 255, dtype=torch.uint8).expand(1, 3, 1, 1))
    torch.testing.assert_close(out.flatten(), white)


def test_resizing_is_antialiased():
    stripes = torch.zeros(1, 3, 224, 224, dtype=torch.uint8)
    stripes[..., ::2] = 255
    small = models.resize(stripes, 32)
    # Without antialiasing, every seventh column is kept and the stripes stay.
    assert small.min() > 100
    assert small.max() < 155


def test_resizing_to_the_same_size_changes_nothing(images):
    batch = torch.from_numpy(images).permute(0, 3, 1, 2)
    assert torch.equal(models.resize(batch, 224), batch)


def test_images_reach_the_device_in_their_order(images):
    whole = models.to_tensor(images, 64)
    assert torch.equal(models.to_tensor(images, 64, batch_size=2), whole)
    assert whole.shape == (5, 3, 64, 64)


def test_predicting_in_batches_changes_nothing(images):
    network = models.build("resnet10")
    whole = models.predict(network, images, 64)
    np.testing.assert_allclose(models.predict(network, images, 64, batch_size=2), whole, atol=1e-6)


def test_no_images_give_no_predictions():
    assert models.predict(models.build("resnet10"), np.zeros((0, 224, 224, 3), np.uint8), 64).shape == (0,)


@pytest.fixture
def weights_file(tmp_path):
    def make(architecture="resnet18", promise=None):
        path = tmp_path / "weights.pth"
        torch.save(torchvision.models.get_model(architecture).state_dict(), path)
        digest = promise or hashlib.sha256(path.read_bytes()).hexdigest()[:8]
        return path.rename(tmp_path / f"{architecture}-{digest}.pth")

    return make


def test_pretrained_weights_are_used_but_for_the_last_layer(weights_file):
    path = weights_file()
    stored = torch.load(path, weights_only=True)
    network = models.build("resnet18", models.load_pretrained(str(path), "resnet18"))
    assert torch.equal(network.backbone.layer4[1].conv2.weight, stored["layer4.1.conv2.weight"])
    assert network.backbone.fc.weight.shape == (1, 512)


def test_weights_of_another_architecture_are_refused(weights_file):
    pretrained = models.load_pretrained(str(weights_file()), "resnet34")
    with pytest.raises(ConfigError, match="do not fit resnet34"):
        models.build("resnet34", pretrained)


def test_weights_that_are_not_what_their_name_promises_are_refused(weights_file):
    with pytest.raises(ConfigError, match="not the 00000000"):
        models.load_pretrained(str(weights_file(promise="00000000")), "resnet18")


def test_missing_weights_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        models.load_pretrained(str(tmp_path / "resnet18-f37072fd.pth"), "resnet18")


def test_weights_without_a_hash_in_their_name_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"NAME-HASH\.pth"):
        models.load_pretrained(str(tmp_path / "resnet18.pth"), "resnet18")


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("code ran",))

    path = tmp_path / "evil.pth"
    torch.save({"fc.weight": Evil()}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    with pytest.raises(ConfigError, match="no state dict of tensors"):
        models.load_pretrained(str(path.rename(tmp_path / f"evil-{digest}.pth")), "resnet18")
