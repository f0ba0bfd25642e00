"""The split into training, validation and test images, and the folds of cross-validation."""

import math
from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from skinlib.data.manifest import CLASSES, Manifest
from skinlib.errors import DataError

# The artifact `split`: indices of the `train`, `validation` and `test` images in the manifest, int64, ascending. With
# several folds, `train` and `validation` both hold all training images; otherwise no image is in two of them.
Split = dict[str, NDArray[np.int64]]


class Fold(TypedDict):
    """The images that one training learns from, and those that it is validated on: int64, ascending and disjoint."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]


def folds(
    manifest: Manifest, groups: NDArray[np.int64], number: int, validation_fraction: float, seed: int
) -> list[Fold]:
    """Choose the images of each training, with whole groups: one part held out, or `number` folds held out in turn.

    The one part is stratified by class. Groups are drawn in random order, and each one that fits, so that no class
    exceeds its share, joins the validation set. So each class has the fraction that was asked for, to the image, unless
    the groups that are left are larger than what is missing.

    Several folds are those of scikit-learn's StratifiedGroupKFold, also stratified by class. Every training image is in
    the validation set of one fold. The result does not depend on the order of the images.

    Args:
        manifest: The images; the test images are in no fold.
        groups: int64 (N,), equal for images of the same lesion; a group may include test images.
        number: Of the folds.
        validation_fraction: Fraction of the training images to hold out, above 0 and at most 0.5; not used with several
            folds.
        seed: Selects the validation images.

    Raises:
        DataError: There are too few training images or groups to have both classes in both sets of each fold.
    """
    if number == 1:
        return [_one_part(manifest, groups, validation_fraction, seed)]
    from sklearn.model_selection import StratifiedGroupKFold

    train, labels = _training_images(manifest)
    numbered = number_groups(groups[train])
    for label, name in enumerate(CLASSES):
        n_groups = len(np.unique(numbered[labels == label]))
        if n_groups < number:
            raise DataError(
                f"train/{name} has {n_groups} distinct images, but {number} folds need as many; add images or lower "
                "`folds` in the sweep config."
            )
    drawn = list(StratifiedGroupKFold(number, shuffle=True, random_state=seed).split(train, labels, numbered))
    if any(len(np.unique(labels[part])) < len(CLASSES) for pair in drawn for part in pair):
        raise DataError(
            "A fold would have only one class, because groups of look-alike images stay together; add images or lower "
            "`folds` in the sweep config."
        )
    return [{"train": np.sort(train[rest]), "validation": np.sort(train[held_out])} for rest, held_out in drawn]


def whole(folds: Sequence[Fold], manifest: Manifest) -> Split:
    """Put the folds together; the test images stay the test set."""
    train, validation = (np.unique(np.concatenate([fold[part] for fold in folds])) for part in ("train", "validation"))
    test = [index for index, name in enumerate(manifest.splits) if name == "test"]
    return {"train": train, "validation": validation, "test": np.array(test, dtype=np.int64)}


def out_of_fold(folds: Sequence[Fold], values: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Put what was found for the validation images of each fold into the order of all validation images."""
    return np.concatenate(values)[np.argsort(np.concatenate([fold["validation"] for fold in folds]))]


def _one_part(manifest: Manifest, groups: NDArray[np.int64], validation_fraction: float, seed: int) -> Fold:
    train, labels = _training_images(manifest)
    # Numbered in the order of the keys, because the draw depends on the numbers.
    numbered = number_groups(groups[train])
    sizes = np.zeros((numbered.max(initial=-1) + 1, len(CLASSES)), dtype=np.int64)  # images of each group and class
    np.add.at(sizes, (numbered, labels), 1)
    needed = max(2, math.ceil(0.5 / validation_fraction))  # fewer would be less than half a validation image
    for name, of_groups in zip(CLASSES, sizes.T, strict=True):
        n_groups = np.count_nonzero(of_groups)
        if n_groups < 2 or of_groups.sum() < needed:
            raise DataError(
                f"train/{name} has {n_groups} distinct images, but a validation fraction of {validation_fraction:g} "
                f"needs {needed}; add images or choose a larger fraction."
            )
    is_validation = _draw(sizes, validation_fraction, seed)[numbered]
    rest, validation = np.flatnonzero(~is_validation), np.flatnonzero(is_validation)
    for part, name in ((rest, "training"), (validation, "validation")):
        if len(np.unique(labels[part])) < len(CLASSES):
            raise DataError(
                f"The {name} set would have only one class, because groups of look-alike images stay together; "
                "add images or choose another validation fraction."
            )
    return {"train": np.sort(train[rest]), "validation": np.sort(train[validation])}


def _training_images(manifest: Manifest) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the indices of the training images in the order of their keys, and their labels."""
    by_key = sorted(range(len(manifest.keys)), key=manifest.keys.__getitem__)
    train = np.array([index for index in by_key if manifest.splits[index] == "train"], dtype=np.int64)
    return train, np.array(manifest.labels, dtype=np.int64)[train]


def _draw(sizes: NDArray[np.int64], fraction: float, seed: int) -> NDArray[np.bool_]:
    """Draw groups, given by their images in each class (G, 2), up to a fraction of each class; bool (G,)."""
    missing = np.floor(fraction * sizes.sum(axis=0) + 0.5)
    drawn = np.zeros(len(sizes), dtype=bool)
    order = np.random.default_rng(seed).permutation(len(sizes))
    for group in order:
        if (sizes[group] <= missing).all():
            drawn[group] = True
            missing -= sizes[group]
    # Groups that are too large may leave a gap. One more is better if it exceeds the share by less than the gap.
    while (left := order[~drawn[order]]).size:
        gaps = np.abs(missing - sizes[left]).sum(axis=1)
        if gaps.min() >= np.abs(missing).sum():
            break
        drawn[left[gaps.argmin()]] = True
        missing -= sizes[left[gaps.argmin()]]
    return drawn


def number_groups(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Renumber groups, int64 (N,), from 0 in the order of their first members."""
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].astype(np.int64)
