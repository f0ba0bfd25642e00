"""Finds images that show the same lesion in the same or nearly the same photograph.

Two images are near-duplicates if one results from the other by flips or quarter turns, a crop of up to 10% on each
side, a small rotation or shift, and a change of light or compression. Different round moles on bare skin also look
alike. Therefore a coarse comparison only proposes pairs, and the fine structure of the aligned images decides:

1. Each image, in its 8 orientations, is compared with 10 windows of each other image as grey thumbnails of 8x8 pixels.
   Its `NEAREST` images become candidates; their number does not grow with the data set.
2. Each candidate is aligned at 16, 32 and 64 pixels per side, by an affine map that starts from the orientation and
   window of step 1. It is dropped at the first of these `LEVELS` where the detail does not agree well enough. Detail is
   the image without slow changes of brightness, divided by its local strength, so that pores and hairs count as much
   as a lesion's rim.

Hashes of thumbnails, the common method, find neither crops nor small rotations.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations, product
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from skinlib.progress import Progress, silent

Floats = NDArray[np.float32]
_Scalar = TypeVar("_Scalar", bound=np.generic)

SIDE = 64  # pixels per side of the grey images that are compared
THUMBNAIL = 8
# In a trial with 400 real images and a cropped copy of each, the copy was among the nearest 16 for 99%.
NEAREST = 16
# Side, top and left as fractions of the image. A window of 0.87 at a corner, an edge or the centre is close enough to
# any crop to between 0.8 and 1.
WINDOWS = [(1.0, 0.0, 0.0), *((0.87, top, left) for top, left in product((0, 0.065, 0.13), repeat=2))]
# Pixels per side, steps of the alignment, and the smallest correlation of the detail to keep a pair. All 183 real pairs
# above the last threshold looked correct by eye; of 30 pairs between 0.5 and 0.65 at most half did, the rest were
# different round moles.
LEVELS = ((16, 2, 0.6), (32, 3, 0.45), (64, 4, 0.65))
# Up to this number, identical images are paired with each other. Further ones are paired with the first only: all pairs
# would need quadratic memory.
COPIES = 64
NOISE = 3.0  # grey levels: weaker detail may come from the camera or the compression
_BLOCK = 64  # images: 61 MB of correlations among 30,000


def identical(images: NDArray[np.uint8]) -> list[tuple[int, int]]:
    """Find the pairs of images with identical pixels.

    Args:
        images: uint8 (N, H, W, 3), RGB; may be a memory map, since it is read image by image.

    Returns:
        (i, j) with i < j, ascending.
    """
    return sorted(pair for group in _copies(images) for pair in _pairs(group))


def near(images: NDArray[np.uint8], on_progress: Progress = silent) -> list[tuple[int, int]]:
    """Find the pairs of images that are near-duplicates or have identical pixels.

    The pairs do not depend on the order of the images. Time grows with the square of N, memory linearly.

    Args:
        images: uint8 (N, H, W, 3), RGB, H = W; may be a memory map, since it is read image by image.
        on_progress: Called with (distinct images searched, all distinct images) regularly and at the end.

    Returns:
        (i, j) with i < j, ascending.
    """
    groups = _copies(images)
    pairs = {pair for group in groups for pair in _pairs(group)}
    first = [group[0] for group in groups]
    for a, b in _similar(_grey(images, first), on_progress):
        pairs.update((min(pair), max(pair)) for pair in product(groups[a][:COPIES], groups[b][:COPIES]))
    return sorted(pairs)


def _pairs(copies: list[int]) -> Iterator[tuple[int, int]]:
    """Yield pairs that connect all copies of an image."""
    yield from combinations(copies[:COPIES], 2)
    yield from product(copies[:1], copies[COPIES:])


def _copies(images: NDArray[np.uint8]) -> list[list[int]]:
    """Return the indices of each set of identical images; the order of the sets depends only on their pixels."""
    groups = defaultdict(list)
    for index, image in enumerate(images):
        groups[hashlib.sha256(image.tobytes()).digest()].append(index)
    return [groups[digest] for digest in sorted(groups)]


def _grey(images: NDArray[np.uint8], order: list[int]) -> NDArray[np.uint8]:
    """Return the images of `order` as uint8 (len(order), SIDE, SIDE)."""
    grey = np.empty((len(order), SIDE, SIDE), np.uint8)
    for row, index in sorted(enumerate(order), key=lambda pair: pair[1]):  # read in the order of the file
        image = Image.fromarray(images[index]).convert("L")
        grey[row] = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX))
    return grey


def _similar(grey: NDArray[np.uint8], on_progress: Progress) -> Iterator[tuple[int, int]]:
    """Yield the near-duplicates among uint8 (N, SIDE, SIDE), some of them twice."""
    if len(grey) < 2:
        return
    windows = _windows(grey)
    levels = [(_level(grey, side), steps, least) for side, steps, least in LEVELS]
    for start in range(0, len(grey), _BLOCK):
        block = np.arange(start, min(start + _BLOCK, len(grey)))
        template, other, orientation, window = _candidates(windows, block)
        warp = _start(window)
        for (pixels, detail), steps, least in levels:
            warp = _align(_turn(pixels[template], orientation), pixels[other], warp, steps)
            same = _agreement(_turn(detail[template], orientation), detail[other], warp) > least
            template, other, orientation, warp = template[same], other[same], orientation[same], warp[same]
        yield from zip(template.tolist(), other.tolist(), strict=True)
        on_progress(int(block[-1]) + 1, len(grey))


def _windows(grey: NDArray[np.uint8]) -> Floats:
    """Return the thumbnail of each window, of mean 0 and norm 1: (windows, THUMBNAIL * THUMBNAIL, N)."""
    out = np.empty((len(WINDOWS), THUMBNAIL**2, len(grey)), np.float32)
    for start in range(0, len(grey), _BLOCK):
        block = grey[start : start + _BLOCK].astype(np.float32)
        for row, (size, top, left) in zip(out, WINDOWS, strict=True):
            flat = (_bins(top, size) @ block @ _bins(left, size).T).reshape(len(block), -1)
            flat -= flat.mean(axis=1, keepdims=True)
            flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)  # a blank image resembles none
            row[:, start : start + _BLOCK] = flat.T
    return out


def _bins(start: float, size: float) -> Floats:
    """Return the matrix (THUMBNAIL, SIDE) that averages pixels in bins, from `start` to `start + size` of the side."""
    edges = (start + size * np.linspace(0, 1, THUMBNAIL + 1)) * SIDE
    pixels = np.arange(SIDE)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    weights = np.clip(overlap, 0, None)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _turn(images: NDArray[_Scalar], orientation: NDArray[np.int64]) -> NDArray[_Scalar]:
    """Turn each of (B, H, H) by its orientation: 0 to 3 quarter turns; 4 to 7 are the same of the mirrored image."""
    out = images.copy()
    for k in range(1, 8):
        chosen = orientation == k
        mirrored = images[chosen][:, :, ::-1] if k >= 4 else images[chosen]
        out[chosen] = np.rot90(mirrored, k % 4, axes=(1, 2))
    return out


def _candidates(windows: Floats, block: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
    """Return the candidate pairs, all int64 (B,): image of `block`, other image, orientation and window."""
    n_windows, size, n = windows.shape
    whole = windows[0][:, block].T.reshape(-1, THUMBNAIL, THUMBNAIL)
    turned = np.stack([_turn(whole, np.full(len(block), k)).reshape(-1, size) for k in range(8)])
    best = np.full((len(block), n), -np.inf, np.float32)
    for window in windows:
        alike = turned.reshape(-1, size) @ window  # one large product uses several cores; many small ones would not
        np.maximum(best, alike.reshape(8, -1, n).max(axis=0), out=best)
    rows = np.arange(len(block))
    best[rows, block] = -np.inf
    count = min(NEAREST, n - 1)
    nearest = np.argpartition(-best, count - 1, axis=1)[:, :count]
    # Which of the 80 comparisons was the best is computed again, for the nearest images only.
    every = np.einsum("obf,wfbc->bcow", turned, windows[:, :, nearest])
    orientation, start = np.divmod(every.reshape(len(block), count, -1).argmax(axis=2), n_windows)
    return np.repeat(block, count), nearest.ravel(), orientation.ravel(), start.ravel()


def _start(window: NDArray[np.int64]) -> Floats:
    """Return the maps (B, 2, 3) from an image's to a window's coordinates; x and y are -1 and 1 at the edges."""
    size, top, left = np.array(WINDOWS, np.float32)[window].T
    warp = np.zeros((len(window), 2, 3), np.float32)
    warp[:, 0, 0] = warp[:, 1, 1] = size
    warp[:, 0, 2], warp[:, 1, 2] = 2 * left + size - 1, 2 * top + size - 1
    return warp


def _level(grey: NDArray[np.uint8], side: int) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    """Return the images and their detail at a resolution, both (N, side, side)."""
    from scipy.ndimage import gaussian_filter

    pixels = np.empty((len(grey), side, side), np.uint8)
    detail = np.empty(pixels.shape, np.float16)
    step, slow, local = SIDE // side, max(1, side // 32), max(3, side // 12)  # the last two are the filters' sigma
    for start in range(0, len(grey), _BLOCK):
        block = slice(start, start + _BLOCK)
        image = grey[block].reshape(-1, side, step, side, step).mean(axis=(2, 4), dtype=np.float32)
        fine = image - gaussian_filter(image, slow, axes=(1, 2))
        strength = np.sqrt(gaussian_filter(fine**2, local, axes=(1, 2)))
        pixels[block], detail[block] = np.rint(image), fine / (strength + NOISE)
    return pixels, detail


def _align(templates: NDArray[np.uint8], others: NDArray[np.uint8], warp: Floats, steps: int) -> Floats:
    """Refine the maps from templates to other images, to match them up to gain and offset.

    Gauss-Newton steps for the inverse composition: Baker and Matthews, "Lucas-Kanade 20 years on: a unifying
    framework", International Journal of Computer Vision 56 (2004) 221.

    Args:
        templates: (B, side, side).
        others: (B, side, side).
        warp: (B, 2, 3), initially from `_start`.
        steps: Number of Gauss-Newton steps.

    Returns:
        (B, 2, 3)
    """
    count, side, _ = templates.shape
    grid, templates = _grid(side), templates.astype(np.float32)
    down, right = (slope.reshape(count, 1, side**2) for slope in np.gradient(templates, 2 / side, axis=(1, 2)))
    flat = templates.reshape(count, 1, side**2)
    columns = np.concatenate([right * grid, down * grid, flat, np.ones_like(flat)], axis=1)
    for _ in range(steps):
        values, inside = _sample(others, warp)
        weighted = columns * inside[:, None]
        normal = weighted @ columns.transpose(0, 2, 1)
        normal += 1e-3 * normal * np.eye(8, dtype=np.float32) + 1e-3 * np.eye(
            8, dtype=np.float32
        )  # for round blobs, whose rotation is undetermined
        solution = np.linalg.solve(normal, weighted @ values[:, :, None])[:, :, 0]
        gain = np.maximum(solution[:, 6:7], 0.2)
        change = np.zeros((count, 3, 3), np.float32)
        change[:, :2] = np.clip(solution[:, :6] / gain, -0.1, 0.1).reshape(count, 2, 3)
        warp = warp @ (np.eye(3, dtype=np.float32) - change)
    return warp


def _agreement(templates: NDArray[np.float16], others: NDArray[np.float16], warp: Floats) -> Floats:
    """Correlate templates with other images where they overlap: (B,), -1 if the overlap is less than half."""
    values, inside = _sample(others, warp)
    share = inside.mean(axis=1)
    weights = inside / np.maximum(inside.sum(axis=1, keepdims=True), 1)
    both = np.stack([templates.reshape(values.shape).astype(np.float32), values])
    both -= (weights * both).sum(axis=2, keepdims=True)
    product = (weights * both[0] * both[1]).sum(axis=1)
    power = (weights * both**2).sum(axis=2).prod(axis=0)
    return np.where(share > 0.5, product / np.sqrt(power + 1e-12), -1)


def _grid(side: int) -> Floats:
    """Return x, y and 1 for the centre of each pixel, (3, side * side)."""
    axis = (np.arange(side, dtype=np.float32) + 0.5) / side * 2 - 1
    y, x = np.meshgrid(axis, axis, indexing="ij")
    return np.stack([x.ravel(), y.ravel(), np.ones(side * side, np.float32)])


def _sample(images: NDArray[np.uint8] | NDArray[np.float16], warp: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Interpolate images (B, side, side) at the mapped pixels of a template: values and whether inside, (B, P)."""
    count, side, _ = images.shape
    place = (warp @ _grid(side) + 1) * (side / 2) - 0.5
    inside = np.all((place >= -0.5) & (place <= side - 0.5), axis=1)
    np.clip(place, 0, side - 1.001, out=place)
    corner = place.astype(np.int32)
    x, y = (place - corner).transpose(1, 0, 2)
    at = corner[:, 1] * side + corner[:, 0] + np.arange(count, dtype=np.int32)[:, None] * side**2
    pixels = images.reshape(-1).astype(np.float32)
    upper = pixels[at] * (1 - x) + pixels[at + 1] * x
    lower = pixels[at + side] * (1 - x) + pixels[at + side + 1] * x
    return upper * (1 - y) + lower * y, inside
