"""Traces in the pixels, and those of files that tell the classes apart."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from skinlib.audit import traces
from skinlib.data.manifest import Manifest
from skinlib.data.traces import FileTraces, columns

RNG = np.random.default_rng(0)
USUAL = FileTraces("JPEG", 600, 450, 0.5, "aaaaaaaa", 75, "4:2:0", False)


def measured(image: np.ndarray) -> dict[str, float]:
    return {name: float(value) for name, [value] in traces.pixel_traces(image[np.newaxis]).items()}


def noisy(deviation: float) -> np.ndarray:
    return np.clip(np.repeat(RNG.normal(128, deviation, (224, 224, 1)), 3, axis=2), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("deviation", [2, 5, 15])
def test_noise_is_its_standard_deviation(deviation: float) -> None:
    assert measured(noisy(deviation))["noise"] == pytest.approx(deviation, rel=0.05)


def test_a_smooth_image_has_no_noise_and_no_sharpness() -> None:
    ramp = np.broadcast_to(np.arange(224, dtype=np.uint8)[:, np.newaxis, np.newaxis], (224, 224, 3))
    assert measured(ramp)["noise"] == measured(ramp)["sharpness"] == 0


def test_a_blurred_image_is_less_sharp() -> None:
    image = Image.fromarray(noisy(15))
    blurred = np.asarray(image.filter(ImageFilter.GaussianBlur(2)))
    assert measured(blurred)["sharpness"] < 0.1 * measured(np.asarray(image))["sharpness"]


def test_sharpness_is_the_variance_of_the_laplacian() -> None:
    image = noisy(15)
    grey = image[..., 0].astype(float)
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * grey[1:-1, 1:-1]
    assert measured(image)["sharpness"] == pytest.approx(laplacian.var(), rel=1e-4)


def test_dark_corners_are_darker_than_the_middle() -> None:
    image = np.full((224, 224, 3), 200, np.uint8)
    assert measured(image)["dark_corners"] == 0
    for rows in (slice(28), slice(-28, None)):
        for across in (slice(28), slice(-28, None)):
            image[rows, across] = 50
    assert measured(image)["dark_corners"] == pytest.approx(150)


def test_without_images_there_are_no_values() -> None:
    assert [len(values) for values in traces.pixel_traces(np.zeros((0, 224, 224, 3), np.uint8)).values()] == [0] * 3


def manifest(
    labels: Sequence[int], files: Sequence[FileTraces], metadata: Mapping[str, tuple[str, ...]] | None = None
) -> Manifest:
    n = len(labels)
    keys = tuple(f"{i:04}" for i in range(n))
    return Manifest(keys, (1,) * n, tuple(labels), ("train",) * n, ("",) * n, (), metadata or {}, columns(files))


def found(labels: Sequence[int], files: Sequence[FileTraces], **more: Any) -> list[traces.Standout]:
    return traces.standouts(manifest(labels, files, **more), np.arange(len(labels)))


def test_files_that_another_encoder_saved_are_found() -> None:
    labels, other = [0] * 100 + [1] * 80, USUAL._replace(jpeg_tables="bbbbbbbb", jpeg_quality=None)
    [standout] = found(labels, [*[USUAL] * 120, *[other] * 60])
    assert standout == {
        "trace": "jpeg_tables",
        "value": "bbbbbbbb",
        "other": False,
        "benign": 0,
        "malignant": 60,
        "all_benign": 100,
        "all_malignant": 80,
    }


@pytest.mark.parametrize(
    ("trace", "changes"),
    [
        ("format", {"format": "PNG", "jpeg_tables": ""}),
        ("dimensions", {"width": 1024, "height": 768}),
        ("subsampling", {"subsampling": "4:4:4"}),
        ("exif", {"exif": True}),
    ],
)
def test_every_trace_of_a_file_is_searched(trace: str, changes: dict[str, Any]) -> None:
    other = USUAL._replace(**changes)
    assert found([0] * 100 + [1] * 80, [*[USUAL] * 100, *[other] * 80])[0]["trace"] == trace


def test_files_without_a_difference_have_none() -> None:
    kinds = [USUAL._replace(exif=bool(exif), subsampling=kind) for exif in (0, 1) for kind in ("4:4:4", "4:2:0")]
    labels = RNG.integers(0, 2, 1000).tolist()
    assert found(labels, [kinds[i] for i in RNG.integers(0, 4, 1000)]) == []


def test_a_value_of_few_images_is_left_out() -> None:
    other = USUAL._replace(exif=True)
    assert found([0] * 100 + [1] * 80, [*[USUAL] * 161, *[other] * 19]) == []
    assert len(found([0] * 100 + [1] * 80, [*[USUAL] * 160, *[other] * 20])) == 1


def test_the_strongest_trace_is_first_and_each_has_one_value() -> None:
    weak, strong = USUAL._replace(exif=True), USUAL._replace(exif=True, subsampling="4:4:4")
    names = [each["trace"] for each in found([0] * 100 + [1] * 100, [*[USUAL] * 50, *[weak] * 50, *[strong] * 100])]
    assert names == ["subsampling", "exif"]


def test_the_source_is_a_trace_even_where_the_files_have_none() -> None:
    sources = ("",) * 60 + ("clinic",) * 120
    made = manifest([1] * 80 + [0] * 100, [], {"clinic": sources})
    [standout] = traces.standouts(made, np.arange(180), "clinic")
    assert (standout["trace"], standout["benign"], standout["malignant"]) == ("source", 0, 60)
    assert traces.standouts(made, np.arange(180)) == []


def test_only_the_images_of_the_index_count() -> None:
    files = [*[USUAL] * 100, *[USUAL._replace(exif=True)] * 80]
    made = manifest([0] * 100 + [1] * 80, files)
    [standout] = traces.standouts(made, np.arange(50, 180))
    assert (standout["all_benign"], standout["all_malignant"]) == (50, 80)


def test_one_class_gives_no_trace() -> None:
    assert found([0] * 100, [*[USUAL] * 50, *[USUAL._replace(exif=True)] * 50]) == []
