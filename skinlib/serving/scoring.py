"""Scores any number of images into one table, and continues where it was stopped.

    URL --read--> bytes --decode--> pixels, colours --score--> rows --> .OUTPUT.parts/<key>/<number>.parquet --> OUTPUT

A part has at most 1,000 rows or 30 seconds of work, so that a kill costs no more. Reading, decoding and scoring
overlap, and only some hundreds of images are in memory.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import csv, parquet

from skinlib import machine
from skinlib.audit import drift
from skinlib.audit.shortcut import STATISTICS, colours
from skinlib.data import metadata
from skinlib.data.listing import is_hidden
from skinlib.data.manifest import digest
from skinlib.data.packing import limited
from skinlib.data.storage import Object, Store, map_ahead, open_store
from skinlib.errors import ConfigError, DataError, StorageError, UnreadableError
from skinlib.progress import Progress, silent
from skinlib.serving.graph import BATCH
from skinlib.serving.served import Served

PART_ROWS, PART_SECONDS = 1000, 30.0
SCORE_BINS = 20
SCHEMA = pa.schema(
    [
        ("image", pa.string()),
        ("etag", pa.string()),  # changes when the content changes
        ("model", pa.string()),
        ("probability", pa.float64()),
        ("malignant", pa.bool_()),
        ("uncertain", pa.bool_()),
        ("unfamiliar", pa.bool_()),
        ("unfamiliarity", pa.float64()),
        ("unsupported", pa.bool_()),
        ("error", pa.string()),
        *((name.replace(" of ", "_"), pa.float64()) for name in STATISTICS),
    ]
)
_ANSWERS = SCHEMA.names[3:9]
_FLAGS = ("malignant", "uncertain", "unfamiliar", "unsupported")
_COLOURS = SCHEMA.names[10:]


@dataclass
class Summary:
    """What a table of scores contains.

    Attributes:
        url: Of the images.
        output: URL or path of the table.
        new: Number of files that this call scored; parts of an earlier call had the others.
        n: Number of images with a score.
        errors: Number of files by the reason why they have none.
        flags: Number of images by `malignant`, `uncertain`, `unfamiliar` and `unsupported`.
        scores: int64 (20,), images by probability, in bins of 0.05.
        drifts: Of each colour statistic, against the training images, and of the scores, against the validation images.
        unfamiliar: Verdict on the share of unfamiliar images.
    """

    url: str
    output: str
    new: int
    n: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    flags: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_FLAGS, 0))
    scores: NDArray[np.int64] = field(default_factory=lambda: np.zeros(SCORE_BINS, np.int64))
    drifts: list[drift.Drift] = field(default_factory=list)
    unfamiliar: drift.Verdict = "stable"

    @property
    def drifted(self) -> bool:
        """Whether colours, scores or familiarity have drifted."""
        return "drift" in (self.unfamiliar, *(each.verdict for each in self.drifts))


def open_output(output: str) -> tuple[Store, str]:
    """Return the store of a table to be written, and its name there.

    Raises:
        ConfigError: The name ends neither in .parquet nor in .csv, or the table exists.
        StorageError: The store cannot be used.
    """
    folder, _, name = output.rpartition("/")
    if not name.endswith((".parquet", ".csv")) or folder == "s3:/":
        raise ConfigError(f"The output {output!r} must be a file or a URL that ends in .parquet or .csv; rename it.")
    store = open_store(folder or ("/" if output.startswith("/") else "."), create=True)
    if store.exists(name):
        raise ConfigError(f"{store.url}/{name} exists; delete it, or choose another output.")
    return store, name


def predict(model: Served, url: str, output: tuple[Store, str], on_progress: Progress = silent) -> Summary:
    """Score all files below a URL into one table, with the columns of `SCHEMA`; hidden files are left out.

    Args:
        model: The registered model.
        url: A bucket's prefix or a folder.
        output: From `open_output`. The table appears when it is complete.
        on_progress: Called with (files scored by this call, all that it scores).

    Raises:
        DataError: There are no files.
        StorageError: A store cannot be used. The parts stay, and the next call continues.
    """
    source, (target, name) = open_store(url), output
    images = (item for item in source.list() if not is_hidden(item.key) and Path(item.key).name != metadata.FILE)
    objects = {f"{source.url}/{item.key}": item for item in images}
    if not objects:
        raise DataError(f"There are no files below {source.url}; correct the URL.")
    parts = _Parts(target, f".{name}.parts/{digest([model.uri, model.settings, source.url])[:16]}")
    scored = {row for table in parts.read() for row in _identities(table)}
    todo = [item for at, item in objects.items() if (at, item.etag) not in scored]
    _score(model, source, todo, parts, on_progress)
    summary = Summary(source.url, f"{target.url}/{name}", len(todo))
    with tempfile.TemporaryDirectory() as scratch:
        _join(parts, {at: item.etag for at, item in objects.items()}, Path(scratch, name), model, summary)
        if summary.n + sum(summary.errors.values()) != len(objects):
            raise StorageError(f"Another process writes {summary.output}, too; wait for its end, or run again.")
        target.upload(name, Path(scratch, name))
    target.delete(f".{name}.parts")
    return summary


class _Parts:
    """The parts of one table, scored by one model."""

    def __init__(self, store: Store, folder: str) -> None:
        self._store, self._folder = store, folder

    def _keys(self) -> list[str]:
        return [item.key for item in self._store.list(self._folder) if item.key.endswith(".parquet")]

    def read(self) -> Iterator[pa.Table]:
        for key in self._keys():
            yield parquet.read_table(pa.BufferReader(self._store.read(key)))

    def write(self, rows: list[dict[str, Any]]) -> None:
        sink = pa.BufferOutputStream()
        parquet.write_table(pa.Table.from_pylist(rows, SCHEMA), sink)
        number = max((int(Path(key).stem) for key in self._keys()), default=-1) + 1
        self._store.write(f"{self._folder}/{number:08d}.parquet", sink.getvalue().to_pybytes())


def _identities(table: pa.Table) -> Iterator[tuple[str, str | None]]:
    return zip(table["image"].to_pylist(), table["etag"].to_pylist(), strict=True)


def _score(model: Served, source: Store, objects: Sequence[Object], parts: _Parts, on_progress: Progress) -> None:
    """Score objects, part by part."""

    def decoded(file: tuple[Object, bytes | StorageError]) -> dict[str, Any]:
        item, data = file
        row: dict[str, Any] = {"image": f"{source.url}/{item.key}", "etag": item.etag, "model": model.uri}
        if isinstance(data, UnreadableError):
            return row | {"error": data.reason}
        if isinstance(data, StorageError):
            raise data
        pixels = model.model.pixels(data)
        if isinstance(pixels, str):
            return row | {"error": pixels}
        return row | dict(zip(_COLOURS, colours(pixels[None])[0].tolist(), strict=True)) | {"pixels": pixels}

    def answered(batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        usable = [row for row in batch if "pixels" in row]
        if usable:
            answers = model.predict(np.stack([row.pop("pixels") for row in usable]))
            for row, answer in zip(usable, answers[_ANSWERS].to_dict("records"), strict=True):
                row.update(answer)
        return batch

    rows = map_ahead(decoded, source.read_many(limited(objects)), threads=machine.cores())
    batches = map_ahead(answered, iter(lambda: list(islice(rows, BATCH)), []), threads=1)
    done, waiting, began = 0, list[dict[str, Any]](), time.monotonic()
    for batch in batches:
        waiting += batch
        done += len(batch)
        if done == len(objects) or len(waiting) + BATCH > PART_ROWS or time.monotonic() - began > PART_SECONDS:
            parts.write(waiting)
            waiting, began = [], time.monotonic()
        on_progress(done, len(objects))


def _join(parts: _Parts, wanted: dict[str, str | None], path: Path, model: Served, summary: Summary) -> None:
    """Write one row per wanted image into one file, and count what it contains."""
    references = dict(zip(_COLOURS, model.settings["shortcut"]["histograms"], strict=True))
    references["probability"] = model.settings["scores"]
    counts = {name: np.zeros(len(each["counts"]), np.int64) for name, each in references.items()}
    with (parquet.ParquetWriter if path.suffix == ".parquet" else csv.CSVWriter)(path, SCHEMA) as writer:
        for part in parts.read():
            # An image that changed or vanished after an earlier call scored it has a row there that is not wanted.
            kept = [image in wanted and wanted[image] == etag for image, etag in _identities(part)]
            table = part.filter(pa.array(kept, pa.bool_()))
            writer.write_table(table)
            for reason in table["error"].drop_null().to_pylist():
                summary.errors[reason] = summary.errors.get(reason, 0) + 1
            good = table.filter(pc.is_valid(table["probability"]))
            summary.n += len(good)
            for name in summary.flags:
                summary.flags[name] += pc.sum(good[name]).as_py() or 0
            summary.scores += np.histogram(good["probability"].to_numpy(), SCORE_BINS, (0, 1))[0]
            for name, each in references.items():
                counts[name] += drift.count(good[name].to_numpy(), each["edges"])
    titles = dict(zip(references, (*STATISTICS, "probability"), strict=True))
    summary.drifts = [drift.compare(titles[name], counts[name], each) for name, each in references.items()]
    summary.unfamiliar = drift.familiarity(summary.flags["unfamiliar"], summary.n)
