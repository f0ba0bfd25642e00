"""Compares the search for the same lesion with perceptual hashes: pairs found, wrong pairs and CPU time.

    pip install ImageHash==4.3.2
    python -m benchmarks.duplicates            # 400 synthetic lesions and a changed copy of each
    python -m benchmarks.duplicates FOLDER     # real images with lesion_id in their metadata.csv
    python -m benchmarks.duplicates FOLDER 3000 10000 30000    # how time and memory grow with the number of images

The peer is the 64-bit pHash of ImageHash, the common method: two images are a pair if, in one of 8 orientations, their
hashes differ in at most a given number of bits. For drawn images, all pairs except those of an image and its copy are
wrong. For real images, two images with the same lesion_id are a pair, and those with none are left out. For the growth,
each further image is a random turn, crop and light of a real one.
"""

import sys
import threading
import time
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory

import imagehash
import numpy as np
import psutil
from numpy.typing import NDArray
from PIL import Image

from benchmarks.report import Table
from skinlib.audit import lesions
from skinlib.data import sample
from skinlib.data.listing import list_images
from skinlib.data.manifest import CLASSES
from skinlib.data.packing import open_packed, prepare
from skinlib.data.storage import open_store
from tests.unit.audit.test_lesions import CHANGES

Pairs = set[tuple[int, int]]
DISTANCES = (2, 6, 10)  # bits: the first gives almost no wrong pairs, the last finds most changes


def perceptual_hashes(images: NDArray[np.uint8], distance: int) -> Pairs:
    """Find the pairs whose pHashes differ in at most `distance` of 64 bits."""
    turned = [np.rot90(side, k, axes=(1, 2)) for side in (images, images[:, :, ::-1]) for k in range(4)]
    hashes = np.array([[_hash(image) for image in orientation] for orientation in turned])
    found = set()
    for i, own in enumerate(hashes[0]):
        apart = np.count_nonzero(hashes != own, axis=2).min(axis=0)
        found |= {(min(i, j), max(i, j)) for j in np.flatnonzero(apart <= distance).tolist() if j != i}
    return found


def _hash(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return imagehash.phash(Image.fromarray(np.ascontiguousarray(image))).hash.ravel()


PACKAGES = ["opencv-python-headless", "numpy", "ImageHash"]
SEARCHES: dict[str, Callable[[NDArray[np.uint8]], Pairs]] = {
    "skinlib": lambda images: set(lesions.same_lesions(images)),
    **{f"pHash, {d} bits": lambda images, d=d: perceptual_hashes(images, d) for d in DISTANCES},  # type: ignore[misc]
}


def on_drawn_images(count: int = 400) -> None:
    """Print the fraction of copies that each search finds, by kind of change, and its wrong pairs."""
    names = [name for name in CLASSES for _ in range(count // 2)]
    drawn = [sample.draw(1, "train", name, k) for k, name in enumerate(names, start=1)]
    copies = [np.asarray(CHANGES[k % len(CHANGES)](Image.fromarray(image))) for k, image in enumerate(drawn)]
    images = np.stack(drawn + copies)
    right = [(k, k + count) for k in range(count)]
    names_of_changes = [change.__name__ for change in CHANGES]
    table = Table("drawn lesions", ["search", *names_of_changes, "all", "wrong pairs", "CPU seconds"], PACKAGES)
    for name, search in SEARCHES.items():
        begun = time.process_time()
        found = search(images)
        seconds = time.process_time() - begun
        kinds = [right[k :: len(CHANGES)] for k in range(len(CHANGES))]
        shares = [sum(pair in found for pair in kind) / len(kind) for kind in [*kinds, right]]
        cells = [f"{share:.0%}" for share in shares] + [f"{len(found.difference(right)):,}", f"{seconds:.1f}"]
        table.row(name, *cells)
    table.save()


def on_real_images(folder: Path) -> None:
    """Print the recall and precision of each search, compared with the pairs of equal lesion_id."""
    with TemporaryDirectory() as scratch:
        cache = open_store(scratch)
        packed = open_packed(cache, prepare(list_images(str(folder)), cache).hash)
        lesions_of = packed.manifest.metadata["lesion_id"]
        known = [index for index, lesion in enumerate(lesions_of) if lesion]
        right = {(i, j) for i, j in combinations(known, 2) if lesions_of[i] == lesions_of[j]}
        print(f"{len(packed.images):,} images, {len(known):,} with a lesion_id, {len(right)} pairs\n")
        columns = ["search", "recall", "precision", "pairs without a lesion_id", "CPU seconds"]
        table = Table("real lesions", columns, PACKAGES)
        for name, search in SEARCHES.items():
            begun = time.process_time()
            found = search(packed.images)
            seconds = time.process_time() - begun
            judged = {pair for pair in found if all(lesions_of[index] for index in pair)}
            recall, precision = len(judged & right) / len(right), len(judged & right) / max(1, len(judged))
            table.row(name, f"{recall:.2f}", f"{precision:.2f}", f"{len(found - judged):,}", f"{seconds:.0f}")
    table.save()


def growth(folder: Path, counts: list[int]) -> None:
    """Print the time and the peak memory of the search on sets of different sizes."""
    columns = ["images", "seconds", "seconds per 1,000 images", "peak memory, MB, without the images", "pairs"]
    table = Table("growth of the search", columns, PACKAGES)
    with TemporaryDirectory() as scratch:
        cache = open_store(scratch)
        real = open_packed(cache, prepare(list_images(str(folder)), cache).hash).images
        images = np.lib.format.open_memmap(f"{scratch}/all.npy", "w+", np.uint8, (max(counts), *real.shape[1:]))
        rng = np.random.default_rng(0)
        for index in range(max(counts)):
            image = real[index % len(real)]
            images[index] = image if index < len(real) else changed(image, rng)
        for count in counts:
            begun, own = time.perf_counter(), Anonymous()
            found = lesions.same_lesions(images[:count])
            seconds, peak = time.perf_counter() - begun, own.stop()
            speed = f"{seconds:.0f}", f"{1000 * seconds / count:.1f}"
            table.row(f"{count:,}", *speed, f"{peak / 1e6:.0f}", f"{len(found):,}")
    table.save()


def changed(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Turn, crop and light an image at random."""
    picture = Image.fromarray(image).rotate(rng.uniform(-180, 180), Image.Resampling.BILINEAR)
    side = int(rng.uniform(0.6, 0.95) * picture.width)
    x, y = rng.integers(0, picture.width - side, 2)
    picture = picture.crop((x, y, x + side, y + side)).resize(image.shape[:2])
    return np.clip(np.asarray(picture) * rng.uniform(0.8, 1.2), 0, 255).astype(np.uint8)


class Anonymous:
    """The peak of this process's own memory, without mapped files, measured ten times per second."""

    def __init__(self) -> None:
        self._process, self._going = psutil.Process(), True
        self._start = self._peak = self._now()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _now(self) -> int:
        memory = self._process.memory_info()
        return memory.rss - memory.shared

    def _watch(self) -> None:
        while self._going:
            self._peak = max(self._peak, self._now())
            time.sleep(0.1)

    def stop(self) -> int:
        """Return the bytes above those at the beginning."""
        self._going = False
        self._thread.join()
        return self._peak - self._start


if __name__ == "__main__":
    if len(sys.argv) > 2:
        growth(Path(sys.argv[1]), [int(word) for word in sys.argv[2:]])
    elif len(sys.argv) == 2:
        on_real_images(Path(sys.argv[1]))
    else:
        on_drawn_images()
