"""Whatever a file or a name contains: it is used, or refused in a sentence, and never leads out of its folder."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from skinlib import config
from skinlib.data import metadata, packing
from skinlib.data.listing import list_images
from skinlib.data.storage import Object as StoredObject
from skinlib.data.storage import Store, _checked, open_store
from skinlib.errors import ConfigError, DataError, SkinlibError
from skinlib.execution import backends
from skinlib.training import sweep
from tests.unit.data.conftest import fill

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


def dictionaries(*names: str) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with some of these keys, and perhaps another."""
    return st.dictionaries(st.sampled_from(names) | st.text(max_size=8), JSON, max_size=6)


SWEEPS = dictionaries("base", "folds", "trials", "space", "samples").flatmap(
    lambda found: st.sampled_from(["list", "grid", "random", ""]).map(lambda strategy: {**found, "strategy": strategy})
)
COMPUTE = dictionaries("image", "cpu", "memory", "gpu", "environment", "queue", "namespace", "node_selector").flatmap(
    lambda found: st.sampled_from(["local", "batch", "kubernetes"]).map(lambda backend: {**found, "backend": backend})
)


def used_or_refused(work: Callable[[], Any], kind: type[SkinlibError], words: str) -> Any:
    """Return the result; None if it was refused with an error of this kind and these words."""
    try:
        return work()
    except kind as error:
        if words not in str(error):
            raise
        return None


@given(SWEEPS)
@example({"strategy": "list", "grid": None})
@example({"strategy": "list", "trials": [{"grid": None}]})
@settings(max_examples=300, deadline=None)
def test_a_sweep_config_gives_trials_or_a_sentence(content: dict[str, Any]) -> None:
    trials = used_or_refused(lambda: sweep.trials_from(content, seed=0), ConfigError, "The sweep config")
    assert trials != []


@given(COMPUTE)
@example({"backend": "local", "batch": None})
@example({"backend": "local", "function-before": None})
@settings(max_examples=300, deadline=None)
def test_a_compute_config_gives_a_backend_or_a_sentence(content: dict[str, Any]) -> None:
    backend = used_or_refused(lambda: backends.backend_from(content), ConfigError, "The compute config is wrong")
    assert backend is None or backend.backend == content["backend"]


@given(st.text() | JSON.map(json.dumps))
@settings(max_examples=300, deadline=None)
def test_the_text_of_a_config_gives_an_object_or_a_sentence(text: str) -> None:
    found = used_or_refused(lambda: config.parse(text, "sweep config"), ConfigError, "sweep config")
    assert found is None or isinstance(found, dict)


CELLS = st.text(st.characters(codec="utf-8"), max_size=10) | st.sampled_from(["a.png", "b.png", "../a.png", '"', ","])
TABLES = st.lists(st.lists(CELLS, max_size=4), max_size=5).map(lambda rows: "\n".join(map(",".join, rows)).encode())


@given(st.binary(max_size=100) | TABLES.map(lambda rows: b"file_name,lesion_id\n" + rows) | TABLES)
@settings(max_examples=300, deadline=None)
def test_metadata_gives_values_or_a_sentence(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(folder)
        store.write("a.png", b"a")
        store.write("b.png", b"b")
        store.write(metadata.FILE, content)
        found = used_or_refused(lambda: metadata.read(store, store.list(), [""]), DataError, folder)
        assert found is None or found.rows.keys() <= {"a.png", "b.png"}


NAMES = ["../x", "/x", "a/../../x", "a//x", "./x", "a/./x", "x/", "~/x", "a\\..\\x"]


@given(st.text(max_size=30) | st.sampled_from(NAMES))
@settings(max_examples=300, deadline=None)
def test_a_key_stays_in_its_folder_or_is_refused(key: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        inside = Path(folder, "inside")
        store = open_store(str(inside), create=True)
        if _checked(StoredObject(key, 1, None)).problem is None:
            try:
                store.write(key, b"content")
            except SkinlibError:  # such as a name that is too long for the disk
                pass
            else:
                assert store.read(key) == b"content"
        assert [path.name for path in Path(folder).iterdir()] == ["inside"]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, str]:
    """A small packed set: its store and its hash."""
    data, cache = (open_store(str(tmp_path_factory.mktemp(name)), create=True) for name in ("data", "cache"))
    fill(data)
    return cache, packing.prepare(list_images(data.url), cache).hash


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_a_changed_manifest_is_refused(packed: tuple[Store, str], data: st.DataObject) -> None:
    cache, manifest_hash = packed
    key = f"{packing.packed_folder(manifest_hash)}/manifest.json"
    right = cache.read(key)
    content = json.loads(right)
    column, value = data.draw(st.sampled_from(sorted(set(content) - {"etags", "rejected"}))), data.draw(JSON)
    assume(value != content[column])
    content[column] = value
    cache.write(key, json.dumps(content).encode())
    try:
        with pytest.raises(SkinlibError, match="does not hold the packed images"):
            packing.open_packed(cache, manifest_hash)
    finally:
        cache.write(key, right)
