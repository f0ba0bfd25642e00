"""The hyperparameters of one trial, validated before any training starts."""

import hashlib
import json
import os
from typing import Literal

from pydantic import Field, field_serializer, model_validator

from skinlib.config import Strict
from skinlib.networks.architecture import Architecture


class Trial(Strict):
    """One set of hyperparameters."""

    architecture: Architecture = "resnet18"
    image_size: int = Field(128, ge=32, le=224, multiple_of=32, description="side of the network's input in pixels")
    epochs: int = Field(20, ge=1, le=1000)
    batch_size: int = Field(64, ge=2, le=4096)
    optimiser: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = Field(2e-3, gt=0, le=10, description="peak, after the warm-up and before the cosine")
    momentum: float = Field(0.9, ge=0, lt=1, description="of SGD (Nesterov); AdamW has its own betas")
    weight_decay: float = Field(0.05, ge=0, le=1)
    warmup: float = Field(0.1, ge=0, le=0.5, description="share of all steps in which the rate rises linearly")
    augmentation: float = Field(
        1.0, ge=0, le=2, description="strength of geometric augmentation and erasing; 0 disables it"
    )
    colour_augmentation: float = Field(
        1.0, ge=0, le=2, description="strength of brightness and colour augmentation; 0 disables it"
    )
    artefacts: float = Field(
        0.0, ge=0, le=1, description="strength of blur, noise, hairs, rulers and dark corners; 0 disables them"
    )
    one_class_weight: float = Field(
        1.0, ge=0, le=1, description="weight of the images of sources with one class only, compared with the others"
    )
    label_smoothing: float = Field(0.1, ge=0, lt=0.5)
    ema_decay: float = Field(0.99, ge=0, lt=1, description="of the weights' moving average, per step; 0 disables it")
    patience: int = Field(1000, ge=1, description="epochs without a better validation AUROC before early stopping")
    weights: str = Field("none", description='"none", "imagenet", or the path of NAME-HASH.pth')

    @model_validator(mode="after")
    def _published(self) -> "Trial":
        if self.weights == "imagenet" and self.architecture == "resnet10":
            raise ValueError("resnet10 has no ImageNet weights; use another architecture")
        if "://" in self.weights:
            raise ValueError("the weights must be a file of this machine, not a URL; download it first")
        return self

    @field_serializer("weights")
    def _name(self, weights: str) -> str:
        # Under which the run's store keeps the file. Its path on this machine must not be published.
        return os.path.basename(weights)

    @property
    def key(self) -> str:
        """A stable name: architecture, image size, and a hash over all hyperparameters."""
        canonical = json.dumps(self.model_dump(), sort_keys=True)
        digest = hashlib.sha256(canonical.encode()).hexdigest()[:8]
        return f"{self.architecture}-{self.image_size}px-{digest}"
