"""ResNet-style networks built from torchvision's parts, and the way from packed images to probabilities."""

import hashlib
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import get_args

import numpy as np
import torch
import torchvision
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from skinlib.errors import ConfigError
from skinlib.sweep import Architecture

# He et al. 2015, table 1; ResNet-10 is the same with one block a stage: the small one, for CPUs.
_BLOCKS: dict[str, tuple[type[BasicBlock | Bottleneck], list[int]]] = {
    "resnet10": (BasicBlock, [1, 1, 1, 1]),
    "resnet18": (BasicBlock, [2, 2, 2, 2]),
    "resnet34": (BasicBlock, [3, 4, 6, 3]),
    "resnet50": (Bottleneck, [3, 4, 6, 3]),
}
assert set(_BLOCKS) == set(get_args(Architecture))


class Network(nn.Module):
    """A ResNet with one output, the normalisation of its input inside."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, architecture: str) -> None:
        super().__init__()
        block, layers = _BLOCKS[architecture]
        self.backbone = ResNet(block, layers, num_classes=1)
        # ImageNet's statistics: what pretrained weights expect, and as good as any other from scratch.
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        self.register_buffer("mean", 255 * mean.view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * std.view(1, 3, 1, 1), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images (N, 3, S, S), uint8 or float in 0..255, to logits of malignancy (N,)."""
        logits: torch.Tensor = self.backbone((images - self.mean) / self.std)
        return logits.squeeze(1)


def build(architecture: str, pretrained: dict[str, torch.Tensor] | None = None) -> Network:
    """Build a network with fresh weights from torch's global generator, or on a pretrained backbone.

    Args:
        architecture: one of `skinlib.sweep.Architecture`.
        pretrained: a torchvision ResNet's state dict; its classifier (`fc`) is left out.

    Raises:
        ConfigError: the pretrained weights are of another architecture.
    """
    network = Network(architecture).to(memory_format=torch.channels_last)
    if pretrained is not None:
        body = {name: value for name, value in pretrained.items() if not name.startswith("fc.")}
        fresh = {f"fc.{name}": value for name, value in network.backbone.fc.state_dict().items()}
        try:
            network.backbone.load_state_dict(body | fresh)
        except RuntimeError as error:
            raise ConfigError(
                f"The pretrained weights do not fit {architecture}; name weights of that architecture."
            ) from error
    return network


def restore(architecture: str, weights: Mapping[str, np.ndarray]) -> Network:
    """Build the network of a trial with the weights, by name, that training gave."""
    network = build(architecture)
    network.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in weights.items()})
    return network.eval()


def load_pretrained(weights: str, architecture: str) -> dict[str, torch.Tensor] | None:
    """Read the weights that a trial starts from.

    Args:
        weights: "none", "imagenet" (downloaded by torchvision, hash checked), or the path of a file named
            as torchvision names them, NAME-HASH.pth, where HASH begins the SHA-256 of its bytes.

    Raises:
        ConfigError: the file is missing, is not what its name says, or is no state dict.
    """
    if weights == "none":
        return None
    if weights == "imagenet":
        published = torchvision.models.get_model_weights(architecture).IMAGENET1K_V1
        try:
            return dict(published.get_state_dict(progress=False, check_hash=True))
        except OSError as error:
            raise ConfigError(
                f"ImageNet weights cannot be downloaded from {published.url} ({error}); "
                "download the file elsewhere and give its path as `weights`."
            ) from error
    path = check_weights_file(weights)
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:
        raise ConfigError(
            f"The weights file {path} holds no state dict of tensors; save one with torch.save."
        ) from error


def check_weights_file(weights: str) -> Path:
    """Return the path of a weights file whose bytes have the hash that its name promises, or raise ConfigError."""
    path = Path(weights).expanduser()
    promised = re.search(r"-([0-9a-f]{8,64})\.[a-z]+$", path.name)
    if promised is None:
        raise ConfigError(
            f"The weights file {path} must be named NAME-HASH.pth, HASH being at least the first 8 hexadecimal "
            "digits of its SHA-256; rename it so."
        )
    if not path.is_file():
        raise ConfigError(f"The weights file {path} does not exist; correct the path in the sweep config.")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(promised[1]):
        raise ConfigError(
            f"The weights file {path} has SHA-256 {found[:8]}..., not the {promised[1][:8]}... of its name; "
            "fetch it again from where you trust it."
        )
    return path


def resize(images: torch.Tensor, size: int) -> torch.Tensor:
    """Scale square uint8 images (N, 3, H, H) to (N, 3, size, size), antialiased, rounded back to uint8."""
    if images.shape[-1] == size:
        return images
    scaled = nn.functional.interpolate(images.float(), size=(size, size), mode="bilinear", antialias=True)
    return scaled.round_().clamp_(0, 255).to(torch.uint8)


def to_tensor(images: np.ndarray, size: int, device: torch.device | str = "cpu", batch_size: int = 256) -> torch.Tensor:
    """Bring packed images onto a device at the size a network sees.

    Args:
        images: uint8 (N, 224, 224, 3), a memory map as well: it is read a batch at a time.

    Returns:
        uint8 (N, 3, size, size) in channels_last order.
    """
    out = torch.empty((len(images), 3, size, size), dtype=torch.uint8, device=device).to(
        memory_format=torch.channels_last
    )
    for start in range(0, len(images), batch_size):
        batch = torch.from_numpy(np.array(images[start : start + batch_size])).to(device)
        out[start : start + batch_size] = resize(batch.permute(0, 3, 1, 2), size)
    return out


@torch.inference_mode()
def predict_tensor(network: nn.Module, images: torch.Tensor, batch_size: int = 64) -> np.ndarray:
    """Probabilities of malignancy, float64 (N,), of uint8 images (N, 3, S, S) that lie on the network's device.

    Computed in float32 whatever the training's precision, so that the numbers that are reported are those
    that the served model gives.
    """
    network.eval()
    logits = [network(images[i : i + batch_size]).double() for i in range(0, len(images), batch_size)]
    if not logits:
        return np.zeros(0)
    return torch.sigmoid(torch.cat(logits)).cpu().numpy()


def predict(network: nn.Module, images: np.ndarray, image_size: int, batch_size: int = 64) -> np.ndarray:
    """Probabilities of malignancy, float64 (N,) in 0..1, of packed images uint8 (N, 224, 224, 3)."""
    device = next(network.parameters()).device
    parts = [
        predict_tensor(network, to_tensor(images[i : i + batch_size], image_size, device))
        for i in range(0, len(images), batch_size)
    ]
    return np.concatenate(parts) if parts else np.zeros(0)


@lru_cache
def forward_flops(architecture: str, image_size: int) -> int:
    """Floating-point operations of one image's forward pass (two a multiply-add); a training step takes three times."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        ResNet(*_BLOCKS[architecture], num_classes=1).eval()(torch.empty(1, 3, image_size, image_size))
    return int(counter.get_total_flops())
