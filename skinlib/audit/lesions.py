"""Finds images of the same lesion, in one photograph or in several: at another zoom, angle or light, or mirrored.

1. The strongest local features of all images are compared in `_TABLES` random orders. In each, similar features are
   close together, so that only blocks of `_BLOCK` neighbours need comparison.
2. Two images are candidates if at least `_VOTES` of their pairs of features agree on rotation, scale and shift. Each
   image keeps its best `_NEAREST` candidates.
3. A candidate is confirmed if one similarity maps `CONFIRMED` places of one image to alike places of the other. Places
   along one line do not count: rulers look the same in all images.

Time and disk space grow linearly with the number of images, since each step has a fixed cost per image.
"""

import hashlib
import os
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import combinations, product
from pathlib import Path
from typing import TypedDict

import cv2
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from skinlib import machine
from skinlib.audit import features
from skinlib.audit.features import KEPT, Features
from skinlib.data.manifest import sealed, unsealed
from skinlib.data.packing import PackedDataset, packed_folder
from skinlib.data.storage import Store, map_ahead
from skinlib.errors import StorageError
from skinlib.progress import Progress, reported, silent

# Places that two images must share. Of 300 random pairs, none shared more than 1; of the candidates among the public
# images, the number of confirmed pairs changes by 4% between 4 and 8.
CONFIRMED = 5
# Up to this number, identical images are paired with each other. Further ones are paired with the first only: all pairs
# would need quadratic memory.
COPIES = 64
_INDEXED, _MIRRORED = 400, 100  # features per image that look for others, as they are and mirrored
_TABLES, _BLOCK, _BITS = 12, 64, 20
_ALIKE = 0.85  # smallest cosine of two features that vote
_VOTES, _NEAREST = 2, 8
_WORKER_BYTES = 64 << 20

Ints = NDArray[np.int64]
Read = Callable[[Ints], NDArray[np.uint8]]  # the descriptors of features


class Found(TypedDict):
    """What a search found: pairs (i, j) of images with i < j, ascending.

    `identical` have the same pixels; `same_lesions` show the same lesion or have the same pixels.
    """

    identical: list[tuple[int, int]]
    same_lesions: list[tuple[int, int]]


def search(packed: PackedDataset, cache: Store, on_progress: Progress = silent) -> Found:
    """Find the pairs of a packed set once, and keep them next to it in the cache.

    Args:
        packed: All images that are compared.
        cache: The store of the packed set.
        on_progress: As for `same_lesions`.
    """
    key = f"{packed_folder(packed.manifest.hash)}/lesions-{_version()}.json"
    if cache.exists(key):
        with suppress(ValueError):  # damaged: search again
            found = unsealed(cache.read(key))
            return {
                "identical": [(i, j) for i, j in found["identical"]],
                "same_lesions": [(i, j) for i, j in found["same_lesions"]],
            }
    new: Found = {"identical": identical(packed.images), "same_lesions": same_lesions(packed.images, on_progress)}
    cache.write(key, sealed(new))
    return new


def _version() -> str:
    """Name the code of the search, so that no other code uses what it has found."""
    code = b"".join(Path(file).read_bytes() for file in (__file__, features.__file__))
    return hashlib.sha256(code + cv2.__version__.encode()).hexdigest()[:12]


def identical(images: NDArray[np.uint8]) -> list[tuple[int, int]]:
    """Find the pairs of images with identical pixels.

    Args:
        images: uint8 (N, H, W, 3), RGB; may be a memory map, since it is read image by image.

    Returns:
        (i, j) with i < j, ascending.
    """
    return sorted(pair for group in _copies(images) for pair in _pairs(group))


def same_lesions(images: NDArray[np.uint8], on_progress: Progress = silent) -> list[tuple[int, int]]:
    """Find the pairs of images that show the same lesion or have identical pixels.

    The pairs do not depend on the order of the images.

    Args:
        images: uint8 (N, H, W, 3), RGB, H = W; may be a memory map, since it is read image by image.
        on_progress: Called regularly and at the end with (done, all distinct images), where done is the finished share
            of the work, in images.

    Returns:
        (i, j) with i < j, ascending.
    """
    groups = _copies(images)
    pairs = {pair for group in groups for pair in _pairs(group)}
    first = [group[0] for group in groups]
    # The search has threads of its own. Those of NumPy's products would mostly wait for each other.
    with threadpool_limits(1):
        for a, b in _similar(images, first, on_progress):
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


