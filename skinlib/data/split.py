"""The split into training, validation and test images."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skinlib.data.manifest import CLASSES, Manifest
from skinlib.errors import DataError


@dataclass(frozen=True)
class Split:
    """Which images serve what: int64 indices into the manifest, ascending and disjoint."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]


def split(manifest: Manifest, groups: NDArray[np.int64], validation_fraction: float, seed: int) -> Split:
    """Hold back a part of the training images for validation: stratified, and no group on both sides.

    Scikit-learn's StratifiedGroupKFold cuts them into round(1 / `validation_fraction`) folds, of which the first
    validates. The order of the images does not matter.

    Args:
        manifest: The images; those of "test" stay what they are.
        groups: int (N,), equal for images that show the same; a group may reach into "test".
        validation_fraction: Share of the training images, above 0 and at most 0.5.
        seed: Another seed, another choice.

    Raises:
        DataError: There are too few training images or groups for both classes to be on both sides.
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
                f"train/{name} has {n_groups} usable images that differ; add some, for a validation fraction of "
                f"{validation_fraction:g} needs {folds}."
            )
    # Numbered as they come by key, since the folds depend on the numbers.
    numbered = number_groups(groups[train])
    folding = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    rest, validation = next(folding.split(train, labels[train], numbered))
    for part, name in ((rest, "training"), (validation, "validation")):
        if len(np.unique(labels[train][part])) < len(CLASSES):
            raise DataError(
                f"The {name} part would hold one class alone, since whole groups of look-alike images are kept "
                "together; add images or choose another validation fraction."
            )
    test = [index for index, name in enumerate(manifest.splits) if name == "test"]
    parts = {"train": train[rest], "validation": train[validation], "test": np.array(test, dtype=np.int64)}
    return Split(**{name: np.sort(part) for name, part in parts.items()})


def number_groups(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number groups, int (N,), from 0 in the order of their first members."""
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].astype(np.int64)
