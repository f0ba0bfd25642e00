"""The exported network as one ONNX graph: pixels in, answers out, without torch and MLflow."""

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # onnxruntime reports its use to Microsoft, from its import on

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from skinlib.machine import cores

if TYPE_CHECKING:
    from skinlib.serving.settings import ClassifierSettings

BATCH = 64  # images per call of the graph


@dataclass(frozen=True)
class Answers:
    """What the graph computes for N images.

    Attributes:
        probability: float64 (N,) in 0..1, of malignancy, calibrated.
        unfamiliarity: float64 (N,), distance to the training images; above 1 the image is unlike them.
        unsupported: bool (N,), whether the image is like those of sources with one class only.
        evidence: float32 (N, H, W), the part of each cell in the logit; the cells divide the image evenly.
    """

    probability: NDArray[np.float64]
    unfamiliarity: NDArray[np.float64]
    unsupported: NDArray[np.bool_]
    evidence: NDArray[np.float32]


class Graph:
    """The exported network.

    Attributes:
        settings: What the network is served with, from the graph's metadata.
    """

    def __init__(self, model: bytes | str, threads: int = 0) -> None:
        """Load a graph from its bytes or its path; 0 threads means one per core, within a container's limits."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or cores()
        self._session = onnxruntime.InferenceSession(model, options, providers=onnxruntime.get_available_providers())
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.settings: ClassifierSettings = json.loads(metadata["skinlib.settings"])

    def score(self, images: NDArray[np.uint8]) -> Answers:
        """Score images, uint8 (N, 224, 224, 3), RGB; a memory map is read in batches."""
        batches = range(0, max(1, len(images)), BATCH)
        parts = [self._session.run(None, {"images": np.asarray(images[i : i + BATCH])}) for i in batches]
        probability, unfamiliarity, unsupported, evidence = (np.concatenate(part) for part in zip(*parts, strict=True))
        return Answers(probability, unfamiliarity.astype(np.float64), unsupported > 0, evidence)
