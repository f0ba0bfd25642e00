"""Stress test: does a classifier still work on pictures that another camera, clinic or hand would take?

Each shift has one strength that is common in practice. Values are of 8-bit sRGB, pixels of 224 per side:

    jpeg             quality 30, colour at half resolution: a picture sent with a messenger
    blur             Gaussian, sigma 1.5 px: slightly out of focus
    noise            Gaussian, sigma 12 of 255 in each channel: a small sensor in dim light
    brighter, darker times 1.25 and 0.75: exposure 0.7 stops higher and 0.9 stops lower (one stop is 2 ** (1 / 2.2))
    more and less    1.3 and 0.7 times as far from mid grey, like the tone curves of different cameras
      contrast
    warmer, cooler   light of 4,000 K (a white LED) for a camera set to 5,500 K (daylight), and the reverse:
                     red times 1.13 and blue times 0.82, from Planck's law in linear sRGB
    hair             12 dark hairs, 1 to 2 px wide (0.1 mm, if the picture shows 20 mm)
    ruler            a white strip along one edge, 24 px wide, with a mark every millimetre
    rotated, ...     by 90, 180, 270 and 45 degrees, with mirrored content in the corners; and both mirror images
"""

import io
import math
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias, TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from skinlib.data import hair
from skinlib.evaluation.metrics import Metrics, auroc, binary_metrics

Pixels: TypeAlias = NDArray[np.uint8]  # (H, W, 3), or (N, H, W, 3)
Shift: TypeAlias = Callable[[Pixels], Pixels]

UNCHANGED = "unchanged"
WARM = np.array([1.127, 1.0, 0.822])  # ratio of light of 4,000 K to 5,500 K, to the power of 1 / 2.2


class StressRow(TypedDict):
    """One row of the artifact `stress`: the metrics under one shift, in 0..1; None where undefined."""

    name: str  # of the shift
    auroc: float | None
    sensitivity: float | None
    specificity: float | None
    auroc_change: float | None  # AUROC minus that of the unchanged images
    probability_change: float  # mean absolute change of the probability of malignancy


def table(
    predict: Callable[[Pixels], NDArray[np.float64]],
    images: Pixels,
    labels: NDArray[np.int64],
    unchanged: NDArray[np.float64],
    threshold: float,
    batch_size: int = 64,
    workers: int = 1,
) -> list[StressRow]:
    """Compare what a classifier says of the unchanged images with what it says under each of `SHIFTS`.

    The random draws of a shift depend only on the image, not on order or batches. Each worker holds one batch of
    changed images at a time.

    Args:
        predict: maps uint8 (n, 224, 224, 3) to probabilities of malignancy, float (n,).
        images: uint8 (N, 224, 224, 3), may be a memory map.
        labels: int (N,), 1 is malignant.
        unchanged: float (N,), what it predicts for the images as they are.
        threshold: images with this probability or a higher one are classified as malignant.
        batch_size: images per call of `predict`.
        workers: threads, each with one batch at a time; let torch use one thread, so that they do not compete.

    Returns:
        One row for the `UNCHANGED` images, then one per shift.
    """

    def predict_shifted(shift: Shift) -> NDArray[np.float64]:
        def predict_batch(start: int) -> NDArray[np.float64]:
            return predict(np.stack([shift(np.asarray(image)) for image in images[start : start + batch_size]]))

        return np.concatenate(list(pool.map(predict_batch, range(0, len(images), batch_size))))

    with ThreadPoolExecutor(workers) as pool:
        shifted = {name: predict_shifted(shift) for name, shift in SHIFTS.items()}
    before = auroc(labels, unchanged)
    return [
        _row(name, binary_metrics(labels, each, threshold), before, float(np.abs(each - unchanged).mean()))
        for name, each in {UNCHANGED: unchanged, **shifted}.items()
    ]


