"""Everything that is measured of a trained network on held-out images."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from skinlib.evaluation import saliency, stress
from skinlib.evaluation.calibration import calibrate
from skinlib.evaluation.metrics import Metrics, binary_metrics
from skinlib.evaluation.scores import Report, build_report
from skinlib.evaluation.stress import StressRow
from skinlib.networks.inference import predict
from skinlib.networks.resnet import Network
from skinlib.training.slots import cpu_slots


@dataclass(frozen=True)
class Assessment:
    """What was measured.

    Attributes:
        labels: int64 (N,), 1 is malignant.
        probabilities: float64 (N,) in 0..1, calibrated.
        metrics: The main figures.
        report: All figures with intervals.
        stress: Metrics under each shift of the images.
        examples: int64 (k,), indices of the images below, from `saliency.examples`.
        images: uint8 (k, 224, 224, 3).
        heat: float32 (k, 224, 224) in 0..1, from `saliency.grad_cam`.
    """

    labels: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    metrics: Metrics
    report: Report
    stress: list[StressRow]
    examples: NDArray[np.int64]
    images: NDArray[np.uint8]
    heat: NDArray[np.float32]


def assess(
    network: Network,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    *,
    image_size: int,
    temperature: float,
    threshold: float,
    groups: NDArray[np.int64],
    shortcut_probabilities: NDArray[np.float64],
    twins: NDArray[np.bool_],
) -> Assessment:
    """Measure a network on images that had no part in its training and selection.

    Args:
        network: The trained network.
        images: uint8 (N, 224, 224, 3).
        labels: int64 (N,), 1 is malignant.
        image_size: Side of the network's input in pixels.
        temperature: Of the calibration.
        threshold: Images with this probability or a higher one are classified as malignant.
        groups: int64 (N,), equal for near-duplicates.
        shortcut_probabilities: float64 (N,), what the colour baseline predicts.
        twins: bool (N,), whether an image has a near-duplicate in the training set.
    """
    # Several batches at once, with the threads of a slot each: one batch with all threads would be slower.
    slots = cpu_slots()
    torch.set_num_threads(slots[0].threads)
    uncalibrated = predict(network, images, image_size)
    probabilities = calibrate(uncalibrated, temperature)
    rows = stress.table(
        lambda batch: calibrate(predict(network, batch, image_size), temperature),
        images,
        labels,
        threshold,
        workers=len(slots),
    )
    examples = saliency.examples(labels, probabilities, threshold)
    report = build_report(
        labels,
        probabilities,
        threshold,
        groups=groups,
        uncalibrated=uncalibrated,
        shortcut_probabilities=shortcut_probabilities,
        twins=twins,
    )
    return Assessment(
        labels=labels,
        probabilities=probabilities,
        metrics=binary_metrics(labels, probabilities, threshold),
        report=report,
        stress=rows,
        examples=examples,
        images=images[examples],
        heat=saliency.grad_cam(network, images[examples], image_size, probabilities[examples] >= threshold),
    )
