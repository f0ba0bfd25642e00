"""The network with its preprocessing as one ONNX graph."""

import json
import logging
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from skinlib.data.split import Fold
from skinlib.networks import ensemble, familiarity
from skinlib.networks.inference import resize
from skinlib.networks.network import Network, restore
from skinlib.serving.settings import ClassifierSettings

OPSET = 20


class _Member(nn.Module):
    def __init__(self, network: Network, familiar: familiarity.Familiarity):
        super().__init__()
        self.network, self.familiar = network, familiar

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        stages = self.network.stages(images)
        # In double precision, as in `predict_tensor`, so that probabilities near 1 differ.
        logits = self.network.classify(stages[-1]).double()
        return logits, *self.familiar(stages), self.network.evidence(stages[-1])


class _Served(nn.Module):
    """The mean of the members' logits, distances and evidence.

    Each distance is in units of its own limit, which 5% of the images that the member did not learn from exceed. So
    over all folds, 5% of the training images exceed 1 in the fold that held them out.
    """

    def __init__(self, members: Sequence[_Member], settings: ClassifierSettings):
        super().__init__()
        self.members = nn.ModuleList(members)
        self.image_size, self.temperature = settings["image_size"], settings["temperature"]

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        resized = resize(images.permute(0, 3, 1, 2), self.image_size)
        outputs = zip(*[member(resized) for member in self.members], strict=True)
        logits, *others = [torch.stack(parts).mean(0) if len(parts) > 1 else parts[0] for parts in outputs]
        return torch.sigmoid(logits / self.temperature), *others


def export_graph(
    weights: Mapping[str, np.ndarray],
    settings: ClassifierSettings,
    images: NDArray[np.uint8],
    folds: Sequence[Fold],
    unsupported: NDArray[np.bool_],
) -> bytes:
    """Export a trained model as an ONNX graph, which runs without torch and without this project.

    A model of several networks is one graph, too, with the means of their logits, distances and evidence.

    The graph has one input, `images`, uint8 (N, 224, 224, 3), RGB, and four outputs:

        probability    float64 (N,), of malignancy, calibrated
        unfamiliarity  float32 (N,), distance to the training images; above 1 the image is unlike them
        unsupported    float32 (N,), above 0 the image is like those of sources with one class only
        evidence       float32 (N, H, W), the part of each cell in the logit

    Its metadata contains the settings, as JSON by the name `skinlib.settings`.

    Args:
        weights: The model's arrays by name, from `ensemble.join`.
        settings: What the model is served with.
        images: The packed set, uint8 (N, 224, 224, 3), which familiarity is measured against.
        folds: The training and the validation images of each network.
        unsupported: bool (N,), whether each image is from a source that has one class only.
    """
    members = []
    for arrays, fold in zip(ensemble.members(weights), folds, strict=True):
        network = restore(settings["architecture"], arrays)
        index = fold["train"], fold["validation"]
        familiar = familiarity.fit(network, images, settings["image_size"], *index, unsupported)
        members.append(_Member(network, familiar))
    served = _Served(members, settings).eval()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about torch's own use of deprecated functions
        program = torch.onnx.export(
            served,
            (torch.from_numpy(np.array(images[:2])),),
            dynamo=True,
            opset_version=OPSET,
            input_names=["images"],
            output_names=["probability", "unfamiliarity", "unsupported", "evidence"],
            dynamic_shapes={"images": {0: torch.export.Dim("N")}},
            verbose=False,
        )
    assert program is not None
    graph = program.model_proto
    entry = graph.metadata_props.add()
    entry.key, entry.value = "skinlib.settings", json.dumps(settings)
    return bytes(graph.SerializeToString(deterministic=True))
