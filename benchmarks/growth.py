"""Shows how time, memory and artifacts of the step `ingest` grow with the number of images.

    python -m benchmarks.growth FOLDER 3000 30000

The images beyond those of FOLDER are random turns, crops and lights of them, saved in the directory for temporary
files: 15 kB each as JPEG, and 150 kB packed. The search for the same lesion is measured by `benchmarks.duplicates`.
"""

import gc
import pickle
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.duplicates import Anonymous, changed
from benchmarks.report import Table
from skinlib.audit import baselines, findings, traces
from skinlib.data import split
from skinlib.data.listing import list_images
from skinlib.data.packing import open_packed, prepare
from skinlib.data.storage import Store, open_store
from skinlib.reporting import data_card


def make(folder: Path, sources: list[Path], index: int) -> None:
    """Write one image: a source itself at first, later a changed one."""
    source = sources[index % len(sources)]
    target = folder / source.parent.parent.name / source.parent.name / f"{index:06}.jpg"
    if index < len(sources):
        target.write_bytes(source.read_bytes())
        return
    with Image.open(source) as opened:
        image = np.asarray(opened.convert("RGB"))
    Image.fromarray(changed(image, np.random.default_rng(index))).save(target, quality=90)


class Measured:
    """Runs parts, and keeps the seconds, the peak of the process's own memory, and the result of each."""

    def __init__(self) -> None:
        self.parts: list[tuple[str, float, int]] = []

    def __call__(self, name: str, work: Callable[[], Any]) -> Any:
        """Run a part and return its result."""
        gc.collect()
        begun, own = time.perf_counter(), Anonymous()
        result = work()
        self.parts.append((name, time.perf_counter() - begun, own.stop()))
        return result


def measure(folder: Path, cache: Store) -> list[tuple[str, float, int]]:
    """Do what the step does, without the search; return name, seconds and bytes of memory of each part."""
    run = Measured()
    listing = run("listing", lambda: list_images(str(folder)))
    manifest = run("ingest", lambda: prepare(listing, cache))
    run("ingest, unchanged", lambda: prepare(listing, cache))
    packed = open_packed(cache, manifest.hash)
    audit = run("audit", lambda: findings.audit_images(packed, {"identical": [], "same_lesions": []}))
    folds = run("split", lambda: split.folds(manifest, audit.groups, 5, 0.15, 0))
    whole = split.whole(folds, manifest)
    train, test = whole["train"], whole["test"]
    predicted = run("baselines", lambda: baselines.held_out(packed, audit.colours, folds, train, test))
    standouts = run("file traces", lambda: traces.standouts(manifest, train, None))
    report = (
        manifest.summary(),
        audit.summary,
        packed,
        train,
        dict.fromkeys(predicted["validation"]),
        standouts,
        False,
    )
    run("card", lambda: data_card.show([], *report))
    artifacts = audit.groups, audit.twins, audit.colours, packed.labels, folds, whole, predicted, report[:2]
    run.parts.append(("artifacts", 0.0, len(pickle.dumps(artifacts))))
    return run.parts


def main(folder: Path, counts: list[int]) -> None:
    """Write the table `growth`."""
    sources = [path for path in sorted(folder.glob("*/*/*")) if path.suffix in (".jpg", ".png")]
    table = Table(
        "growth", ["part", "images", "seconds", "ms per image", "kB of memory per image"], ["numpy", "pillow"]
    )
    for count in counts:
        with TemporaryDirectory() as scratch:
            images = Path(scratch, "images")
            for source in sources:
                (images / source.parent.parent.name / source.parent.name).mkdir(parents=True, exist_ok=True)
            with ProcessPoolExecutor() as pool:
                for _ in pool.map(partial(make, images, sources), range(count), chunksize=100):
                    pass
            for name, seconds, memory in measure(images, open_store(f"{scratch}/cache", create=True)):
                time_of = (f"{seconds:.1f}", f"{1000 * seconds / count:.2f}") if seconds else ("", "")
                table.row(name, f"{count:,}", *time_of, f"{memory / 1000 / count:.2f}")
    table.save()


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(word) for word in sys.argv[2:]])
