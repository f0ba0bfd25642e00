"""Same lesions: changed copies and other photographs are found, different lesions are not, in any order."""

import csv
import io
from itertools import combinations, groupby, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from skinlib.audit import features
from skinlib.audit import lesions as search
from skinlib.data import sample
from skinlib.data.images import decode
from skinlib.data.manifest import Manifest
from skinlib.data.packing import PackedDataset
from skinlib.data.storage import open_store


@pytest.fixture(scope="module")
def lesions():
    """10 distinct synthetic lesions of both classes."""
    return np.stack([sample.draw(0, "train", name, k) for name in ("benign", "malignant") for k in range(1, 6)])


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
    copies = [np.asarray(change(Image.fromarray(image))) for image in lesions[::4]]
    pairs = search.same_lesions(np.concatenate([lesions, np.stack(copies)]))
    assert pairs == [(0, 10), (4, 11), (8, 12)]


@settings(max_examples=3, deadline=None, derandomize=True)
@given(side=st.integers(180, 223), top=st.floats(0, 1), left=st.floats(0, 1), which=st.integers(0, 9))
def test_a_crop_of_up_to_a_tenth_on_each_side_is_found(lesions, side, top, left, which):
    y, x = round(top * (224 - side)), round(left * (224 - side))
    crop = Image.fromarray(lesions[which][y : y + side, x : x + side]).resize((224, 224))
    assert search.same_lesions(np.concatenate([lesions, np.asarray(crop)[None]])) == [(which, 10)]


@settings(max_examples=3, deadline=None, derandomize=True)
@given(order=st.permutations(range(14)))
def test_the_order_of_the_images_does_not_matter(lesions, order):
    images = np.concatenate([lesions, lesions[:1], [np.asarray(several(Image.fromarray(i))) for i in lesions[1:4]]])
    pairs = search.same_lesions(images[np.array(order)])
    assert sorted(tuple(sorted((order[i], order[j]))) for i, j in pairs) == [(0, 10), (1, 11), (2, 12), (3, 13)]
    assert all(i < j for i, j in pairs)
    assert all(a < b for a, b in pairwise(pairs))


def test_identical_images_are_those_with_the_same_pixels(lesions):
    images = np.concatenate([lesions[:3], lesions[:2], lesions[:1]])
    images[4, 0, 0, 0] ^= 1
    assert search.identical(images) == [(0, 3), (0, 5), (3, 5)]
    assert search.same_lesions(images) == [(0, 3), (0, 5), (1, 4), (3, 5)]


def test_more_copies_than_the_search_compares_are_all_found(lesions):
    copies = np.repeat(lesions[:1], search._NEAREST + 4, axis=0)
    changed = np.asarray(flipped(Image.fromarray(lesions[0])))[None]
    assert search.same_lesions(np.concatenate([copies, changed])) == list(combinations(range(len(copies) + 1), 2))


def test_the_pairs_of_very_many_copies_grow_linearly_and_connect_them_all():
    images = np.zeros((search.COPIES + 500, 32, 32, 3), np.uint8)
    pairs = search.identical(images)
    assert search.same_lesions(images) == pairs
    assert len(pairs) == search.COPIES * (search.COPIES - 1) // 2 + 500
    assert {image for pair in pairs for image in pair} == set(range(len(images)))


def test_blank_images_resemble_none(lesions):
    blank = [np.full((224, 224, 3), level, np.uint8) for level in (0, 128, 255)]
    assert search.same_lesions(np.concatenate([lesions[:2], np.stack(blank)])) == []


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_images_have_no_pairs(lesions, count):
    assert search.same_lesions(lesions[:count]) == search.identical(lesions[:count]) == []


def test_progress_ends_with_all_distinct_images(lesions):
    seen = []
    search.same_lesions(np.concatenate([lesions, lesions[:4]]), lambda done, total: seen.append((done, total)))
    assert seen[-1] == (10, 10)


def zoomed(image):
    return image.crop((40, 30, 190, 180)).resize((224, 224), Image.Resampling.BICUBIC)


def test_other_photographs_of_a_lesion_are_found(lesions):
    """At another zoom, angle and light, and both mirrored."""
    first = Image.fromarray(lesions[0])
    views = [brightened(zoomed(first)), flattened(first.rotate(35, Image.Resampling.BICUBIC)), flipped(zoomed(first))]
    found = search.same_lesions(np.concatenate([lesions, np.stack([np.asarray(view) for view in views])]))
    assert {(0, 10), (0, 11), (0, 12)} <= set(found)
    assert {pair[0] for pair in found} <= {0, 10, 11}


def test_mirrored_features_are_those_of_the_mirrored_image(lesions):
    expected = features.extract(lesions[0][:, ::-1])
    assert features.shared(features.mirrored(features.extract(lesions[0]), 224), expected) > features.KEPT // 3
    assert features.shared(features.extract(lesions[0]), expected) < search.CONFIRMED


def test_images_with_few_or_no_features_are_no_pairs():
    edge = np.zeros((4, 224, 224, 3), np.uint8)
    edge[1, :, 100:], edge[2, 50:60, 50:60], edge[3, 90:120, 90:120] = 200, 180, 180
    assert search.same_lesions(edge) == []


def test_known_lesions_of_the_real_images_are_found(real_images):
    with (real_images / "metadata.csv").open() as file:
        rows = sorted((row["lesion_id"], row["file_name"]) for row in csv.DictReader(file) if row["lesion_id"])
    groups = [[key for _, key in group] for _, group in groupby(rows, lambda row: row[0])]
    several = [group for group in groups if len(group) > 1][:30]
    keys = [key for group in several for key in group] + [group[0] for group in groups if len(group) == 1][:40]
    known = {pair for group in several for pair in combinations(group, 2)}
    found = search.same_lesions(np.stack([decode((real_images / key).read_bytes()) for key in keys]))
    named = {(keys[i], keys[j]) for i, j in found}
    assert len(named & known) >= 0.8 * len(known)
    assert len(named - known) <= 0.02 * len(named)


@pytest.fixture
def packed(lesions):
    """The ten lesions and a copy of the first, as a packed set."""
    images = np.concatenate([lesions, lesions[:1]])
    n = len(images)
    keys = tuple(f"train/benign/{k:02}.jpg" for k in range(n))
    return PackedDataset(images, Manifest(keys, (1,) * n, (0,) * n, ("train",) * n, ("",) * n))


@pytest.mark.parametrize("damage", [None, b"", b"[]", b'[{"identical": [], "same_lesions": []}, ""]'])
def test_a_search_is_done_once_per_packed_set_unless_what_it_kept_is_damaged(packed, tmp_path, monkeypatch, damage):
    cache = open_store(str(tmp_path))
    first = search.search(packed, cache)
    assert first == {"identical": [(0, 10)], "same_lesions": [(0, 10)]}
    if damage is not None:
        (kept,) = tmp_path.rglob("lesions-*.json")
        kept.write_bytes(damage)
    again = []
    monkeypatch.setattr(search, "same_lesions", lambda *_: again.append(1) or [(0, 10)])
    assert search.search(packed, cache) == first
    assert len(again) == (damage is not None)


def test_a_search_with_other_code_starts_anew(packed, tmp_path, monkeypatch):
    cache = open_store(str(tmp_path))
    search.search(packed, cache)
    monkeypatch.setattr(search.cv2, "__version__", "0")
    monkeypatch.setattr(search, "same_lesions", lambda *_: [])
    assert search.search(packed, cache)["same_lesions"] == []
