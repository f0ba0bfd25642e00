"""The audit: duplicates, leaks and label conflicts are found, and groups join them."""

import json
from dataclasses import replace

import numpy as np
import pytest

from skinlib.audit import lesions
from skinlib.audit.findings import audit_images
from skinlib.data import sample
from skinlib.data.manifest import CLASSES, Manifest
from skinlib.data.packing import PackedDataset
from skinlib.errors import DataError


def packed(images):
    """Make a packed set from {key: pixels}, sorted by key like every manifest."""
    keys = tuple(sorted(images))
    places = [key.split("/") for key in keys]
    return PackedDataset(
        np.stack([images[key] for key in keys]),
        Manifest(
            keys,
            sizes=(1,) * len(keys),
            labels=tuple(CLASSES.index(place[1]) for place in places),
            splits=tuple(place[0] for place in places),
            sha256=("",) * len(keys),
        ),
    )


def audit(dataset, group_by=()):
    """Audit a packed set as the flow does, but without a store."""
    pairs = {"identical": lesions.identical(dataset.images), "same_lesions": lesions.same_lesions(dataset.images)}
    return audit_images(dataset, pairs, group_by)


@pytest.fixture(scope="module")
def images():
    """Eight distinct images, two for each split and class."""
    return {
        f"{split}/{name}/{k}.jpg": sample.draw(0, split, name, k)
        for split in ("train", "test")
        for name in CLASSES
        for k in (1, 2)
    }


@pytest.fixture(scope="module")
def flawed(images):
    """The eight, with two more copies of one, and a turned copy of another in the other class and split."""
    copied, turned = images["train/benign/1.jpg"], images["train/malignant/1.jpg"][::-1]
    return audit(
        packed(images | {"train/benign/3.jpg": copied, "test/malignant/3.jpg": copied, "test/benign/3.jpg": turned})
    )


def test_a_clean_set_has_no_findings(images):
    found = audit(packed(images))
    assert found.summary["exact_duplicates"] == found.summary["same_lesions"] == found.summary["leaks"] == []
    assert found.summary["label_conflicts"] == found.summary["doubtful_labels"] == []
    assert found.groups.tolist() == list(range(8))
    assert not found.twins.any()
    found.refuse_conflicts()


def test_identical_images_are_named_and_are_not_near_duplicates(flawed):
    assert flawed.summary["exact_duplicates"] == [
        ("test/malignant/3.jpg", "train/benign/1.jpg"),
        ("test/malignant/3.jpg", "train/benign/3.jpg"),
        ("train/benign/1.jpg", "train/benign/3.jpg"),
    ]
    assert flawed.summary["same_lesions"] == [("test/benign/3.jpg", "train/malignant/1.jpg")]


def test_leaks_of_either_kind_name_the_train_image_first(flawed):
    assert flawed.summary["leaks"] == [
        ("train/benign/1.jpg", "test/malignant/3.jpg"),
        ("train/benign/3.jpg", "test/malignant/3.jpg"),
        ("train/malignant/1.jpg", "test/benign/3.jpg"),
    ]


def test_identical_images_in_both_classes_are_conflicts_and_nearly_identical_ones_are_doubtful(flawed):
    assert flawed.summary["label_conflicts"] == flawed.summary["exact_duplicates"][:2]
    assert flawed.summary["doubtful_labels"] == flawed.summary["same_lesions"]


def test_conflicts_are_an_error_that_names_them(flawed):
    with pytest.raises(DataError, match=r"2 pairs of .*test/malignant/3\.jpg and train/benign/1\.jpg.*remove"):
        flawed.refuse_conflicts()


def test_groups_join_duplicates_and_are_numbered_in_the_order_of_the_keys(flawed):
    # test: benign 1, 2, 3, malignant 1, 2, 3; train: benign 1, 2, 3, malignant 1, 2
    assert flawed.groups.tolist() == [0, 1, 2, 3, 4, 5, 5, 6, 5, 2, 7]
    assert flawed.groups.dtype == np.int64
    assert flawed.summary["n_groups"] == 8


def test_twins_are_the_test_images_with_a_duplicate_in_train(flawed):
    assert np.flatnonzero(flawed.twins).tolist() == [2, 5]


def test_a_chain_of_duplicates_is_one_group(images):
    first = images["train/benign/1.jpg"]
    found = audit(packed(images | {"train/benign/3.jpg": first, "test/benign/3.jpg": np.rot90(first)}))
    assert len(found.summary["same_lesions"]) == 2
    assert found.summary["n_groups"] == 8


def test_a_test_image_is_a_twin_if_a_chain_of_any_length_leads_to_train(images):
    # Among many look-alikes, the search compares each image with some of the others only.
    keys = sorted(images)
    first, second, third = (keys.index(f"{key}.jpg") for key in ("test/benign/1", "test/benign/2", "train/benign/1"))
    pairs = {"identical": [], "same_lesions": [(first, second), (second, third)]}
    found = audit_images(packed(images), pairs)
    assert found.summary["leaks"] == [("train/benign/1.jpg", "test/benign/2.jpg")]
    assert np.flatnonzero(found.twins).tolist() == [first, second]


def test_counts_and_statistics_are_by_split_and_class(images):
    found = audit(packed(images))
    statistics = found.summary["statistics"]["test"]["benign"]
    assert found.summary["counts"] == {split: {"benign": 2, "malignant": 2} for split in ("train", "test")}
    pixels = np.stack([images["test/benign/1.jpg"], images["test/benign/2.jpg"]]) / 255
    assert statistics["mean of red"] == pytest.approx(pixels[..., 0].mean(), abs=1e-3)
    deviations = pixels[..., 2].std(axis=(1, 2))
    assert statistics["deviation of blue"] == pytest.approx(deviations.mean(), abs=1e-3)


def test_the_summary_survives_json(flawed):
    assert json.loads(json.dumps(flawed.summary))["leaks"][0] == ["train/benign/1.jpg", "test/malignant/3.jpg"]


def test_equal_metadata_joins_images_into_a_group_and_makes_twins(images):
    dataset = packed(images)
    names = ["7", "", "", "8", "7", "", "8", ""]  # sorted by key: test first
    manifest = replace(dataset.manifest, metadata={"lesion_id": tuple(names)})
    found = audit(replace(dataset, manifest=manifest), group_by=["lesion_id"])
    assert found.groups.tolist() == [0, 1, 2, 3, 0, 4, 3, 5]
    assert np.flatnonzero(found.twins).tolist() == [0, 3]
    assert found.summary["leaks"] == []
