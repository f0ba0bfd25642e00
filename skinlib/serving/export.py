"""The two files of a registered model: the network with its preprocessing as one ONNX graph, and one file of code."""

import ast
import json
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from skinlib import errors
from skinlib.data import images as images_module
from skinlib.networks import familiarity, resnet
from skinlib.networks.inference import resize
from skinlib.serving.settings import ClassifierSettings

OPSET = 20
CLASSIFIER = Path(__file__).with_name("classifier.py")


class _Served(nn.Module):
    def __init__(self, network: resnet.Network, familiar: familiarity.Familiarity, settings: ClassifierSettings):
        super().__init__()
        self.network, self.familiar = network, familiar
        self.image_size, self.temperature = settings["image_size"], settings["temperature"]

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        stages = self.network.stages(resize(images.permute(0, 3, 1, 2), self.image_size))
        # In double precision, as in `predict_tensor`, so that probabilities near 1 differ.
        probability = torch.sigmoid(self.network.classify(stages[-1]).double() / self.temperature)
        return probability, self.familiar(stages), self.network.evidence(stages[-1])


def export_graph(
    weights: Mapping[str, np.ndarray],
    settings: ClassifierSettings,
    images: NDArray[np.uint8],
    train: NDArray[np.int64],
    validation: NDArray[np.int64],
) -> bytes:
    """Export a trained network as an ONNX graph, which runs without torch and without this project.

    The graph has one input, `images`, uint8 (N, 224, 224, 3), RGB, and three outputs:

        probability    float64 (N,), of malignancy, calibrated
        unfamiliarity  float32 (N,), distance to the training images; above 1 the image is unlike them
        evidence       float32 (N, H, W), the part of each cell in the logit

    Its metadata contains the settings, as JSON by the name `skinlib.settings`.

    Args:
        weights: The network's state dict by name.
        settings: What the network is served with.
        images: The packed set, uint8 (N, 224, 224, 3), which familiarity is measured against.
        train: Indices of the training images.
        validation: Indices of the validation images.
    """
    network = resnet.restore(settings["architecture"], weights)
    familiar = familiarity.fit(network, images, settings["image_size"], train, validation)
    served = _Served(network, familiar, settings).eval()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about torch's own use of deprecated functions
        program = torch.onnx.export(
            served,
            (torch.from_numpy(np.array(images[:2])),),
            dynamo=True,
            opset_version=OPSET,
            input_names=["images"],
            output_names=["probability", "unfamiliarity", "evidence"],
            dynamic_shapes={"images": {0: torch.export.Dim("N")}},
            verbose=False,
        )
    assert program is not None
    graph = program.model_proto
    entry = graph.metadata_props.add()
    entry.key, entry.value = "skinlib.settings", json.dumps(settings)
    return bytes(graph.SerializeToString(deterministic=True))


def code() -> str:
    """Return the code of `skinlib.serving.classifier`, with the code that it imports from skinlib in front of it."""
    parts = [Path(errors.__file__), Path(images_module.__file__), CLASSIFIER]
    return "\n\n".join(_without_own_imports(part.read_text()) for part in parts)


def _without_own_imports(source: str) -> str:
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "skinlib":
            assert node.end_lineno is not None
            lines[node.lineno - 1 : node.end_lineno] = [""] * (node.end_lineno - node.lineno + 1)
            lines[node.lineno - 1] = " " * node.col_offset + "pass"
    return "\n".join(lines) + "\n"
