"""The split into training, validation and test images."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skinlib.data.manifest import CLASSES, Manifest
from skinlib.errors import DataError


@dataclass(frozen=True)
class Split:
    """Indices into the manifest: int64, ascending and disjoint."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]


def split(manifest: Manifest, groups: NDArray[np.int64], validation_fraction: float, seed: int) -> Split:
    """Hold out part of the training images for validation: stratified by class, with whole groups.

    Scikit-learn's StratifiedGroupKFold makes round(1 / `validation_fraction`) folds of the training images; the first
    fold becomes the validation set. The result does not depend on the order of the images.

    Args:
        manifest: The images; the test images stay the test set.
        groups: int64 (N,), equal for images of the same lesion; a group may include test images.
        validation_fraction: Fraction of the training images, above 0 and at most 0.5.
        seed: Selects the validation images.

    Raises:
        DataError: There are too few training images or groups to have both classes in both sets.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    by_key = sorted(range(len(manifest.keys)), key=manifest.keys.__getitem__)
    train = np.array([index for index in by_key if manifest.splits[index] == "train"], dtype=np.int64)
    labels = np.array(manifest.labels, dtype=np.int64)
    folds = round(1 / validation_fraction)
    for label, name in enumerate(CLASSES):
        n_groups = len(np.unique(groups[train][labels[train] == label]))
        if n_groups < folds:
            raise DataError(
                f"train/{name} has {n_groups} distinct images, but a validation fraction of {validation_fraction:g} "
                f"needs {folds}; add images or choose a larger fraction."
            )
    # Numbered in the order of the keys, because the folds depend on the numbers.
    numbered = number_groups(groups[train])
    folding = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    rest, validation = next(folding.split(train, labels[train], numbered))
    for part, name in ((rest, "training"), (validation, "validation")):
        if len(np.unique(labels[train][part])) < len(CLASSES):
            raise DataError(
                f"The {name} set would have only one class, because groups of look-alike images stay together; "
                "add images or choose another validation fraction."
            )
    test = [index for index, name in enumerate(manifest.splits) if name == "test"]
    parts = {"train": train[rest], "validation": train[validation], "test": np.array(test, dtype=np.int64)}
    return Split(**{name: np.sort(part) for name, part in parts.items()})


def number_groups(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Renumber groups, int64 (N,), from 0 in the order of their first members."""
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].astype(np.int64)
