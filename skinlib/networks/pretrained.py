"""Pretrained weights: from torchvision, or from a file whose name contains its hash."""

import hashlib
import re
from pathlib import Path

import torch
import torchvision

from skinlib.data.storage import Store, open_store, private_folder
from skinlib.errors import ConfigError


def load_pretrained(weights: str, architecture: str) -> dict[str, torch.Tensor] | None:
    """Load the weights from which a trial starts.

    Args:
        weights: "none"; "imagenet" (downloaded by torchvision, hash checked); or the path of a file with a name like
            torchvision's, NAME-HASH.pth, where HASH is the start of the SHA-256 of its bytes.
        architecture: One of `skinlib.networks.architecture.Architecture`.

    Raises:
        ConfigError: The file is missing, does not have the hash in its name, or is not a state dict.
    """
    if weights == "none":
        return None
    if weights == "imagenet":
        published = torchvision.models.get_model_weights(architecture).IMAGENET1K_V1
        # torchvision would load a file in its cache without a check of its hash, and as a pickle that may run code.
        path = Path(torch.hub.get_dir(), "checkpoints", Path(published.url).name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                torch.hub.download_url_to_file(published.url, str(path), progress=False)
        except OSError as error:
            raise ConfigError(
                f"ImageNet weights cannot be downloaded from {published.url} ({error}); "
                "download the file on another machine and set `weights` to its path."
            ) from error
        weights = str(path)
    path = check_weights_file(weights)
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:
        raise ConfigError(
            f"The weights file {path} is not a state dict of tensors; save one with torch.save."
        ) from error


def check_weights_file(weights: str) -> Path:
    """Return the path of a weights file; ConfigError unless its bytes have the hash in its name."""
    path = Path(weights).expanduser()
    promised = re.search(r"-([0-9a-f]{8,64})\.[a-z]+$", path.name)
    if promised is None:
        raise ConfigError(
            f"The weights file {path} has no hash in its name; rename it to NAME-HASH.pth, where HASH is at least "
            "the first 8 hexadecimal digits of its SHA-256."
        )
    if not path.is_file():
        raise ConfigError(f"The weights file {path} does not exist; correct the path in the sweep config.")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(promised[1]):
        raise ConfigError(
            f"The weights file {path} has SHA-256 {found[:8]}..., not {promised[1][:8]}... as in its name; "
            "download it again from a source that you trust."
        )
    return path


def store_weights(weights: str, store: Store) -> None:
    """Keep a weights file in the store of the run, under its name, which contains its hash."""
    path = check_weights_file(weights)
    if not store.exists(key := _key(weights)):
        store.upload(key, path)


def fetch_weights(weights: str, store: Store) -> str:
    """Return the value of `weights` for this machine: of a file in the store, the path of a copy of it.

    A copy from S3 is kept in the directory for temporary files (TMPDIR), for all trials on a machine.
    """
    if weights in ("none", "imagenet") or not store.exists(key := _key(weights)):
        return weights
    if store.local_path:
        return str(store.local_path / key)
    folder, name = open_store(str(private_folder())), Path(key).name
    if not folder.exists(name):
        folder.write(name, store.read(key))
    return f"{folder.url}/{name}"


def _key(weights: str) -> str:
    return f"skinlib/weights/{Path(weights).name}"