def _row(name: str, metrics: Metrics, before: float | None, probability_change: float) -> StressRow:
    return {
        "name": name,
        "auroc": metrics["auroc"],
        "sensitivity": metrics["sensitivity"],
        "specificity": metrics["specificity"],
        "auroc_change": None if metrics["auroc"] is None or before is None else metrics["auroc"] - before,
        "probability_change": probability_change,
    }


def _jpeg(image: Pixels) -> Pixels:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "jpeg", quality=30, subsampling="4:2:0")
    return np.asarray(Image.open(file))


def _blur(image: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(1.5)))


def _noise(image: Pixels) -> Pixels:
    return _to_uint8(image + 12 * _generator(image).standard_normal(image.shape, np.float32))


def _tone(curve: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Shift:
    """Map each channel with `curve`, which maps the 256 values of each channel, float (256, 3), to 0..255."""
    values = np.repeat(np.arange(256.0)[:, None], 3, axis=1)
    lookup = _to_uint8(curve(values))
    return lambda image: lookup[image, np.arange(3)]


def _hair(image: Pixels) -> Pixels:
    rng, side, scale = _generator(image), image.shape[0], 4
    canvas = Image.new("L", (side * scale, side * scale))
    pen = ImageDraw.Draw(canvas)
    lean = rng.uniform(0, math.pi)
    for _ in range(12):
        curve = hair.curve(rng, lean, shortest=0.2)
        width = int(rng.integers(scale, 2 * scale + 1))
        pen.line((curve * side * scale).ravel().tolist(), fill=int(rng.integers(150, 240)), width=width)
    cover = np.asarray(canvas.reduce(scale), np.float32)[:, :, None] / 255
    return _to_uint8(image * (1 - cover) + cover * np.array([40, 28, 22], np.float32))


def _ruler(image: Pixels) -> Pixels:
    edge = int(_generator(image).integers(4))
    turned = Image.fromarray(np.rot90(image, edge))
    pen = ImageDraw.Draw(turned)
    pen.rectangle((0, 0, turned.width, 23), fill=(235, 235, 230))
    for millimetre in range(turned.width // 11 + 1):
        length = 14 if millimetre % 5 == 0 else 8
        pen.line((11 * millimetre, 23 - length, 11 * millimetre, 23), fill=(30, 30, 30))
    return np.rot90(np.asarray(turned), -edge)


def _rotate_45(image: Pixels) -> Pixels:
    side = image.shape[0]
    margin = math.ceil(side * (math.sqrt(2) - 1) / 2) + 1
    wide = Image.fromarray(np.pad(image, ((margin, margin), (margin, margin), (0, 0)), mode="reflect"))
    turned = np.asarray(wide.rotate(45, Image.Resampling.BILINEAR))
    return turned[margin : margin + side, margin : margin + side]


def _generator(image: Pixels) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(image.tobytes()))


def _to_uint8(values: NDArray[np.floating]) -> Pixels:
    return np.asarray(np.clip(values, 0, 255) + 0.5).astype(np.uint8)


# Each maps an image, uint8 (S, S, 3), to one of the same shape, which depends on that image only.
SHIFTS: dict[str, Shift] = {
    "jpeg": _jpeg,
    "blur": _blur,
    "noise": _noise,
    "brighter": _tone(lambda values: values * 1.25),
    "darker": _tone(lambda values: values * 0.75),
    "more contrast": _tone(lambda values: 127.5 + (values - 127.5) * 1.3),
    "less contrast": _tone(lambda values: 127.5 + (values - 127.5) * 0.7),
    "warmer": _tone(lambda values: values * WARM),
    "cooler": _tone(lambda values: values / WARM),
    "hair": _hair,
    "ruler": _ruler,
    "rotated 90": lambda image: np.rot90(image, 1),
    "rotated 180": lambda image: np.rot90(image, 2),
    "rotated 270": lambda image: np.rot90(image, 3),
    "rotated 45": _rotate_45,
    "mirrored left-right": lambda image: image[:, ::-1],
    "mirrored top-bottom": lambda image: image[::-1],
}