def _similar(images: NDArray[np.uint8], order: list[int], on_progress: Progress) -> Iterator[tuple[int, int]]:
    """Yield the pairs of the same lesion, as places in `order`."""
    n, width = len(order), images.shape[2]
    threads = machine.workers(_WORKER_BYTES)

    def part(start: float, end: float) -> Progress:
        """Report a step as a share of the whole work."""
        return lambda done, total: on_progress(int(n * (start + (end - start) * done / total)), n)

    points = np.zeros((n, KEPT, 4), np.float32)
    counts = np.zeros(n, np.int64)
    with tempfile.TemporaryFile() as file:
        _reserve(file.fileno(), max(n, 1) * KEPT * 128)
        descriptors = np.memmap(file, np.uint8, "w+", shape=(max(n, 1), KEPT, 128))
        found = map_ahead(lambda index: features.extract(images[index]), order, threads)
        for row, of in enumerate(reported(found, n, part(0, 0.6))):
            counts[row] = len(of.points)
            points[row, : counts[row]], descriptors[row, : counts[row]] = of.points, of.descriptors

        def read(row: int) -> Features:
            return Features(points[row, : counts[row]], descriptors[row, : counts[row]])

        def confirmed(pair: tuple[int, int]) -> tuple[int, int] | None:
            a, b = pair
            other = read(b % n) if b < n else features.mirrored(read(b - n), width)
            return (a, b % n) if features.shared(read(a), other) >= CONFIRMED else None

        candidates = _candidates(points, descriptors, counts, width, part(0.6, 0.8))
        checked = map_ahead(confirmed, candidates, threads)
        yield from filter(None, reported(checked, len(candidates), part(0.8, 1)))
    on_progress(n, n)


def _reserve(file: int, size: int) -> None:
    """Give a temporary file its size: if the disk is full, writing to a memory map would end the process."""
    try:
        if hasattr(os, "posix_fallocate"):  # macOS does not have it
            os.posix_fallocate(file, 0, size)
    except OSError as error:
        raise StorageError(
            f"{tempfile.gettempdir()} has no room for {size / 1e6:,.0f} MB of temporary files ({error.strerror}); "
            "make room there, or set TMPDIR to another folder."
        ) from error


def _candidates(
    points: NDArray[np.float32],
    descriptors: NDArray[np.uint8],
    counts: Ints,
    width: int,
    on_progress: Progress,
) -> list[tuple[int, int]]:
    """Return pairs (a, b) of images that may show one lesion; b + n stands for the mirrored image b.

    Args:
        points: (n, KEPT, 4).
        descriptors: (n, KEPT, 128).
        counts: int64 (n,), the number of features of each image.
        width: of the images, in pixels.
        on_progress: Called with (tables, all tables).
    """
    n = len(counts)
    strongest = np.minimum(counts, _INDEXED)
    both = np.concatenate([strongest, np.minimum(counts, _MIRRORED)])
    owner = np.repeat(np.arange(2 * n), both)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(both) - both, both)
    if len(owner) < 2:
        return []
    plain = int(strongest.sum())
    row = owner % n * KEPT + place
    shape = points.reshape(-1, 4)[row]
    shape[plain:] = features.reflected(shape[plain:], width)
    flat = descriptors.reshape(-1, 128)

    def read(which: Ints) -> NDArray[np.uint8]:
        """Read the descriptors of some features from disk."""
        values = flat[row[which]]
        mirror = which >= plain
        values[mirror] = values[mirror][:, features.MIRROR]
        return values

    i, j = _neighbours(read, owner, n, on_progress)
    return _voted(shape, owner, i, j, n, width)


