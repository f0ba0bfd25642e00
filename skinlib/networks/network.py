"""Networks built from torchvision's parts: ResNets, and MobileNetV2."""

from collections.abc import Mapping
from functools import lru_cache
from typing import cast, get_args

import numpy as np
import torch
from torch import nn
from torchvision.models import MobileNetV2
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from skinlib.errors import ConfigError
from skinlib.networks.architecture import Architecture

# He et al. 2015, table 1; ResNet-10 has one block per stage, for CPUs.
_BLOCKS: dict[str, tuple[type[BasicBlock | Bottleneck], list[int]]] = {
    "resnet10": (BasicBlock, [1, 1, 1, 1]),
    "resnet18": (BasicBlock, [2, 2, 2, 2]),
    "resnet34": (BasicBlock, [3, 4, 6, 3]),
    "resnet50": (Bottleneck, [3, 4, 6, 3]),
}
assert {*_BLOCKS, "mobilenet_v2"} == set(get_args(Architecture))


class Network(nn.Module):
    """A network with one output that normalises its own input."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, architecture: str) -> None:
        super().__init__()
        self.backbone = _backbone(architecture)
        # ImageNet's statistics: pretrained weights expect them, and from scratch they are as good as any.
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        self.register_buffer("mean", 255 * mean.view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * std.view(1, 3, 1, 1), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images (N, 3, S, S), uint8 or float in 0..255, to logits of malignancy (N,)."""
        return self.classify(self.stages(images)[-1])

    def stages(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Compute the feature maps (N, C, H, W) after each of the four stages; input as for `forward`."""
        body, maps = self.backbone, (images - self.mean) / self.std
        if isinstance(body, MobileNetV2):  # split where a stage halves the resolution, as in a ResNet
            parts = [body.features[:4], body.features[4:7], body.features[7:14], body.features[14:]]
        else:
            maps = body.maxpool(body.relu(body.bn1(body.conv1(maps))))
            parts = [body.layer1, body.layer2, body.layer3, body.layer4]
        return [maps := part(maps) for part in parts]

    def classify(self, maps: torch.Tensor) -> torch.Tensor:
        """Map the feature maps of the last stage to logits (N,)."""
        logits: torch.Tensor = self._head(nn.functional.adaptive_avg_pool2d(maps, 1).flatten(1))
        return logits.squeeze(1)

    def evidence(self, maps: torch.Tensor) -> torch.Tensor:
        """Map the feature maps of the last stage to each cell's part of the logit (N, H, W), without the bias.

        With global average pooling before one linear layer, this class activation map (arXiv:1512.04150) is what
        Grad-CAM (arXiv:1610.02391) computes for the last stage, before its rectification.
        """
        weights = self._head.weight / (maps.shape[2] * maps.shape[3])
        return nn.functional.conv2d(maps, weights[:, :, None, None]).squeeze(1)

    @property
    def _head(self) -> nn.Linear:
        body = self.backbone
        return cast(nn.Linear, body.classifier[1] if isinstance(body, MobileNetV2) else body.fc)


def _backbone(architecture: str) -> ResNet | MobileNetV2:
    if architecture == "mobilenet_v2":
        # No dropout: checkpoints do not save the random state that it would need.
        return MobileNetV2(num_classes=1, dropout=0)
    return ResNet(*_BLOCKS[architecture], num_classes=1)


def build(architecture: str, pretrained: dict[str, torch.Tensor] | None = None) -> Network:
    """Build a network with fresh weights from torch's global generator, or on a pretrained backbone.

    Args:
        architecture: One of `skinlib.networks.architecture.Architecture`.
        pretrained: The state dict of torchvision's network; its classifier is not used.

    Raises:
        ConfigError: The pretrained weights belong to another architecture.
    """
    network = Network(architecture).to(memory_format=torch.channels_last)
    if pretrained is not None:
        heads = ("fc.", "classifier.")
        body = {name: value for name, value in pretrained.items() if not name.startswith(heads)}
        fresh = {name: value for name, value in network.backbone.state_dict().items() if name.startswith(heads)}
        try:
            network.backbone.load_state_dict(body | fresh)
        except RuntimeError as error:
            raise ConfigError(
                f"The pretrained weights do not fit {architecture}; name weights of that architecture."
            ) from error
    return network


def restore(architecture: str, weights: Mapping[str, np.ndarray]) -> Network:
    """Build the network of a trial from its trained weights by name, for inference."""
    network = build(architecture)
    network.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in weights.items()})
    return network.eval()


@lru_cache
def forward_flops(architecture: str, image_size: int) -> int:
    """Return the floating-point operations of one image's forward pass; a training step takes three times as many."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        _backbone(architecture).eval()(torch.empty(1, 3, image_size, image_size))
    return int(counter.get_total_flops())
