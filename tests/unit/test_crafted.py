"""Crafted files: none of them runs code, and none reads or writes anything outside of its place."""

import csv
import hashlib
import io
import pickle
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torchvision
from PIL import Image

from skinlib.data import metadata
from skinlib.data.listing import list_images
from skinlib.data.manifest import sealed
from skinlib.data.packing import open_packed, packed_folder, prepare
from skinlib.data.storage import open_store
from skinlib.data.upload import upload_folder
from skinlib.errors import ConfigError, DataError, SkinlibError, StorageError
from skinlib.networks.pretrained import load_pretrained
from skinlib.serving.graph import Graph
from skinlib.training.checkpoint import Checkpoint
from skinlib.training.sweep import trials_from


class Evil:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def evil(tmp_path):
    """An object that must not be unpickled; it says so at the end of the test."""
    mark = tmp_path / "code-ran"
    yield Evil(mark)
    assert not mark.exists()


@pytest.fixture
def images(tmp_path):
    """A data set of four images."""
    folder = tmp_path / "images"
    for number, key in enumerate(f"{split}/{name}" for split in ("train", "test") for name in ("benign", "malignant")):
        (folder / key).mkdir(parents=True)
        Image.new("RGB", (224, 224), (number, 0, 0)).save(folder / key / "1.png")
    return folder


def torch_file(content):
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


@pytest.mark.parametrize("make", [torch_file, pickle.dumps], ids=["torch", "pickle"])
def test_a_checkpoint_runs_no_code(make, evil, tmp_path):
    checkpoint = Checkpoint(open_store(str(tmp_path)), "checkpoint.pt")
    checkpoint.save(make({"network": evil}))
    with pytest.raises(pickle.UnpicklingError):
        checkpoint.load()


@pytest.mark.parametrize("make", [torch_file, pickle.dumps], ids=["torch", "pickle"])
def test_a_weights_file_runs_no_code(make, evil, tmp_path):
    data = make({"fc.weight": evil})
    path = tmp_path / f"resnet18-{hashlib.sha256(data).hexdigest()[:8]}.pth"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match="not a state dict of tensors"):
        load_pretrained(str(path), "resnet18")


def test_imagenet_weights_in_the_cache_run_no_code_and_must_have_their_hash(evil, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    url = torchvision.models.get_model_weights("resnet18").IMAGENET1K_V1.url
    path = tmp_path / "hub/checkpoints" / Path(url).name
    path.parent.mkdir(parents=True)
    path.write_bytes(torch_file({"fc.weight": evil}))
    with pytest.raises(ConfigError, match=r"not f37072fd\.\.\. as in its name"):
        load_pretrained("imagenet", "resnet18")


@pytest.mark.parametrize("place", ["../secret", "{absolute}", "link"])
def test_an_onnx_file_reads_no_data_from_outside_its_folder(place, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(np.ones(4, np.float32).tobytes())
    (tmp_path / "model").mkdir()
    (tmp_path / "model/link").symlink_to(secret)
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[4], data_location=onnx.TensorProto.EXTERNAL)
    for key, value in {"location": place.format(absolute=secret), "offset": "0", "length": "16"}.items():
        tensor.external_data.add(key=key, value=value)
    ends = [onnx.helper.make_tensor_value_info(name, 1, [4]) for name in ("x", "y")]
    body = onnx.helper.make_graph([onnx.helper.make_node("Add", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [tensor])
    data = onnx.helper.make_model(
        body, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9
    ).SerializeToString()
    (tmp_path / "model/model.onnx").write_bytes(data)
    for model in (data, str(tmp_path / "model/model.onnx")):
        with pytest.raises(Exception, match=r"escapes (model|working) directory|Absolute path not allowed"):
            Graph(model)


def test_packed_images_run_no_code(evil, images, tmp_path):
    cache = open_store(str(tmp_path / "cache"), create=True)
    manifest = prepare(list_images(str(images)), cache)
    path = tmp_path / "cache" / packed_folder(manifest.hash) / "images.npy"
    np.save(path, np.array([evil], object), allow_pickle=True)
    with pytest.raises(StorageError, match="does not hold the packed images"):
        open_packed(cache, manifest.hash)
    assert prepare(list_images(str(images)), cache).hash == manifest.hash
    assert len(open_packed(cache, manifest.hash).images) == 4


@pytest.mark.parametrize("name", ["../../../elsewhere", "{absolute}", "a/../../../../elsewhere", "", None, ["x"], {}])
@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_a_record_that_names_another_place_is_not_followed(kind, name, images, bucket, tmp_path):
    place = str(tmp_path / "store/cache") if kind == "folder" else f"s3://{bucket}/store/cache"
    cache, listing = open_store(place, create=True), list_images(str(images))
    name = name.format(absolute=tmp_path / "elsewhere") if isinstance(name, str) else name
    cache.write(f"skinlib/listings/{listing.fingerprint}.json", sealed([name, []]))
    with suppress(StorageError):  # either a sentence, or the images are read again
        assert len(prepare(listing, cache).keys) == 4
    assert {path.name for path in tmp_path.iterdir()} <= {"images", "store"}
    assert {path.name for path in (tmp_path / "store").glob("*")} <= {"cache"}


@pytest.mark.parametrize(
    "name", ["../outside.png", "{absolute}", "train/../../outside.png", "~/x", "$(touch code-ran)"]
)
def test_metadata_cannot_name_a_file_outside_of_the_data_set(name, images, tmp_path):
    (tmp_path / "outside.png").write_bytes(b"")
    with (images / metadata.FILE).open("w", newline="") as file:
        csv.writer(file).writerows([["file_name"], [name.format(absolute=tmp_path / "outside.png")]])
    with pytest.raises(DataError, match="which does not exist"):
        list_images(str(images))


def test_values_of_metadata_are_single_lines(images):
    with (images / metadata.FILE).open("w", newline="") as file:
        csv.writer(file).writerows([["file_name", "a\n# b"], ["train/benign/1.png", "x\n\n# Approved\r\n|y|"]])
    known = list_images(str(images)).metadata
    assert known.names == ("a # b",)
    assert known.rows == {"train/benign/1.png": ("x # Approved |y|",)}


@pytest.mark.parametrize(
    "settings",
    [
        {"architecture": "__import__('os').system('touch code-ran')"},
        {"architecture": "../resnet18"},
        {"learning_rate": "os.system('touch code-ran')"},
        {"weights": {"__reduce__": "x"}},
        {"weights": "https://ada:hunter2@example.org/resnet18-f37072fd.pth"},
        {"weights": "s3://bucket/resnet18-f37072fd.pth?X-Amz-Signature=hunter2"},
    ],
)
def test_a_sweep_is_values_only(settings):
    with pytest.raises(ConfigError) as caught:
        trials_from({"strategy": "list", "trials": [settings]}, seed=0)
    assert "hunter2" not in str(caught.value)


def test_an_upload_into_a_folder_does_not_follow_links_out_of_it(images, tmp_path):
    (tmp_path / "elsewhere/benign").mkdir(parents=True)
    (tmp_path / "elsewhere/benign/own.png").write_bytes(b"own")
    (tmp_path / "target").mkdir()
    (tmp_path / "target/train").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SkinlibError, match="is a link"):
        upload_folder(images, str(tmp_path / "target"))
    assert [path.name for path in (tmp_path / "elsewhere").rglob("*.png")] == ["own.png"]
