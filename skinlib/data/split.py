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

    Scikit-learn's StratifiedShuffleSplit draws the groups, each with the class of most of its images. The result does
    not depend on the order of the images.

    Args:
        manifest: The images; the test images stay the test set.
        groups: int64 (N,), equal for images of the same lesion; a group may include test images.
        validation_fraction: Fraction of the groups of training images in each class, above 0 and at most 0.5.
        seed: Selects the validation images.

    Raises:
        DataError: There are too few training images or groups to have both classes in both sets.
    """
    from sklearn.model_selection import StratifiedShuffleSplit

    by_key = sorted(range(len(manifest.keys)), key=manifest.keys.__getitem__)
    train = np.array([index for index in by_key if manifest.splits[index] == "train"], dtype=np.int64)
    labels = np.array(manifest.labels, dtype=np.int64)[train]
    # Numbered in the order of the keys, because the draw depends on the numbers.
    numbered = number_groups(groups[train])
    n_images, n_malignant = np.bincount(numbered), np.bincount(numbered, weights=labels)
    of_group = (2 * n_malignant > n_images).astype(np.int64)
    needed = max(2, round(1 / validation_fraction))
    for label, name in enumerate(CLASSES):
        n_groups = int((of_group == label).sum())
        if n_groups < needed:
            raise DataError(
                f"train/{name} has {n_groups} distinct images, but a validation fraction of {validation_fraction:g} "
                f"needs {needed}; add images or choose a larger fraction."
            )
    draw = StratifiedShuffleSplit(1, test_size=validation_fraction, random_state=seed)
    _, held_out = next(draw.split(of_group, of_group))
    is_validation = np.isin(numbered, held_out)
    for part, name in ((~is_validation, "training"), (is_validation, "validation")):
        if len(np.unique(labels[part])) < len(CLASSES):
            raise DataError(
                f"The {name} set would have only one class, because groups of look-alike images stay together; "
                "add images or choose another validation fraction."
            )
    rest, validation = np.flatnonzero(~is_validation), np.flatnonzero(is_validation)
    test = [index for index, name in enumerate(manifest.splits) if name == "test"]
    parts = {"train": train[rest], "validation": train[validation], "test": np.array(test, dtype=np.int64)}
    return Split(**{name: np.sort(part) for name, part in parts.items()})


def number_groups(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Renumber groups, int64 (N,), from 0 in the order of their first members."""
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].astype(np.int64)
