import hashlib

import pytest
import torch
import torchvision

from skinlib.data.storage import open_store
from skinlib.errors import ConfigError
from skinlib.networks.network import build
from skinlib.networks.pretrained import fetch_weights, load_pretrained, store_weights


@pytest.fixture
def weights_file(tmp_path):
    def make(architecture="resnet18", promise=None):
        path = tmp_path / "weights.pth"
        torch.save(torchvision.models.get_model(architecture).state_dict(), path)
        digest = promise or hashlib.sha256(path.read_bytes()).hexdigest()[:8]
        return path.rename(tmp_path / f"{architecture}-{digest}.pth")

    return make


def test_pretrained_weights_are_used_except_for_the_last_layer(weights_file):
    path = weights_file()
    stored = torch.load(path, weights_only=True)
    network = build("resnet18", load_pretrained(str(path), "resnet18"))
    assert torch.equal(network.backbone.layer4[1].conv2.weight, stored["layer4.1.conv2.weight"])
    assert network.backbone.fc.weight.shape == (1, 512)


def test_weights_of_another_architecture_are_refused(weights_file):
    pretrained = load_pretrained(str(weights_file()), "resnet34")
    with pytest.raises(ConfigError, match="do not fit resnet34"):
        build("resnet34", pretrained)


def test_weights_without_the_hash_in_their_name_are_refused(weights_file):
    with pytest.raises(ConfigError, match="not 00000000"):
        load_pretrained(str(weights_file(promise="00000000")), "resnet18")


def test_missing_weights_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        load_pretrained(str(tmp_path / "resnet18-f37072fd.pth"), "resnet18")


def test_a_weights_file_whose_name_has_no_hash_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"NAME-HASH\.pth"):
        load_pretrained(str(tmp_path / "resnet18.pth"), "resnet18")


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("code ran",))

    path = tmp_path / "evil.pth"
    torch.save({"fc.weight": Evil()}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    with pytest.raises(ConfigError, match="not a state dict of tensors"):
        load_pretrained(str(path.rename(tmp_path / f"evil-{digest}.pth")), "resnet18")


@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_stored_weights_are_read_after_their_file_is_gone(weights_file, place, bucket, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    url = {"folder": str(tmp_path / "store"), "bucket": f"s3://{bucket}/run"}[place]
    store = open_store(url, create=True)
    path = weights_file()
    store_weights(str(path), store)
    path.unlink()
    assert load_pretrained(fetch_weights(str(path), store), "resnet18") is not None


@pytest.mark.parametrize("weights", ["none", "imagenet", "/somewhere/resnet18-f37072fd.pth"])
def test_weights_that_are_not_stored_stay_as_they_are(weights, tmp_path):
    assert fetch_weights(weights, open_store(str(tmp_path))) == weights
