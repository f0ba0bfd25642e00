"""Everything that is measured of a classifier on held-out images."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skinlib import machine
from skinlib.audit import findings, lesions, shortcut
from skinlib.audit.baselines import COLOURS
from skinlib.audit.shortcut import Shortcut
from skinlib.data import metadata
from skinlib.data.listing import list_images
from skinlib.data.packing import PackedDataset, open_packed, prepare
from skinlib.data.storage import Store
from skinlib.evaluation import saliency, stress
from skinlib.evaluation.metrics import Metrics, binary_metrics
from skinlib.evaluation.scores import Report, build_report
from skinlib.evaluation.stress import StressRow
from skinlib.evaluation.threshold import Operation
from skinlib.progress import Progress, silent

_BATCH_BYTES = 1 << 30  # what scoring a batch of 64 images with ResNet-50 at 224 px takes, and some reserve


class Answers(Protocol):
    """What a served classifier computes for images; see `skinlib.serving.graph.Answers`."""

    @property
    def probability(self) -> NDArray[np.float64]: ...
    @property
    def unfamiliarity(self) -> NDArray[np.float64]: ...
    @property
    def unsupported(self) -> NDArray[np.bool_]: ...
    @property
    def evidence(self) -> NDArray[np.float32]: ...


class Settings(Operation):
    """What must be known of a served classifier; see `skinlib.serving.settings.ClassifierSettings`."""

    shortcut: Shortcut


class Classifier(Protocol):
    """A served classifier; see `skinlib.serving.graph.Graph`."""

    @property
    def settings(self) -> Settings: ...

    def score(self, images: NDArray[np.uint8]) -> Answers:
        """Score images, uint8 (N, 224, 224, 3)."""
        ...


@dataclass(frozen=True)
class Assessment:
    """What was measured.

    Attributes:
        labels: int64 (N,), 1 is malignant.
        probabilities: float64 (N,) in 0..1, calibrated.
        metrics: The main figures.
        report: All figures with intervals.
        stress: Metrics under each shift of the images.
        images: uint8 (N, 224, 224, 3), may be a memory map.
        examples: int64 (k,), indices of some images, from `saliency.examples`.
        heat: float32 (k, 224, 224) in 0..1, of these, from `saliency.heat_maps`.
        unfamiliarity: float64 (N,); above 1 an image is unlike the training images.
    """

    labels: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    metrics: Metrics
    report: Report
    stress: list[StressRow]
    images: NDArray[np.uint8]
    examples: NDArray[np.int64]
    heat: NDArray[np.float32]
    unfamiliarity: NDArray[np.float64]


def assess_elsewhere(
    classifier: Classifier, urls: Mapping[str, str], store: Store, on_progress: Progress = silent
) -> dict[str, Report]:
    """Evaluate a classifier on labelled images that are not part of its data set, given by URLs with names.

    The store keeps the packed images and the pairs of the same lesion.
    """
    reports = {}
    for name, url in urls.items():
        listing = list_images(url, splits=("test",))
        packed = open_packed(store, prepare(listing, store, on_progress=on_progress).hash)
        columns = listing.metadata.names
        pairs = lesions.search(packed, store, on_progress)
        found = findings.audit_images(packed, pairs, metadata.group_columns(columns, ""))
        answers = _table(classifier.score(packed.images), classifier.settings)
        source = metadata.source_column(columns, "")
        reports[name] = report_on(packed, found, answers, classifier.settings, source)
    return reports


def _table(answers: Answers, settings: Settings) -> pd.DataFrame:
    """Return the columns that the served model answers with."""
    low, high = settings["uncertain"]
    return pd.DataFrame(
        {
            "probability": answers.probability,
            "uncertain": (low <= answers.probability) & (answers.probability <= high),
            "unfamiliar": answers.unfamiliarity > 1,
            "unsupported": answers.unsupported,
        }
    )


def report_on(
    packed: PackedDataset, found: findings.Audit, answers: pd.DataFrame, settings: Settings, source: str | None
) -> Report:
    """Compute the report of a classifier on images from elsewhere, from its answers as `build_report` takes them."""
    colours = shortcut.probabilities(found.colours, settings["shortcut"])
    described = packed.manifest.metadata
    return build_report(
        packed.labels, answers, settings, found.groups, {COLOURS: colours}, metadata=described, source=source
    )


def assess(
    classifier: Classifier,
    packed: PackedDataset,
    test: NDArray[np.int64],
    groups: NDArray[np.int64],
    twins: NDArray[np.bool_],
    source: str | None,
    baselines: Mapping[str, NDArray[np.float64]],
) -> Assessment:
    """Measure a classifier on images that had no part in its training and selection.

    Args:
        classifier: As it is served, with one thread, since one thread for each core calls it.
        packed: All images, N.
        test: int64 (k,), ascending indices of those to measure it on.
        groups: int64 (N,), equal for images of the same lesion.
        twins: bool (N,), whether an image has a twin in the training set.
        source: The column that names each image's source, if there is one.
        baselines: float64 (k,) by name, the probabilities of baselines.
    """
    settings, threshold = classifier.settings, classifier.settings["threshold"]
    images, labels = packed.part(test), packed.labels[test]
    answers = classifier.score(images)
    probabilities = answers.probability
    workers = machine.workers(_BATCH_BYTES)
    rows = stress.table(
        lambda batch: classifier.score(batch).probability, images, labels, probabilities, threshold, workers=workers
    )
    examples = saliency.examples(labels, probabilities, threshold)
    report = build_report(
        labels,
        _table(answers, settings),
        settings,
        groups[test],
        baselines,
        twins=twins[test],
        metadata=packed.manifest.described(test),
        source=source,
    )
    return Assessment(
        labels=labels,
        probabilities=probabilities,
        metrics=binary_metrics(labels, probabilities, threshold),
        report=report,
        stress=rows,
        images=images,
        examples=examples,
        heat=saliency.heat_maps(answers.evidence[examples], probabilities[examples] >= threshold, images.shape[1]),
        unfamiliarity=answers.unfamiliarity,
    )
