"""The names of the architectures, without the import of torch."""

from typing import Literal

Architecture = Literal["resnet10", "resnet18", "resnet34", "resnet50", "mobilenet_v2"]
