"""Baselines that see no lesion: what colours, file traces and source predict alone.

A network can learn all three instead of the lesion: a class that one clinic sent, or one program saved, is told apart
by that. `shortcut` has the colour baseline itself, which the served model needs too.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from skinlib.audit import shortcut
from skinlib.audit.traces import pixel_traces
from skinlib.data.packing import PackedDataset
from skinlib.data.split import Fold, out_of_fold

if TYPE_CHECKING:
    import pandas as pd

COLOURS, FILE_TRACES, SOURCE = "colours", "file traces", "source"
# The probabilities of malignancy, float64 (k,), by name of the baseline.
Baselines = dict[str, NDArray[np.float64]]
PixelTraces = Mapping[str, NDArray[np.float64]]

_NAMES = ("format", "jpeg_tables", "subsampling")  # columns of the manifest with values that have no order
_MOST_NAMES = 100  # of one column; rarer ones count as unknown


def held_out(
    packed: PackedDataset,
    colours: NDArray[np.float64],
    folds: Sequence[Fold],
    train: NDArray[np.int64],
    test: NDArray[np.int64],
    source_column: str | None = None,
) -> dict[str, Baselines]:
    """Predict the validation images of each fold from its training images, and `test` from `train`.

    Returns:
        For `validation`, in the order of all validation images, and `test`: as from `predictions`, which describes the
        arguments, too.
    """
    known = packed, colours, pixel_traces(packed.images), source_column
    of_folds = [predictions(fold["train"], fold["validation"], *known) for fold in folds]
    validation = {name: out_of_fold(folds, [of[name] for of in of_folds]) for name in of_folds[0]}
    return {"validation": validation, "test": predictions(train, test, *known)}


def predictions(
    train: NDArray[np.int64],
    index: NDArray[np.int64],
    packed: PackedDataset,
    colours: NDArray[np.float64],
    pixels: PixelTraces,
    source_column: str | None = None,
) -> Baselines:
    """Fit each baseline on training images, and predict others.

    Args:
        train: int64 (n,), the training images; both classes are among them.
        index: int64 (k,), the images to predict.
        packed: All images, N. If its manifest has no file traces, the baseline of this name sees the traces in the
            pixels only.
        colours: float64 (N, 6), from `shortcut.colours`.
        pixels: From `pixel_traces`, of all images.
        source_column: The column of the metadata that names the source of each image, if there is one.

    Returns:
        The probabilities of `colours`, `file traces` and, with a source column, `source`.
    """
    labels = packed.labels
    found = {
        COLOURS: shortcut.probabilities(colours[index], shortcut.fit(colours[train], labels[train])),
        FILE_TRACES: _by_traces(packed, pixels, labels, train, index),
    }
    if source_column is not None:
        found[SOURCE] = _by_source(packed.manifest.metadata[source_column], labels, train, index)
    return found


def column(baseline: str) -> str:
    """Return the name of a baseline in columns and metrics."""
    return baseline.replace(" ", "_")


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


def _by_traces(
    packed: PackedDataset,
    pixels: PixelTraces,
    labels: NDArray[np.int64],
    train: NDArray[np.int64],
    index: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Predict from all traces, with gradient boosting of small trees."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    table = _features(packed, pixels, train)
    if table.empty:  # no trace differs between the training images
        return np.full(len(index), labels[train].mean())
    # Small trees and steps: with scikit-learn's defaults, the validation AUROC on the public set is lower by 0.02.
    model = HistGradientBoostingClassifier(learning_rate=0.05, max_leaf_nodes=8, early_stopping=False, random_state=0)
    model.fit(table.iloc[train], labels[train])
    return model.predict_proba(table.iloc[index])[:, 1] if len(index) else np.zeros(0)


def _features(packed: PackedDataset, pixels: PixelTraces, train: NDArray[np.int64]) -> "pd.DataFrame":
    """Return the traces that differ between the training images, NaN where unknown."""
    import pandas as pd

    table = pd.DataFrame(pixels)
    for name, values in packed.manifest.traces.items():
        if name in _NAMES:
            words = pd.Series(values).astype(str)
            frequent = [word for word, _ in Counter(words[train]).most_common(_MOST_NAMES)]
            table[name] = pd.Categorical(words, frequent)
        else:
            table[name] = np.array(values, np.float64)
    return table.loc[:, table.iloc[train].nunique(dropna=False) > 1]
