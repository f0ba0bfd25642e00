"""Near-duplicates: changed copies are found, different lesions are not, and the order does not matter."""

import csv
import io
import os
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from skinlib.audit import duplicates
from skinlib.data import sample
from skinlib.data.listing import list_images
from skinlib.data.packing import open_packed, prepare
from skinlib.data.storage import open_store


@pytest.fixture(scope="module")
def lesions():
    """24 distinct synthetic lesions of both classes."""
    return np.stack([sample.draw(0, "train", name, k) for name in ("benign", "malignant") for k in range(1, 13)])


def flipped(image):
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def turned(image):
    return image.transpose(Image.Transpose.ROTATE_90)


def transposed(image):
    return image.transpose(Image.Transpose.TRANSPOSE)


def cropped(image):
    return image.crop((20, 5, 210, 195)).resize((224, 224))


def brightened(image):
    return ImageEnhance.Brightness(image).enhance(1.2)


def flattened(image):
    return ImageEnhance.Contrast(image).enhance(0.7)


def recompressed(image):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=40)
    return Image.open(file).convert("RGB")


def tilted(image):
    return image.rotate(6, Image.Resampling.BICUBIC)


def several(image):
    return recompressed(brightened(cropped(transposed(image))))


CHANGES = (flipped, turned, transposed, cropped, brightened, flattened, recompressed, tilted, several)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_changed_copy_is_found_and_nothing_else(lesions, change):
    copies = [np.asarray(change(Image.fromarray(image))) for image in lesions[::6]]
    pairs = duplicates.near(np.concatenate([lesions, np.stack(copies)]))
    assert pairs == [(0, 24), (6, 25), (12, 26), (18, 27)]


@settings(max_examples=8, deadline=None, derandomize=True)
@given(side=st.integers(180, 223), top=st.floats(0, 1), left=st.floats(0, 1), which=st.integers(0, 23))
def test_a_crop_of_up_to_a_tenth_on_each_side_is_found(lesions, side, top, left, which):
    y, x = round(top * (224 - side)), round(left * (224 - side))
    crop = Image.fromarray(lesions[which][y : y + side, x : x + side]).resize((224, 224))
    assert duplicates.near(np.concatenate([lesions, np.asarray(crop)[None]])) == [(which, 24)]


@settings(max_examples=8, deadline=None, derandomize=True)
@given(order=st.permutations(range(28)))
def test_the_order_of_the_images_does_not_matter(lesions, order):
    images = np.concatenate([lesions, lesions[:1], [np.asarray(several(Image.fromarray(i))) for i in lesions[1:4]]])
    pairs = duplicates.near(images[np.array(order)])
    assert sorted(tuple(sorted((order[i], order[j]))) for i, j in pairs) == [(0, 24), (1, 25), (2, 26), (3, 27)]
    assert all(i < j for i, j in pairs)
    assert all(a < b for a, b in pairwise(pairs))


def test_identical_images_are_those_with_the_same_pixels(lesions):
    images = np.concatenate([lesions[:3], lesions[:2], lesions[:1]])
    images[4, 0, 0, 0] ^= 1
    assert duplicates.identical(images) == [(0, 3), (0, 5), (3, 5)]
    assert duplicates.near(images) == [(0, 3), (0, 5), (1, 4), (3, 5)]


def test_more_copies_than_the_search_compares_are_all_found(lesions):
    copies = np.repeat(lesions[:1], duplicates.NEAREST + 4, axis=0)
    changed = np.asarray(flipped(Image.fromarray(lesions[0])))[None]
    assert duplicates.near(np.concatenate([copies, changed])) == list(combinations(range(len(copies) + 1), 2))


def test_the_pairs_of_very_many_copies_grow_linearly_and_connect_them_all():
    images = np.zeros((duplicates.COPIES + 500, 32, 32, 3), np.uint8)
    pairs = duplicates.identical(images)
    assert duplicates.near(images) == pairs
    assert len(pairs) == duplicates.COPIES * (duplicates.COPIES - 1) // 2 + 500
    assert {image for pair in pairs for image in pair} == set(range(len(images)))


def test_blank_images_resemble_none(lesions):
    blank = [np.full((224, 224, 3), level, np.uint8) for level in (0, 128, 255)]
    assert duplicates.near(np.concatenate([lesions[:2], np.stack(blank)])) == []


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_images_have_no_pairs(lesions, count):
    assert duplicates.near(lesions[:count]) == duplicates.identical(lesions[:count]) == []


def test_progress_ends_with_all_distinct_images(lesions):
    seen = []
    duplicates.near(np.concatenate([lesions, lesions[:4]]), lambda done, total: seen.append((done, total)))
    assert seen[-1] == (24, 24)


def test_the_known_duplicates_of_the_real_images_are_found(tmp_path):
    folder = os.environ.get("SKINLIB_TEST_IMAGES")
    if not folder or not Path(folder, "near_duplicates.csv").exists():
        pytest.skip("SKINLIB_TEST_IMAGES does not name a folder with the real images and near_duplicates.csv")
    cache = open_store(str(tmp_path))
    packed = open_packed(cache, prepare(list_images(folder), cache).hash)
    keys = packed.manifest.keys
    found = {frozenset((keys[i], keys[j])) for i, j in duplicates.near(packed.images)}
    with Path(folder, "near_duplicates.csv").open() as file:
        known = {frozenset((row["image_a"], row["image_b"])) for row in csv.DictReader(file)}
    assert len(known & found) >= 0.95 * len(known)
    assert len(found) < 220  # 183 at the time of writing, all correct by eye
