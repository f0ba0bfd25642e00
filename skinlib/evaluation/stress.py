"""Does a classifier still work on what another camera, clinic or hand would have made of the same lesions?

Each shift has one strength, such as is met in practice; values are of 8-bit sRGB, pixels of 224 a side:

    jpeg             quality 30, colour at half resolution: a picture sent through a messenger
    blur             Gaussian, sigma 1.5 px: slightly out of focus
    noise            Gaussian, sigma 12 of 255, in each channel: a small sensor in dim light
    brighter, darker times 1.25 and 0.75: exposed 0.7 stops more and 0.9 stops less (a stop is 2 ** (1 / 2.2))
    more and less    1.3 and 0.7 times as far from mid grey, as the tone curves of cameras differ
      contrast
    warmer, cooler   light of 4,000 K (a white LED) seen by a camera set to 5,500 K (daylight), and the reverse:
                     red times 1.13 and blue times 0.82, from Planck's law in linear sRGB
    hair             12 dark hairs, 1 to 2 px wide (0.1 mm, if the picture shows 20 mm)
    ruler            a white strip along one edge, 24 px wide, with a mark every millimetre
    rotated, ...     by 90, 180, 270 and 45 degrees, what comes in from outside mirrored there; and both mirror images
"""

import io
import math
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias, TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from skinlib.data import hair
from skinlib.evaluation.metrics import binary_metrics

Pixels: TypeAlias = NDArray[np.uint8]  # (H, W, 3)
Shift: TypeAlias = Callable[[Pixels], Pixels]

UNCHANGED = "unchanged"
WARM = np.array([1.127, 1.0, 0.822])  # the gain of 4,000 K over 5,500 K, ** (1 / 2.2)


class StressRow(TypedDict):
    """One row of the artifact `stress`: metrics under one shift; None where undefined.

    `auroc_change` is the difference to the first row, `probability_change` the mean absolute change of the probability.
    """

    name: str
    auroc: float | None
    sensitivity: float | None
    specificity: float | None
    auroc_change: float | None
    probability_change: float


def table(
    predict: Callable[[NDArray[np.uint8]], NDArray[np.float64]],
    images: NDArray[np.uint8],
    labels: NDArray[np.integer[Any]],
    threshold: float,
    batch_size: int = 64,
    workers: int = 1,
) -> list[dict[str, Any]]:
    """Score a classifier on the images as they are, then under each of `SHIFTS`.

    A shift's random draws hang on the image alone, so that neither order nor batches matter. Only one batch of
    changed images a worker is held at a time.

    Args:
        predict: maps uint8 (n, 224, 224, 3) to probabilities of malignancy (n,).
        images: uint8 (N, 224, 224, 3), a memory map as well.
        labels: int (N,), 1 is malignant.
        threshold: the operating point, a probability.
        workers: threads that take a batch each; with one thread of torch's in each, the cores wait for nobody.

    Returns:
        A row a shift, the first of them `UNCHANGED`: `name`; `auroc`, `sensitivity` and `specificity` at the
        threshold, None where undefined; `auroc_change` from the first row, None where undefined;
        `probability_change`, the mean absolute change of the probability.
    """
    rows: list[dict[str, Any]] = []
    unchanged = np.zeros(0)
    with ThreadPoolExecutor(workers) as pool:
        for name, shift in {UNCHANGED: lambda image: image, **SHIFTS}.items():

            def score(start: int, shift: Shift = shift) -> NDArray[np.float64]:
                return predict(np.stack([shift(np.asarray(image)) for image in images[start : start + batch_size]]))

            probabilities = np.concatenate(list(pool.map(score, range(0, len(images), batch_size))))
            if not rows:
                unchanged = probabilities
            metrics = binary_metrics(labels, probabilities, threshold)
            row = {"name": name, **{key: metrics[key] for key in ("auroc", "sensitivity", "specificity")}}
            first = rows[0] if rows else row
            row["auroc_change"] = None if row["auroc"] is None else row["auroc"] - first["auroc"]
            row["probability_change"] = float(np.abs(probabilities - unchanged).mean())
            rows.append(row)
    return rows


def _jpeg(image: Pixels) -> Pixels:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "jpeg", quality=30, subsampling="4:2:0")
    return np.asarray(Image.open(file))


def _blur(image: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(1.5)))


def _noise(image: Pixels) -> Pixels:
    return _to_uint8(image + 12 * _generator(image).standard_normal(image.shape, np.float32))


def _tone(curve: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Shift:
    """Map each value of each channel by `curve`, which takes and gives (256, 3) in 0..255."""
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


def _to_uint8(values: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    return (np.clip(values, 0, 255) + 0.5).astype(np.uint8)


# Each maps an image, uint8 (S, S, 3), to one of the same shape, and is a function of that image alone.
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