def _neighbours(read: Read, owner: Ints, n: int, on_progress: Progress) -> tuple[Ints, Ints]:
    """Return pairs of features, of different images, each the nearest to the other in a block of a table."""
    rng, total = np.random.default_rng(0), len(owner)
    threads = machine.workers(_WORKER_BYTES)
    sample = read(np.arange(0, total, max(1, total // 100_000))).astype(np.float32)
    parts = [np.arange(start, min(start + (1 << 16), total)) for start in range(0, total, 1 << 16)]
    pairs = np.zeros(0, np.int64)
    for table in range(_TABLES):
        directions = rng.standard_normal((128, _BITS)).astype(np.float32)
        key = partial(_keys, read, directions, np.median(sample @ directions, axis=0))
        order = np.argsort(np.concatenate(list(map_ahead(key, parts, threads))), kind="stable")
        order = np.pad(order, (0, -total % _BLOCK), mode="edge").reshape(-1, _BLOCK)
        blocks = [order[start : start + 128] for start in range(0, len(order), 128)]
        found = map_ahead(partial(_mutual, read, owner, n), blocks, threads)
        pairs = np.unique(np.concatenate([pairs, *found]))
        on_progress(table + 1, _TABLES)
    return pairs // total, pairs % total


def _keys(read: Read, directions: NDArray[np.float32], centre: NDArray[np.float32], which: Ints) -> Ints:
    """Number features by their side of each hyperplane, in Gray code, so that neighbours differ little."""
    sides = read(which).astype(np.float32) @ directions > centre
    return (np.cumsum(sides, axis=1) % 2) @ (1 << np.arange(_BITS)[::-1])


def _mutual(read: Read, owner: Ints, n: int, block: Ints) -> Ints:
    """Return the mutually nearest features in each row of `block`, as first * number of features + second."""
    values = read(block).astype(np.float32)
    image = owner[block] % n
    alike = values @ values.transpose(0, 2, 1)  # 0 to 255**2: float32 holds these integers exactly
    np.copyto(alike, -1, where=image[:, :, None] == image[:, None])
    nearest = alike.argmax(axis=2)
    product = np.take_along_axis(alike, nearest[:, :, None], axis=2)[:, :, 0]
    mutual = np.take_along_axis(nearest, nearest, axis=1) == np.arange(_BLOCK)
    first, second = block, np.take_along_axis(block, nearest, axis=1)
    # Of two mirrored images, the plain ones are compared already.
    chosen = mutual & (product > _ALIKE * 255**2) & (first < second) & (owner[first] < n)
    return first[chosen] * len(owner) + second[chosen]


def _voted(shape: NDArray[np.float32], owner: Ints, i: Ints, j: Ints, n: int, width: int) -> list[tuple[int, int]]:
    """Return the pairs of images with features that agree best on one similarity."""
    pair = owner[i] * 2 * n + owner[j]
    turn = np.deg2rad(shape[j, 3] - shape[i, 3])
    octave = np.log2(shape[j, 2] / shape[i, 2])
    along, across = np.cos(turn) * 2**octave, np.sin(turn) * 2**octave
    dx, dy = (width / 2 - shape[i, :2]).T
    centre = shape[j, :2] + np.stack([along * dx - across * dy, across * dx + along * dy], axis=1)
    votes: list[tuple[Ints, Ints]] = []
    for shift in product((0, 0.5), repeat=2):  # features that a limit separates in one grid are together in another
        cell = np.floor(turn / (np.pi / 6) + shift[0]).astype(np.int64) % 12
        cell = cell * 16 + np.clip(np.floor(octave / 0.8 + shift[0]) + 8, 0, 15).astype(np.int64)
        for axis in range(2):
            cell = cell * 16 + np.clip(np.floor(centre[:, axis] / width * 4 + shift[1]) + 6, 0, 15).astype(np.int64)
        cells, count = np.unique(pair * (12 << 12) + cell, return_counts=True)
        votes.append((cells[count >= _VOTES] // (12 << 12), count[count >= _VOTES]))
    pair, count = (np.concatenate(column) for column in zip(*votes, strict=True))
    best = np.lexsort((-count, pair))
    best = best[np.unique(pair[best], return_index=True)[1]]
    return _nearest(pair[best] // (2 * n), pair[best] % (2 * n), count[best], n)


def _nearest(a: Ints, b: Ints, count: Ints, n: int) -> list[tuple[int, int]]:
    """Keep the pairs that are among the best of one of their images."""
    image, other, entry = np.concatenate([a, b % n]), np.concatenate([b, a]), np.tile(np.arange(len(a)), 2)
    order = np.lexsort((other, -np.tile(count, 2), image))
    rank = np.arange(len(order)) - np.searchsorted(image[order], image[order])
    kept = np.unique(entry[order[rank < _NEAREST]])
    return list(zip(a[kept].tolist(), b[kept].tolist(), strict=True))
