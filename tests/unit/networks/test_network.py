import pytest
import torch
import torchvision

from skinlib.networks.network import build, forward_flops

ARCHITECTURES = ["resnet10", "resnet18", "resnet34", "resnet50", "mobilenet_v2"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_network_gives_one_logit_per_image(architecture):
    with torch.inference_mode():
        logits = build(architecture).eval()(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    assert logits.shape == (2,)


@pytest.mark.parametrize("architecture", ARCHITECTURES[1:])
def test_the_backbone_has_the_weights_of_torchvisions(architecture):
    names = set(torchvision.models.get_model(architecture, num_classes=1).state_dict())
    assert set(build(architecture).backbone.state_dict()) == names


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_each_of_the_four_stages_halves_the_resolution(architecture):
    stages = build(architecture).eval().stages(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    assert [maps.shape[2:] for maps in stages] == [(16, 16), (8, 8), (4, 4), (2, 2)]


@pytest.mark.parametrize("architecture", ARCHITECTURES[1:])
def test_the_operations_are_those_torchvision_publishes(architecture):
    # Published as multiply-adds, in units of 1e9, of the network with 1,000 classes.
    published = torchvision.models.get_model_weights(architecture).IMAGENET1K_V1.meta["_ops"]
    assert forward_flops(architecture, 224) / 2e9 == pytest.approx(published, rel=0.01)


def test_the_network_normalises_its_input():
    network = build("resnet10").eval()
    seen = []
    network.backbone.conv1.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    network(torch.full((1, 3, 32, 32), 255, dtype=torch.uint8))
    white = (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(seen[0], white.view(1, 3, 1, 1).expand(1, 3, 32, 32))


@pytest.mark.parametrize("architecture", ["resnet18", "mobilenet_v2"])
def test_the_network_computes_what_torchvision_s_does(architecture):
    network = build(architecture).eval()
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    expected = network.backbone((images - network.mean) / network.std).squeeze(1)
    assert torch.equal(network(images), expected)


@pytest.mark.parametrize("architecture", ["resnet10", "mobilenet_v2"])
def test_the_evidence_of_a_cell_is_its_grad_cam(architecture):
    network = build(architecture).eval()
    maps = network.stages(torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8))[-1].detach().requires_grad_()
    (gradient,) = torch.autograd.grad(network.classify(maps).sum(), maps)
    grad_cam = (gradient.mean((2, 3), keepdim=True) * maps).sum(1)
    torch.testing.assert_close(network.evidence(maps), grad_cam)
