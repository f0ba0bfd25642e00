"""The exported graph and the file of code that serve a model."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from skinlib.data import images
from skinlib.data.split import Fold
from skinlib.evaluation.calibration import calibrate
from skinlib.networks import ensemble, familiarity
from skinlib.networks.inference import predict_tensor, to_tensor
from skinlib.networks.network import Network, build
from skinlib.serving import export, source
from skinlib.serving.graph import Graph
from skinlib.serving.settings import ClassifierSettings
from tests.unit import results

SETTINGS = results.CLASSIFIER


@pytest.fixture(scope="module")
def batch() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (5, 224, 224, 3), np.uint8)


def test_the_graph_gives_the_network_s_calibrated_probabilities(
    graph: bytes, network: Network, batch: np.ndarray
) -> None:
    predicted = predict_tensor(network, to_tensor(batch, SETTINGS["image_size"]))
    expected = calibrate(predicted, SETTINGS["temperature"])
    np.testing.assert_allclose(Graph(graph).score(batch).probability, expected, atol=5e-5)


def test_the_evidence_adds_up_to_the_logit_without_its_bias(graph: bytes, network: Network, batch: np.ndarray) -> None:
    evidence = Graph(graph).score(batch).evidence
    with torch.inference_mode():
        logits = network(to_tensor(batch, SETTINGS["image_size"])) - network.backbone.fc.bias
    np.testing.assert_allclose(evidence.sum((1, 2)), logits, atol=1e-4)


def test_five_percent_of_the_validation_images_are_unfamiliar(graph: bytes) -> None:
    distances = Graph(graph).score(results.photographs(60)[40:]).unfamiliarity
    assert np.quantile(distances, 0.95) == pytest.approx(1, abs=1e-3)


def test_the_graph_is_valid_and_holds_its_settings_to_the_last_digit(
    weights: dict[str, np.ndarray], tmp_path: Path
) -> None:
    settings: ClassifierSettings = {**SETTINGS, "temperature": 1.1 + 2e-16, "threshold": 1 / 3}
    graph = export.export_graph(weights, settings, results.photographs(60), results.FOLDS, np.zeros(60, bool))
    onnx.checker.check_model(onnx.load_from_string(graph), full_check=True)
    metadata = onnxruntime.InferenceSession(graph).get_modelmeta().custom_metadata_map
    assert json.loads(metadata["skinlib.settings"]) == settings == Graph(graph).settings


@pytest.fixture(scope="module")
def members() -> list[Network]:
    networks = []
    for seed in (1, 2, 3):
        torch.manual_seed(seed)
        networks.append(build("resnet10").eval())
    return networks


FOLDS: list[Fold] = [
    {"train": np.setdiff1d(np.arange(60), held_out), "validation": held_out}
    for held_out in (np.arange(0, 60, 3), np.arange(1, 60, 3), np.arange(2, 60, 3))
]
ONE_CLASS = np.arange(60) < 20


@pytest.fixture(scope="module")
def joint(members: list[Network]) -> Graph:
    weights = [{name: value.numpy() for name, value in network.state_dict().items()} for network in members]
    photographs = results.photographs(60)
    return Graph(export.export_graph(ensemble.join(weights), SETTINGS, photographs, FOLDS, ONE_CLASS))


@torch.inference_mode()
def test_an_ensemble_s_graph_gives_the_mean_of_its_members(
    joint: Graph, members: list[Network], batch: np.ndarray
) -> None:
    size = SETTINGS["image_size"]
    pixels = to_tensor(batch, size)
    stages = [network.stages(pixels) for network in members]
    logits = [network.classify(maps[-1]).double() for network, maps in zip(members, stages, strict=True)]
    answers = joint.score(batch)
    found = np.log(answers.probability) - np.log1p(-answers.probability)
    np.testing.assert_allclose(found, torch.stack(logits).mean(0) / SETTINGS["temperature"], atol=1e-5)
    evidence = [network.evidence(maps[-1]) for network, maps in zip(members, stages, strict=True)]
    np.testing.assert_allclose(answers.evidence, torch.stack(evidence).mean(0), atol=1e-5)
    familiar = [
        familiarity.fit(network, results.photographs(60), size, fold["train"], fold["validation"], ONE_CLASS)(maps)
        for network, maps, fold in zip(members, stages, FOLDS, strict=True)
    ]
    unfamiliarity, one_class = (torch.stack(parts).mean(0) for parts in zip(*familiar, strict=True))
    np.testing.assert_allclose(answers.unfamiliarity, unfamiliarity, rtol=1e-4)
    np.testing.assert_array_equal(answers.unsupported, one_class > 0)


def test_the_same_weights_give_the_same_bytes(graph: bytes, weights: dict[str, np.ndarray]) -> None:
    again = export.export_graph(weights, SETTINGS, results.photographs(60), results.FOLDS, np.zeros(60, bool))
    assert again == graph


def test_the_code_decodes_like_ingest_without_skinlib_and_torch(tmp_path: Path, graph: bytes) -> None:
    from tests.unit.serving.test_classifier import encoded, photographs

    files = {
        f"{height}x{width}.{kind}": encoded(photographs(height, width)[0], kind)
        for height, width in ((224, 224), (300, 200), (33, 60))
        for kind in ("png", "jpeg", "tiff")
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "served.py").write_text(source.code())
    program = """
import pathlib, sys
for name in ("skinlib", "torch", "torchvision", "metaflow", "sklearn", "scipy", "matplotlib"):
    sys.modules[name] = None  # importing it fails
sys.path.insert(0, ".")
import numpy as np
import served
np.savez("pixels.npz", **{name: served.decode(pathlib.Path(name).read_bytes()) for name in sys.argv[1:]})
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", program, *files], cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "pixels.npz") as pixels:
        for name, data in files.items():
            np.testing.assert_array_equal(pixels[name], images.decode(data))


def test_no_name_is_defined_twice_in_the_code() -> None:
    tree = ast.parse(source.code())
    defined = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    assigned = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    names = sorted(defined + [target.id for target in assigned if isinstance(target, ast.Name)])
    assert names == sorted(set(names))
