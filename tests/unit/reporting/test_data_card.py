from types import SimpleNamespace

import numpy as np
import pytest

from skinlib.reporting import data_card
from skinlib.reporting.text import FINDINGS
from tests.unit.results import photographs, standout

SUMMARY = {
    "hash": "9f2c" * 16,
    "n_images": 3292,
    "counts": {"train": {"benign": 1440, "malignant": 1195}, "test": {"benign": 360, "malignant": 297}},
    "rejected": [{"key": "train/benign/7.jpg", "reason": "truncated"}],
    "metadata": {"source": {"known": 9, "distinct": 2}},
}
STATISTICS = {
    "train": {
        "benign": {"mean of red": 0.8, "mean of green": 0.55},
        "malignant": {"mean of red": 0.71, "mean of green": 0.53},
    },
    "test": {"benign": {"mean of red": 0.79, "mean of green": 0.54}},
}
NOTHING_FOUND = {name: [] for name in FINDINGS} | {"n_groups": 3231, "statistics": STATISTICS}


BASELINES = {"colours": 0.8614, "file traces": 0.8885, "source": None}


def packed_set(images):
    """Give images the keys train/benign/0.jpg, test/benign/0.jpg, train/benign/1.jpg and so on."""
    keys = tuple(f"{('train', 'test')[i % 2]}/benign/{i // 2}.jpg" for i in range(len(images)))
    return SimpleNamespace(images=images, labels=np.arange(len(images)) % 2, manifest=SimpleNamespace(keys=keys))


def show(card, summary=SUMMARY, audit=NOTHING_FOUND, baselines=BASELINES, standouts=(), synthetic=False):
    packed = packed_set(photographs(126))
    data_card.show(card, summary, audit, packed, np.array([1]), baselines, standouts, synthetic)


def test_card_shows_counts_rejected_files_and_hash(card):
    show(card)
    for words in ("Data: 3,292 images", '"1195", "2635"', '"train/benign/7.jpg", "truncated"', SUMMARY["hash"]):
        assert words in card.text()


def test_card_says_that_nothing_was_rejected(card):
    show(card, SUMMARY | {"rejected": []})
    assert "Nothing was rejected." in card.text()


def test_card_counts_the_rejected_files_it_does_not_list(card):
    rejected = [{"key": f"{i}.jpg", "reason": "truncated"} for i in range(1234)]
    show(card, SUMMARY | {"rejected": rejected})
    assert "49.jpg" in card.text()
    assert "50.jpg" not in card.text()
    assert "The other 1,184 are in the artifact `manifest`." in card.text()


@pytest.mark.parametrize("name", FINDINGS)
def test_card_counts_and_names_the_pairs_of_each_finding(card, name):
    pairs = [(f"train/benign/{i}.jpg", f"test/benign/{i}.jpg") for i in range(63)]
    show(card, audit=NOTHING_FOUND | {name: pairs})
    title, meaning = FINDINGS[name]
    counts = [count for count, _ in card.table("## Audit").values()]
    assert counts == ["63" if each == name else "0" for each in FINDINGS]
    assert card.table("## Audit")[title] == ["63", meaning]
    assert list(card.table(f"## {title}: 63")) == [one for one, _ in pairs[:50]]
    assert "The other 13 are in the artifact `audit`." in card.text()
    assert "3,231 groups" in card.text()


@pytest.mark.parametrize(("n_pairs", "n_pictures"), [(0, 0), (1, 2), (63, 24)])
def test_card_shows_pictures_of_up_to_12_pairs_of_the_same_lesion(card, monkeypatch, n_pairs, n_pictures):
    drawn = []
    grid = data_card.figures.image_grid
    monkeypatch.setattr(data_card.figures, "image_grid", lambda *of: drawn.append(of) or grid(*of))
    pairs = [(f"train/benign/{i}.jpg", f"test/benign/{i}.jpg") for i in range(n_pairs)]
    show(card, audit=NOTHING_FOUND | {"same_lesions": pairs})
    captions = [caption for _, _, names in drawn[1:] for caption in names]
    assert captions == [f"{i}: {split}" for i in range(1, n_pictures // 2 + 1) for split in ("train", "test")]
    assert ("side by side" in card.text()) == (n_pairs > 0)


@pytest.mark.parametrize(("auroc", "words"), [(0.8614, "AUROC 0.861 on"), (None, "AUROC undefined on")])
def test_card_shows_the_colour_baseline(card, auroc, words):
    show(card, baselines={"colours": auroc})
    assert f"Colour baseline: {words} the validation images" in card.text()
    assert '"train, benign", "train, malignant", "test, benign"' in card.text()
    assert card.table("## Colour baseline")["mean of red"] == ["0.800", "0.710", "0.790"]


def test_card_shows_the_other_baselines_and_every_trace_that_tells_the_classes_apart(card):
    show(card, standouts=[standout(), standout(trace="exif", value="yes", benign=0)])
    shown = card.table("## Other baselines")
    assert {name: cells[0] for name, cells in shown.items()} == {"file traces": "0.888", "source": "undefined"}
    assert "**532 of 958 malignant and 35 of 1,152 benign training images have the chroma subsampling" in card.text()
    assert "532 of 958 malignant and no benign training images have EXIF data." in card.text()


def test_card_says_that_no_trace_tells_the_classes_apart(card):
    show(card, baselines={"colours": 0.8, "file traces": 0.5})
    assert list(card.table("## Other baselines")) == ["file traces"]
    assert "**No single trace tells the classes apart.**" in card.text()


@pytest.mark.parametrize("synthetic", [True, False])
def test_card_says_if_and_only_if_the_images_are_synthetic(card, synthetic):
    show(card, synthetic=synthetic)
    assert ("synthetic" in card.text()) == synthetic


def test_card_takes_less_than_a_megabyte_and_a_half(card):
    noise = np.random.default_rng(0).integers(0, 256, (24, 224, 224, 3), dtype=np.uint8)
    pairs = [("train/benign/1.jpg", "test/benign/2.jpg")] * 1000
    packed = packed_set(noise)
    found = NOTHING_FOUND | dict.fromkeys(FINDINGS, pairs)
    data_card.show(card, SUMMARY, found, packed, np.arange(24), BASELINES, [standout()] * 6, False)
    assert card.n_bytes() < 1_500_000
