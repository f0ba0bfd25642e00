"""Pretrained weights: from torchvision, or from a file whose name holds its hash."""

import hashlib
import re
from pathlib import Path

import torch
import torchvision

from skinlib.errors import ConfigError


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
