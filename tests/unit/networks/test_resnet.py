import pytest
import torch
import torchvision

from skinlib.networks.resnet import build, forward_flops

ARCHITECTURES = ["resnet10", "resnet18", "resnet34", "resnet50"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_network_gives_one_logit_per_image(architecture):
    with torch.inference_mode():
        logits = build(architecture).eval()(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    assert logits.shape == (2,)


@pytest.mark.parametrize("architecture", ARCHITECTURES[1:])
def test_the_backbone_has_the_weights_of_torchvisions(architecture):
    names = set(torchvision.models.get_model(architecture, num_classes=1).state_dict())
    assert set(build(architecture).backbone.state_dict()) == names


@pytest.mark.parametrize("architecture", ARCHITECTURES[1:])
def test_the_operations_are_those_torchvision_publishes(architecture):
    # Published as multiply-adds, in units of 1e9, of the network with 1,000 classes.
    published = torchvision.models.get_model_weights(architecture).IMAGENET1K_V1.meta["_ops"]
    assert forward_flops(architecture, 224) / 2e9 == pytest.approx(published, rel=0.01)


def test_the_network_normalises_its_input():
    network = build("resnet10").eval()
    network.backbone = torch.nn.Flatten()
    white = (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    out = network(torch.full((1, 3, 1, 1), 255, dtype=torch.uint8).expand(1, 3, 1, 1))
    torch.testing.assert_close(out.flatten(), white)
