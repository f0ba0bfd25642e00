"""Metadata of the images: an optional `metadata.csv`, as for the `imagefolder` data sets of Hugging Face.

The column `file_name` holds paths relative to the file's own folder; any further columns describe the image. An empty
cell means unknown. The file may be next to `train` and `test`, or in each of them.
"""

import csv
import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from skinlib.data.storage import Object, Store
from skinlib.errors import ConfigError, DataError

FILE = "metadata.csv"
KEY_COLUMN = "file_name"
GROUP_COLUMNS = ("lesion_id", "patient_id")  # used where they exist, if no others are named
SOURCE_COLUMN = "source"
MAX_BYTES = 200 << 20  # of the file: a million rows of 200 bytes

Columns = Mapping[str, tuple[str, ...]]  # values by column name, in the order of the images; "" is unknown


@dataclass(frozen=True)
class Metadata:
    """The rows of all metadata files of a data set.

    Attributes:
        names: Of the columns, without `file_name`.
        rows: The values of these columns by key of the image; an image may have no row.
    """

    names: tuple[str, ...] = ()
    rows: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def columns(self, keys: Iterable[str]) -> Columns:
        """Return the values of each column for images by key."""
        unknown = ("",) * len(self.names)
        values = list(zip(*(self.rows.get(key, unknown) for key in keys), strict=True))
        return dict(zip(self.names, values, strict=True)) if values else {name: () for name in self.names}


def read(store: Store, objects: Sequence[Object], folders: Iterable[str]) -> Metadata:
    """Read the metadata files of a data set, if there are any.

    Args:
        store: The data set.
        objects: Its listing.
        folders: Where a metadata file may be: "" or a path with a slash at the end.

    Raises:
        DataError: A file is no CSV table with `file_name`, names an image twice, or one that does not exist.
        StorageError: A file cannot be read.
    """
    present, found, rows = {item.key: item for item in objects}, dict[str, None](), {}
    for folder in folders:
        if (item := present.get(folder + FILE)) is None:
            continue
        where = f"{store.url}/{item.key}"
        if item.size > MAX_BYTES:
            raise DataError(f"{where} is larger than {MAX_BYTES >> 20} MB; leave out columns that are not needed.")
        for key, row in _parse(store.read(item.key, item.etag), where, folder):
            if key not in present:
                raise DataError(
                    f"{where} has a row for {row[KEY_COLUMN]!r}, which does not exist; "
                    f"correct {KEY_COLUMN}, a path relative to this file's folder, or delete the row."
                )
            if key in rows:
                raise DataError(f"{where} has a second row for {row[KEY_COLUMN]!r}; delete one of them.")
            rows[key] = row
            found |= dict.fromkeys(row)  # in this order; to search a list would take minutes for thousands of columns
    names = [name for name in found if name != KEY_COLUMN]
    return Metadata(tuple(names), {key: tuple(row.get(name, "") for name in names) for key, row in rows.items()})


def _parse(content: bytes, where: str, folder: str) -> Iterable[tuple[str, dict[str, str]]]:
    """Yield key and values by column of each row."""
    try:
        table = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        heads = [" ".join(name.split()) for name in next(table, [])]
        if KEY_COLUMN not in heads:
            hint = "separate the columns with commas" if ";" in "".join(heads) else f"name one column {KEY_COLUMN}"
            raise DataError(f"The first line of {where} has no column {KEY_COLUMN}; {hint}.")
        if len(set(heads)) < len(heads) or "" in heads:
            raise DataError(f"Two columns of {where} have the same name, or one has none; rename them.")
        for cells in table:
            if not any(cells):
                continue
            if len(cells) != len(heads):
                raise DataError(
                    f"Line {table.line_num} of {where} has {len(cells)} values, but the table has {len(heads)} "
                    "columns; correct it, with quotes around a value that contains a comma."
                )
            # On one line, so that no value can pass for a heading or a table of a model card.
            row = {head: " ".join(cell.split()) for head, cell in zip(heads, cells, strict=True)}
            yield folder + str(PurePosixPath(cells[heads.index(KEY_COLUMN)].strip())), row
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is not UTF-8 text; save it as UTF-8.") from error
    except csv.Error as error:
        raise DataError(f"Line {table.line_num} of {where} is no CSV ({error}); correct it.") from error


def group_columns(names: Collection[str], wanted: str) -> list[str]:
    """Return the columns that group images by equal values.

    Args:
        names: The columns of the metadata.
        wanted: Names separated by commas; with "", those of `GROUP_COLUMNS` that exist.

    Raises:
        ConfigError: A named column does not exist.
    """
    if not wanted.strip():
        return [name for name in GROUP_COLUMNS if name in names]
    return [_existing(names, name.strip(), "--group-by") for name in wanted.split(",")]


def source_column(names: Collection[str], wanted: str) -> str | None:
    """Return the column that names each image's source; with "", `source` where it exists, else None.

    Raises:
        ConfigError: The named column does not exist.
    """
    if not wanted.strip():
        return SOURCE_COLUMN if SOURCE_COLUMN in names else None
    return _existing(names, wanted.strip(), "--source-column")


def one_class_sources(sources: NDArray[np.str_], labels: NDArray[np.int64]) -> list[str]:
    """Return the sources that have images of one class only, up to 2% of labels that may be wrong.

    A network can tell such a source by its camera, and then needs no lesion to know the class.

    Args:
        sources: str (N,) of the training images.
        labels: int64 (N,), 1 is malignant.

    Returns:
        Their names; none if all sources are like that, because nothing is known then of a source with both classes.
    """
    names = np.unique(sources)
    found = []
    for name in names:
        counts = np.bincount(labels[sources == name], minlength=2)
        if 50 * counts.min() <= counts.sum():
            found.append(str(name))
    return found if len(found) < len(names) else []


def _existing(names: Collection[str], name: str, option: str) -> str:
    if name in names:
        return name
    if not names:
        raise ConfigError(f"{option} {name} needs a {FILE} with this column; add it to the images, or leave it out.")
    close = get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]}?" if close else f"its columns are {', '.join(names)}."
    raise ConfigError(f"{FILE} has no column {name!r} for {option}; {hint}")
