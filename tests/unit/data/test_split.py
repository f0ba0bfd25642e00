"""The split and the folds: stratified partitions that keep groups whole, whatever the order of the images."""

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from skinlib.data.manifest import CLASSES, Manifest
from skinlib.data.split import Fold, Split, folds, out_of_fold, whole
from skinlib.errors import DataError
from tests.unit.data.conftest import FOLDERS


@st.composite
def grouped(draw: st.DrawFn) -> tuple[Manifest, np.ndarray]:
    """A manifest with 8 to 60 training images of each class and 0 to 10 for test, and groups of up to four."""
    counts = [draw(st.integers(8, 60)), draw(st.integers(8, 60)), *(draw(st.integers(0, 10)) for _ in "ab")]
    places = [tuple(folder.split("/")) for folder in FOLDERS]
    rows = sorted(
        (f"{part}/{name}/{number}.png", CLASSES.index(name), part)
        for (part, name), count in zip(places, counts, strict=True)
        for number in range(count)
    )
    keys, labels, splits = zip(*rows, strict=True)
    groups = np.arange(len(rows))
    # Groups stay within the first eighth of either class and the test images, so that a split into 4 is possible.
    for _ in range(draw(st.integers(0, 6))):
        chosen = draw(st.lists(st.integers(0, len(rows) - 1), min_size=2, max_size=4, unique=True))
        movable = [i for i in chosen if splits[i] == "test" or int(keys[i].split("/")[2].split(".")[0]) < 4]
        groups[movable] = min(movable, default=0)
    return Manifest(keys, (1,) * len(rows), labels, splits, ("0",) * len(rows)), groups


def split(manifest: Manifest, groups: np.ndarray, fraction: float, seed: int) -> Split:
    """One part is held out."""
    return whole(folds(manifest, groups, 1, fraction, seed), manifest)


_fractions = st.sampled_from([0.5, 0.4, 0.34, 0.25])
_seeds = st.integers(0, 2**32 - 1)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(grouped(), _fractions, _seeds)
def test_a_split_is_a_partition_that_keeps_the_test_images(
    data: tuple[Manifest, np.ndarray], fraction: float, seed: int
) -> None:
    manifest, groups = data
    parts = split(manifest, groups, fraction, seed)
    together = np.concatenate([parts["train"], parts["validation"], parts["test"]])
    assert sorted(together) == list(range(len(manifest.keys)))
    assert list(parts["test"]) == [i for i, name in enumerate(manifest.splits) if name == "test"]


@settings(max_examples=50, deadline=None, derandomize=True)
@given(grouped(), _fractions, _seeds)
def test_a_split_never_cuts_a_group(data: tuple[Manifest, np.ndarray], fraction: float, seed: int) -> None:
    manifest, groups = data
    parts = split(manifest, groups, fraction, seed)
    assert not set(groups[parts["train"]]) & set(groups[parts["validation"]])


@settings(max_examples=50, deadline=None, derandomize=True)
@given(grouped(), _fractions, _seeds, st.randoms(use_true_random=False))
def test_a_split_does_not_depend_on_the_order(
    data: tuple[Manifest, np.ndarray], fraction: float, seed: int, random: Random
) -> None:
    manifest, groups = data
    order = list(range(len(manifest.keys)))
    random.shuffle(order)
    columns = ("keys", "sizes", "labels", "splits", "sha256")
    shuffled = Manifest(*(tuple(getattr(manifest, name)[i] for i in order) for name in columns))
    renamed = 1000 - groups[order]
    assert _held_back(shuffled, renamed, fraction, seed) == _held_back(manifest, groups, fraction, seed)


FRACTIONS = [0.5, 0.4, 0.3, 0.15, 0.1, 0.02]


@pytest.mark.parametrize("fraction", FRACTIONS)
def test_each_class_has_the_fraction_that_was_asked_for(fraction: float) -> None:
    manifest, groups = _hundred_and_fifty()
    parts = split(manifest, groups, fraction, seed=3)
    assert _validating(manifest, parts) == [100 * fraction, 50 * fraction + (0.5 if 50 * fraction % 1 else 0)]


