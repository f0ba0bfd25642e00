"""The settings of a served classifier, everything but its weights."""

from collections.abc import Mapping
from typing import Any

from skinlib.audit.shortcut import Shortcut
from skinlib.evaluation.assessment import Settings
from skinlib.evaluation.threshold import Operation
from skinlib.networks.architecture import Architecture


class ClassifierSettings(Settings):
    """The artifact `classifier`.

    `image_size` is the side in pixels at which the network was trained. An image whose calibrated probability reaches
    `threshold` is classified as malignant; the threshold was chosen for `sensitivity` on validation images. From the
    first to the second value of `uncertain`, the answer is uncertain. `shortcut` is the colour baseline of the training
    images.
    """

    architecture: Architecture
    image_size: int
    sensitivity: float


def settings(
    trial: Mapping[str, Any], operation: Operation, sensitivity: float, shortcut: Shortcut
) -> ClassifierSettings:
    """Put together what a trial is served with.

    Args:
        trial: Its hyperparameters, with `architecture` and `image_size`.
        operation: From `threshold.operate`.
        sensitivity: For which the threshold was chosen.
        shortcut: The colour baseline of the training images.
    """
    return {
        "architecture": trial["architecture"],
        "image_size": trial["image_size"],
        **operation,
        "sensitivity": sensitivity,
        "shortcut": shortcut,
    }
