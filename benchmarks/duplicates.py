"""Compares the search for the same lesion with perceptual hashes: pairs found, wrong pairs and CPU time.

    pip install ImageHash==4.3.2
    python -m benchmarks.duplicates            # 400 synthetic lesions and a changed copy of each
    python -m benchmarks.duplicates FOLDER     # real images with lesion_id in their metadata.csv

The peer is the 64-bit pHash of ImageHash, the common method: two images are a pair if, in one of 8 orientations, their
hashes differ in at most a given number of bits. For drawn images, all pairs except those of an image and its copy are
wrong. For real images, two images with the same lesion_id are a pair, and those with none are left out.
"""

import sys
import time
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image

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
    print(f"{count} drawn lesions and a changed copy of each; fraction of the copies found\n")
    print("| search | " + " | ".join(change.__name__ for change in CHANGES) + " | all | wrong pairs | CPU seconds |")
    print("|---" * (len(CHANGES) + 4) + "|")
    for name, search in SEARCHES.items():
        begun = time.process_time()
        found = search(images)
        seconds = time.process_time() - begun
        kinds = [right[k :: len(CHANGES)] for k in range(len(CHANGES))]
        shares = [sum(pair in found for pair in kind) / len(kind) for kind in [*kinds, right]]
        cells = [f"{share:.0%}" for share in shares] + [f"{len(found.difference(right)):,}", f"{seconds:.1f}"]
        print(f"| {name} | " + " | ".join(cells) + " |")


def on_real_images(folder: Path) -> None:
    """Print the recall and precision of each search, compared with the pairs of equal lesion_id."""
    with TemporaryDirectory() as scratch:
        cache = open_store(scratch)
        packed = open_packed(cache, prepare(list_images(str(folder)), cache).hash)
        lesions_of = packed.manifest.metadata["lesion_id"]
        known = [index for index, lesion in enumerate(lesions_of) if lesion]
        right = {(i, j) for i, j in combinations(known, 2) if lesions_of[i] == lesions_of[j]}
        print(f"{len(packed.images):,} images, {len(known):,} with a lesion_id, {len(right)} pairs\n")
        print("| search | recall | precision | pairs without a lesion_id | CPU seconds |")
        print("|---|---|---|---|---|")
        for name, search in SEARCHES.items():
            begun = time.process_time()
            found = search(packed.images)
            seconds = time.process_time() - begun
            judged = {pair for pair in found if all(lesions_of[index] for index in pair)}
            recall, precision = len(judged & right) / len(right), len(judged & right) / max(1, len(judged))
            print(f"| {name} | {recall:.2f} | {precision:.2f} | {len(found - judged):,} | {seconds:.0f} |")


if __name__ == "__main__":
    on_real_images(Path(sys.argv[1])) if len(sys.argv) > 1 else on_drawn_images()