@pytest.mark.parametrize("fraction", FRACTIONS)
@pytest.mark.parametrize("seed", range(5))
def test_groups_of_different_sizes_do_not_change_the_fraction(fraction: float, seed: int) -> None:
    manifest, _ = _hundred_and_fifty()
    groups = np.arange(150) // 3  # one group has both classes
    groups[::10] = np.arange(100, 115)
    parts = split(manifest, groups, fraction, seed)
    for validating, n in zip(_validating(manifest, parts), (100, 50), strict=True):
        assert abs(validating - fraction * n) <= 1.5  # half of the largest group


def test_large_groups_of_one_size_come_as_close_as_they_can() -> None:
    manifest, _ = _hundred_and_fifty()
    parts = split(manifest, np.arange(150) // 10, 0.16, seed=0)  # 16 and 8 images are asked for
    assert _validating(manifest, parts) == [20, 10]


def _validating(manifest: Manifest, parts: Split) -> list[int]:
    return [sum(manifest.labels[i] == label for i in parts["validation"]) for label in (0, 1)]


def _hundred_and_fifty() -> tuple[Manifest, np.ndarray]:
    rows = [(f"train/benign/{i}.png", 0) for i in range(100)] + [(f"train/malignant/{i}.png", 1) for i in range(50)]
    keys, labels = zip(*rows, strict=True)
    return Manifest(keys, (1,) * 150, labels, ("train",) * 150, ("0",) * 150), np.arange(150)


def _held_back(manifest: Manifest, groups: np.ndarray, fraction: float, seed: int) -> set[str]:
    return {manifest.keys[index] for index in split(manifest, groups, fraction, seed)["validation"]}


def test_another_seed_gives_another_split() -> None:
    manifest, groups = _hundred_and_fifty()
    assert _held_back(manifest, groups, 0.2, seed=1) == _held_back(manifest, groups, 0.2, seed=1)
    assert _held_back(manifest, groups, 0.2, seed=1) != _held_back(manifest, groups, 0.2, seed=2)


def test_a_class_with_too_few_distinct_images_cannot_be_split() -> None:
    manifest = Manifest(tuple("abcdef"), (1,) * 6, (0, 0, 0, 1, 1, 1), ("train",) * 6, ("0",) * 6)
    with pytest.raises(DataError, match=r"train/benign has 3 distinct images, but .* 0.15 needs 4; add"):
        split(manifest, np.array([0, 1, 2, 3, 4, 4]), 0.15, seed=0)
    with pytest.raises(DataError, match=r"train/malignant has 1 distinct images, but .* 0.33 needs 2; add"):
        split(manifest, np.array([0, 1, 2, 3, 3, 3]), 0.33, seed=0)


def _of_groups(sizes: dict[tuple[int, int], int]) -> tuple[Manifest, np.ndarray]:
    """A training set, given by its number of images of each group and class."""
    groups, labels = zip(*(member for member, n in sizes.items() for _ in range(n)), strict=True)
    n = len(groups)
    return Manifest(tuple(f"{i:02}" for i in range(n)), (1,) * n, labels, ("train",) * n, ("0",) * n), np.array(groups)


def test_groups_with_both_classes_can_be_split() -> None:
    manifest, groups = _of_groups({(0, 1): 4, (1, 0): 7, (2, 0): 4, (2, 1): 2})
    parts = split(manifest, groups, 0.5, seed=0)
    assert {manifest.labels[i] for i in parts["train"]} == {manifest.labels[i] for i in parts["validation"]} == {0, 1}


def test_a_split_that_would_leave_a_set_with_one_class_is_refused() -> None:
    manifest, groups = _of_groups({(n, n % 2): 11 for n in range(8)})
    with pytest.raises(DataError, match=r"validation set would have only one class"):
        split(manifest, groups, 0.1, seed=0)  # 4 images of each class


_numbers = st.integers(2, 4)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(grouped(), _numbers, _seeds)
def test_every_training_image_is_validated_in_one_fold_and_trained_on_in_the_others(
    data: tuple[Manifest, np.ndarray], number: int, seed: int
) -> None:
    manifest, groups = data
    made = folds(manifest, groups, number, 0.15, seed)
    together = whole(made, manifest)
    assert len(made) == number
    assert list(together["test"]) == [i for i, name in enumerate(manifest.splits) if name == "test"]
    assert sorted(np.concatenate([fold["validation"] for fold in made])) == list(together["validation"])
    assert sorted([*together["train"], *together["test"]]) == list(range(len(manifest.keys)))
    for fold in made:
        assert sorted(np.concatenate([fold["train"], fold["validation"]])) == list(together["train"])


@settings(max_examples=20, deadline=None, derandomize=True)
@given(grouped(), _numbers, _seeds)
def test_a_fold_never_cuts_a_group(data: tuple[Manifest, np.ndarray], number: int, seed: int) -> None:
    manifest, groups = data
    for fold in folds(manifest, groups, number, 0.15, seed):
        assert not set(groups[fold["train"]]) & set(groups[fold["validation"]])


@settings(max_examples=20, deadline=None, derandomize=True)
@given(grouped(), _numbers, _seeds, st.randoms(use_true_random=False))
def test_folds_are_those_of_scikit_learn_whatever_the_order_of_the_images(
    data: tuple[Manifest, np.ndarray], number: int, seed: int, random: Random
) -> None:
    manifest, groups = data
    train = [i for i in range(len(manifest.keys)) if manifest.splits[i] == "train"]  # in the order of their keys
    names = list(dict.fromkeys(groups[train]))
    own_groups = [names.index(group) for group in groups[train]]
    theirs = StratifiedGroupKFold(number, shuffle=True, random_state=seed)
    expected = [
        {manifest.keys[train[i]] for i in held_out}
        for _, held_out in theirs.split(train, np.array(manifest.labels)[train], own_groups)
    ]
    order = list(range(len(manifest.keys)))
    random.shuffle(order)
    columns = ("keys", "sizes", "labels", "splits", "sha256")
    shuffled = Manifest(*(tuple(getattr(manifest, name)[i] for i in order) for name in columns))
    found = folds(shuffled, 1000 - groups[order], number, 0.15, seed)
    assert [{shuffled.keys[i] for i in fold["validation"]} for fold in found] == expected


@pytest.mark.parametrize("number", [2, 3, 5, 10])
@pytest.mark.parametrize("seed", range(3))
def test_each_fold_has_its_share_of_each_class(number: int, seed: int) -> None:
    manifest, groups = _hundred_and_fifty()
    groups[:20] //= 4  # five groups of four images
    made = folds(manifest, groups, number, 0.15, seed)
    for label, n in ((0, 100), (1, 50)):
        held_out = [sum(manifest.labels[i] == label for i in fold["validation"]) for fold in made]
        assert max(abs(each - n / number) for each in held_out) <= 2  # half of the largest group


def test_one_fold_is_the_split() -> None:
    manifest, groups = _hundred_and_fifty()
    (fold,) = folds(manifest, groups, 1, 0.15, seed=3)
    parts = split(manifest, groups, 0.15, seed=3)
    assert [*fold["train"], *fold["validation"]] == [*parts["train"], *parts["validation"]]
    assert list(whole([fold], manifest)["validation"]) == list(parts["validation"])


def test_a_class_with_fewer_distinct_images_than_folds_is_refused() -> None:
    manifest, groups = _of_groups({(0, 0): 2, (1, 0): 2, (2, 0): 1, (3, 1): 1, (4, 1): 9})
    with pytest.raises(DataError, match=r"train/malignant has 2 distinct images, but 3 folds need as many; add"):
        folds(manifest, groups, 3, 0.15, seed=0)


def test_a_fold_with_one_class_is_refused() -> None:
    manifest, groups = _of_groups({(0, 0): 20, (0, 1): 1, (1, 1): 20, (1, 0): 1, (2, 0): 20})
    with pytest.raises(DataError, match=r"A fold would have only one class, .* lower `folds`"):
        folds(manifest, groups, 2, 0.15, seed=0)


def test_values_of_the_folds_come_into_the_order_of_the_images() -> None:
    made: list[Fold] = [
        {"train": np.array([2, 4]), "validation": np.array([7, 9])},
        {"train": np.array([7, 9]), "validation": np.array([2, 4])},
    ]
    assert list(out_of_fold(made, [np.array([0.7, 0.9]), np.array([0.2, 0.4])])) == [0.2, 0.4, 0.7, 0.9]
