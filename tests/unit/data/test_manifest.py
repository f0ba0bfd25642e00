"""The manifest: its hash covers every column, and it survives JSON."""

import json
from dataclasses import asdict, replace

import pytest

from skinlib.data.manifest import Manifest


@pytest.mark.parametrize("column", ["keys", "sizes", "labels", "splits", "sha256"])
def test_the_hash_covers(column: str) -> None:
    manifest = Manifest(("a", "b"), (1, 2), (0, 1), ("train", "test"), ("f0", "f1"))
    swapped = replace(manifest, **{column: getattr(manifest, column)[::-1]})
    assert swapped.hash != manifest.hash


def test_a_manifest_survives_json() -> None:
    rejected, traces = (("b", "it is empty"),), {"width": (600,), "jpeg_quality": (None,)}
    manifest = Manifest(("ü/a",), (1,), (1,), ("train",), ("f0",), rejected, {"site": ("back",)}, traces)
    assert Manifest.from_columns(json.loads(json.dumps(asdict(manifest)))) == manifest


def test_a_summary_is_plain() -> None:
    manifest = Manifest(("a", "b"), (1, 2), (1, 0), ("train", "test"), ("f0", "f1"), (("c", "it is empty"),))
    assert manifest.summary() == {
        "hash": manifest.hash,
        "n_images": 2,
        "counts": {"train": {"benign": 0, "malignant": 1}, "test": {"benign": 1, "malignant": 0}},
        "rejected": [{"key": "c", "reason": "it is empty"}],
        "metadata": {},
    }


def test_the_hash_does_not_cover_the_traces() -> None:
    manifest = Manifest(("a",), (1,), (1,), ("train",), ("f0",))
    assert replace(manifest, traces={"width": (600,)}).hash == manifest.hash
