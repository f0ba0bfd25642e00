"""Baselines that see no lesion: what the source of an image, and the traces of how it was saved, predict alone.

A network can learn both instead of the lesion: a class that one clinic sent, or one program saved, is told apart by
that. The colour baseline, which the served model needs too, is in `shortcut`.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from skinlib.audit.traces import pixel_traces
from skinlib.data.packing import PackedDataset
from skinlib.data.split import Fold, out_of_fold

SOURCE, FILE_TRACES = "source", "file traces"
# The probabilities of malignancy, float64 (k,), by part of the split and name of the baseline.
Baselines = dict[str, dict[str, NDArray[np.float64]]]
PixelTraces = Mapping[str, NDArray[np.float64]]

_NAMES = ("format", "jpeg_tables", "subsampling")  # columns of the manifest with values that have no order
_MOST_NAMES = 100  # of one column; rarer ones count as unknown


def held_out(
    packed: PackedDataset,
    folds: Sequence[Fold],
    parts: Mapping[str, NDArray[np.int64]],
    source_column: str | None = None,
) -> Baselines:
    """Predict the validation images of each fold from its training images, and the test images from all of these.

    Args:
        packed: As for `predictions`.
        folds: From `split.folds`.
        parts: Indices, int64 (k,), of the `train` and `test` images.
        source_column: As for `predictions`.

    Returns:
        For `validation`, in the order of all validation images, and `test`: as from `predictions`.
    """
    pixels = pixel_traces(packed.images)
    both = [{"train": fold["train"], "validation": fold["validation"]} for fold in folds]
    of_folds = [predictions(packed, each, source_column, pixels)["validation"] for each in both]
    validation = {name: out_of_fold(folds, [of[name] for of in of_folds]) for name in of_folds[0]}
    of_test = predictions(packed, {"train": parts["train"], "test": parts["test"]}, source_column, pixels)
    return {"validation": validation, **of_test}


def predictions(
    packed: PackedDataset,
    parts: Mapping[str, NDArray[np.int64]],
    source_column: str | None = None,
    pixels: PixelTraces | None = None,
) -> Baselines:
    """Fit each baseline on the training images, and predict the others.

    Args:
        packed: All images. If its manifest has no file traces, the baseline of this name sees the traces in the pixels
            only.
        parts: Indices, int64 (k,), by name. `train` must contain both classes.
        source_column: The column of the metadata that names the source of each image, if there is one.
        pixels: From `pixel_traces`, of all images; computed here if absent.

    Returns:
        For each part except `train`: the probabilities of `file traces` and, with a source column, of `source`.
    """
    labels, train = packed.labels, parts["train"]
    predict = _boosted(packed, pixels or pixel_traces(packed.images), labels, train)
    found: Baselines = {}
    for name, index in parts.items():
        if name != "train":
            found[name] = {FILE_TRACES: predict(index)}
            if source_column is not None:
                sources = packed.manifest.metadata[source_column]
                found[name][SOURCE] = _by_source(sources, labels, train, index)
    return found


def _by_source(
    sources: Sequence[str], labels: NDArray[np.int64], train: NDArray[np.int64], index: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Predict the share of malignant training images of the same source, as if each source had an average image more.

    Images of unknown source count as a source of their own. For a source without training images, it is the share among
    all of them.
    """
    average = float(labels[train].mean())
    n = Counter(sources[i] for i in train)
    malignant = Counter(sources[i] for i in train if labels[i] == 1)
    return np.array([(malignant[source] + average) / (n[source] + 1) for source in (sources[i] for i in index)])


def _features(
    packed: PackedDataset, pixels: PixelTraces, train: NDArray[np.int64]
) -> tuple[NDArray[np.float64], list[bool]]:
    """Return all traces as numbers, float64 (N, K), NaN where unknown, and which columns are numbered names."""
    columns = {name: (values, False) for name, values in pixels.items()}
    for name, column in packed.manifest.traces.items():
        if name in _NAMES:
            columns[name] = _numbered([str(value) for value in column], train), True
        else:
            columns[name] = np.array(column, np.float64), False
    # A column that does not vary in training cannot be learnt from.
    kept = [pair for pair in columns.values() if len(np.unique(pair[0][train])) > 1]
    return np.array([values for values, _ in kept]).reshape(-1, len(packed.images)).T, [names for _, names in kept]


def _numbered(values: Sequence[str], train: NDArray[np.int64]) -> NDArray[np.float64]:
    """Number the most frequent values of the training images from 0; others are NaN."""
    frequent = Counter(values[i] for i in train).most_common(_MOST_NAMES)
    numbers = {value: number for number, (value, _) in enumerate(frequent)}
    return np.array([numbers.get(value, np.nan) for value in values])


def _boosted(
    packed: PackedDataset, pixels: PixelTraces, labels: NDArray[np.int64], train: NDArray[np.int64]
) -> Callable[[NDArray[np.int64]], NDArray[np.float64]]:
    """Fit gradient boosting of small trees to all traces, and return what predicts the images of an index."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    table, is_name = _features(packed, pixels, train)
    # Small trees and steps: with scikit-learn's defaults, the validation AUROC on the public set is lower by 0.02.
    model = HistGradientBoostingClassifier(
        learning_rate=0.05, max_leaf_nodes=8, early_stopping=False, categorical_features=is_name, random_state=0
    )
    if is_name:
        model.fit(table[train], labels[train])

    def predict(index: NDArray[np.int64]) -> NDArray[np.float64]:
        if not is_name:  # no trace differs between the training images
            return np.full(len(index), labels[train].mean())
        return model.predict_proba(table[index])[:, 1] if len(index) else np.zeros(0)

    return predict
