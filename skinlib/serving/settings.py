"""The settings of a served classifier, everything but its weights."""

from skinlib.evaluation.assessment import Settings
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
