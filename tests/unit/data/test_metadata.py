"""metadata.csv: found, checked against the images, and kept with them."""

import time

import numpy as np
import pytest

from skinlib.data.listing import list_images
from skinlib.data.metadata import group_columns, one_class_sources, source_column
from skinlib.data.packing import open_packed, prepare
from skinlib.data.storage import Store
from skinlib.errors import ConfigError, DataError
from tests.unit.data.conftest import in_both

TABLE = b'\xef\xbb\xbffile_name,source,lesion_id\r\ntrain/benign/1.png,A,7\r\n./test/malignant/2.png,"B, new",\r\n'


@in_both
def test_the_packed_set_has_the_columns_in_the_order_of_the_images(data: Store, cache: Store) -> None:
    data.write("metadata.csv", TABLE)
    manifest = open_packed(cache, prepare(list_images(data.url), cache).hash).manifest
    columns = {name: dict(zip(manifest.keys, values, strict=True)) for name, values in manifest.metadata.items()}
    assert list(columns) == ["source", "lesion_id"]
    assert {key: value for key, value in columns["source"].items() if value} == {
        "train/benign/1.png": "A",
        "test/malignant/2.png": "B, new",
    }
    assert manifest.summary()["metadata"] == {
        "source": {"known": 2, "distinct": 2},
        "lesion_id": {"known": 1, "distinct": 1},
    }


def test_a_file_in_each_split_is_relative_to_its_folder(data: Store) -> None:
    data.write("train/metadata.csv", b"file_name,source\nbenign/1.png,A\n")
    data.write("test/metadata.csv", b"file_name,age\nbenign/1.png,50\n")
    assert list_images(data.url).metadata.columns(["test/benign/1.png", "train/benign/1.png"]) == {
        "source": ("", "A"),
        "age": ("50", ""),
    }


def test_thousands_of_columns_are_read_at_once(data: Store) -> None:
    heads, cells = ",".join(f"c{number}" for number in range(40_000)), ",1" * 40_000
    data.write("metadata.csv", f"file_name,{heads}\ntrain/benign/1.png{cells}\ntest/benign/1.png{cells}\n".encode())
    begun = time.process_time()
    assert len(list_images(data.url).metadata.names) == 40_000
    assert time.process_time() - begun < 2  # by a search in a list of names, 8 s


def test_metadata_changes_the_data_hash_and_the_fingerprint(data: Store, cache: Store) -> None:
    seen = set()
    for table in (None, TABLE, TABLE.replace(b",A,", b",C,")):
        if table:
            data.write("metadata.csv", table)
        listing = list_images(data.url)
        seen.add((listing.fingerprint, prepare(listing, cache).hash))
    assert len({fingerprint for fingerprint, _ in seen}) == len({digest for _, digest in seen}) == 3


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (b"", r"data/metadata.csv has no column file_name; name one column file_name\."),
        (b"file;source\n", r"has no column file_name; separate the columns with commas\."),
        (b"file_name,a,a\n", r"Two columns of .*data/metadata.csv have the same name, or one has none; rename them"),
        (b"file_name,a,\n", r"have the same name, or one has none"),
        (b"file_name,a\ntrain/benign/1.png\n", r"Line 2 of .* has 1 values, but the table has 2 columns"),
        (b'file_name,a\ntrain/benign/1.png,"b\n', r"Line 2 of .* is no CSV \(.*\); correct it"),
        (b"file_name,a\ntrain/benign/9.png,b\n", r"has a row for 'train/benign/9.png', which does not exist"),
        (b"file_name\ntest/benign/1.png\ntest/benign/1.png\n", r"has a second row for 'test/benign/1.png'"),
        (b"file_name,a\ntrain/benign/1.png,\xff\n", r"data/metadata.csv is not UTF-8 text; save it as UTF-8"),
    ],
)
def test_an_error_in_the_table_is_named(data: Store, table: bytes, message: str) -> None:
    data.write("metadata.csv", table or b"\n")
    with pytest.raises(DataError, match=message):
        list_images(data.url)


def test_columns_are_found_by_their_usual_names() -> None:
    assert group_columns(["source", "patient_id"], "") == ["patient_id"]
    assert group_columns(["case", "patient_id"], "case , patient_id") == ["case", "patient_id"]
    assert source_column(["source"], "") == "source"
    assert source_column(["clinic"], "") is None
    assert source_column(["clinic"], "clinic") == "clinic"


def test_a_column_that_does_not_exist_is_named() -> None:
    with pytest.raises(ConfigError, match=r"no column 'lesion' for --group-by; did you mean lesion_id\?$"):
        group_columns(["lesion_id", "age"], "lesion")
    with pytest.raises(ConfigError, match=r"no column 'x' for --source-column; its columns are lesion_id, age\.$"):
        source_column(["lesion_id", "age"], "x")
    with pytest.raises(ConfigError, match=r"--source-column x needs a metadata.csv with this column"):
        source_column([], "x")


def test_a_source_with_one_class_is_named_unless_all_are_like_that() -> None:
    sources = np.repeat(["A", "B", ""], 100)
    labels = np.concatenate([np.arange(100) % 2, np.ones(100), [0, 0] + [1] * 98]).astype(int)
    assert one_class_sources(sources, labels) == ["", "B"]
    assert one_class_sources(sources[100:], labels[100:]) == []
    assert one_class_sources(np.full(100, ""), labels[:100]) == []
