"""The baselines that see no lesion: they find what tells the classes apart, and nothing where nothing does."""

import io
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from skinlib.audit import baselines, shortcut
from skinlib.audit.traces import pixel_traces
from skinlib.data.manifest import Manifest
from skinlib.data.packing import PackedDataset
from skinlib.data.split import Fold
from skinlib.data.traces import FileTraces, columns, file_traces

N = 240
LABELS = np.arange(N) % 2
PARTS = {"train": np.arange(120), "validation": np.arange(120, 180), "test": np.arange(180, N)}
IMAGES = np.random.default_rng(0).integers(0, 256, (N, 32, 32, 3), np.uint8)


def packed(files: Sequence[FileTraces] = (), sources: Sequence[str] = ()) -> PackedDataset:
    keys, labels = tuple(f"{i:04}" for i in range(N)), tuple(LABELS.tolist())
    metadata = {"clinic": tuple(sources)} if sources else {}
    manifest = Manifest(keys, (1,) * N, labels, ("train",) * N, ("",) * N, (), metadata, columns(files))
    return PackedDataset(IMAGES, manifest)


def saved(image: np.ndarray, **options: object) -> FileTraces:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", **options)
    return file_traces(file.getvalue())


def predicted(dataset: PackedDataset, part: str = "test", source: str | None = None) -> baselines.Baselines:
    """What the baselines that are fitted on `train` predict for another part."""
    pixels, seen = pixel_traces(dataset.images), shortcut.colours(dataset.images)
    return baselines.predictions(PARTS["train"], PARTS[part], dataset, seen, pixels, source)


def auroc(found: baselines.Baselines, name: str, part: str = "test") -> float:
    return float(roc_auc_score(LABELS[PARTS[part]], found[name]))


def test_a_class_that_another_program_saved_is_told_apart() -> None:
    files = [saved(image, quality=75 + 5 * int(label)) for image, label in zip(IMAGES, LABELS, strict=True)]
    for part in ("validation", "test"):
        assert auroc(predicted(packed(files), part), "file traces", part) == 1


def test_files_without_a_difference_tell_nothing() -> None:
    files = [saved(image) for image in IMAGES]
    assert 0.3 < auroc(predicted(packed(files)), "file traces") < 0.7


def test_without_traces_of_files_the_pixels_are_left() -> None:
    found = predicted(packed())
    assert list(found) == ["colours", "file traces"]
    assert len(np.unique(found["file traces"])) > 1


def test_images_that_do_not_differ_get_the_share_of_malignant_ones() -> None:
    images = np.zeros((N, 32, 32, 3), np.uint8)
    found = predicted(PackedDataset(images, packed().manifest))
    np.testing.assert_array_equal(found["file traces"], np.full(60, 0.5))


def test_the_source_predicts_the_share_of_its_training_images() -> None:
    sources = ["A" if i % 4 < 2 else "B" if LABELS[i] else "" for i in range(N)]
    sources[-1] = "C"
    found = predicted(packed(sources=sources), source="clinic")["source"]
    shares = {"A": 30.5 / 61, "B": 30.5 / 31, "": 0.5 / 31, "C": 0.5}
    np.testing.assert_allclose(found, [shares[sources[i]] for i in PARTS["test"]])


def test_only_training_images_are_learnt_from() -> None:
    files = [saved(image, quality=75 + 5 * int(label)) for image, label in zip(IMAGES, LABELS, strict=True)]
    first = packed(files, ["AB"[label] for label in LABELS])
    labels = np.r_[LABELS[:120], 1 - LABELS[120:]]
    second = replace(first, manifest=replace(first.manifest, labels=tuple(labels.tolist())))
    found = [predicted(each, source="clinic") for each in (first, second)]
    for name in ("colours", "file traces", "source"):
        np.testing.assert_array_equal(found[0][name], found[1][name])


def test_a_value_that_training_did_not_have_can_be_predicted() -> None:
    files = [FileTraces("JPEG", 60, 40, 0.5, "ab"[label], None, "", False) for label in LABELS]
    files[-1] = files[-1]._replace(jpeg_tables="new")
    found = predicted(packed(files))["file traces"]
    assert found[-3] > 0.9 > 0.1 > found[-2]
    assert 0 < found[-1] < 1


def test_a_part_without_images_has_no_probabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PARTS, "test", np.zeros(0, np.int64))
    assert [len(each) for each in predicted(packed(sources=["A"] * N), source="clinic").values()] == [0, 0, 0]


def test_the_same_images_give_the_same_figures() -> None:
    first, second = (predicted(packed())["file traces"] for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_each_validation_image_is_predicted_by_the_fold_that_held_it_out() -> None:
    files = [saved(image, quality=75 + 5 * int(label)) for image, label in zip(IMAGES, LABELS, strict=True)]
    everything, sources = np.arange(180), ["A" if i < 90 else "B" for i in range(N)]
    halves = [everything[everything // 2 % 2 == i] for i in (0, 1)]
    folds: list[Fold] = [{"train": halves[i], "validation": halves[1 - i]} for i in (0, 1)]
    dataset = packed(files, sources)
    pixels, colours = pixel_traces(dataset.images), shortcut.colours(dataset.images)
    found = baselines.held_out(dataset, colours, folds, everything, PARTS["test"], "clinic")
    for fold in folds:
        alone = baselines.predictions(fold["train"], fold["validation"], dataset, colours, pixels, "clinic")
        for name, expected in alone.items():
            np.testing.assert_array_equal(found["validation"][name][fold["validation"]], expected)
    assert found["test"].keys() == found["validation"].keys() == {"colours", "file traces", "source"}
