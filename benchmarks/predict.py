"""Compares the speed of `skinlib predict` with a loop of single calls and with the usual inference loop of PyTorch.

python -m benchmarks.predict models:/NAME@ALIAS s3://bucket/prefix

The others run the same network on the same objects, which they read with boto3: the registered model in MLflow, one
image per call, on the first 300 images; and the network in PyTorch behind a DataLoader with 0, 1, 2 or 4 workers, of
which the fastest counts. All include reading and decoding, but not the loading of the model. `predict` also computes
each image's colours and writes its table.
"""

import io
import sys
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import boto3
import mlflow
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.report import Table
from skinlib.networks.network import restore
from skinlib.serving import scoring
from skinlib.serving.served import table
from skinlib.tracking import registry

SINGLE = 300
WORKERS = (0, 1, 2, 4)
ROUNDS = 2


class Objects(Dataset[Any]):
    """The images of a bucket at the size of a network's input, as torchvision's references make them."""

    def __init__(self, url: str, side: int) -> None:
        self.bucket, _, prefix = url.removeprefix("s3://").partition("/")
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        keys = [entry["Key"] for page in pages for entry in page["Contents"]]
        self.keys = [key for key in keys if key.endswith((".jpg", ".jpeg", ".png"))]
        del self.__dict__["client"]  # each worker opens its own
        self.steps = transforms.Compose(
            [transforms.Resize(side), transforms.CenterCrop(side), transforms.PILToTensor()]
        )

    @cached_property
    def client(self) -> Any:
        return boto3.client("s3")

    def read(self, index: int) -> bytes:
        return self.client.get_object(Bucket=self.bucket, Key=self.keys[index])["Body"].read()

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.steps(Image.open(io.BytesIO(self.read(index))).convert("RGB"))


def main(model: str, url: str) -> None:
    """Print a table with the rate of each, the median of some rounds."""
    served = registry.load(model)
    side = served.settings["image_size"]
    with TemporaryDirectory() as folder:
        path = Path(mlflow.artifacts.download_artifacts(model, dst_path=folder))
        network = restore(served.settings["architecture"], dict(np.load(path / "weights.npz")))
        loaded = mlflow.pyfunc.load_model(str(path))
        objects = Objects(url, side)
        outputs = iter(range(100))

        def predict() -> None:
            scoring.predict(served, url, scoring.open_output(f"{folder}/{next(outputs)}.parquet"))

        def single() -> None:
            for index in range(SINGLE):
                loaded.predict(table([objects.read(index)]))

        def loop(workers: int) -> None:
            with torch.inference_mode():
                for batch in DataLoader(objects, batch_size=64, num_workers=workers):
                    # The network contains the normalisation.
                    torch.sigmoid(network(batch.contiguous(memory_format=torch.channels_last)))

        tried: dict[str, tuple[int, Callable[[], None]]] = {
            "skinlib predict": (len(objects), predict),
            "single calls": (SINGLE, single),
            **{f"DataLoader, {n} workers": (len(objects), lambda n=n: loop(n)) for n in WORKERS},  # type: ignore[misc]
        }
        rates: dict[str, list[float]] = {name: [] for name in tried}
        for _ in range(ROUNDS):  # alternately, so that another process disturbs all of them
            for name, (count, work) in tried.items():
                begun = time.perf_counter()
                work()
                rates[name].append(count / (time.perf_counter() - begun))
    medians = {name: float(np.median(each)) for name, each in rates.items()}
    columns = [f"{served.settings['architecture']} at {side} px", "images per second", "predict is faster by"]
    report = Table("scoring", columns, ["onnxruntime", "torch", "boto3"])
    for name, rate in medians.items():
        report.row(name, f"{rate:.0f}", f"{medians['skinlib predict'] / rate:.2f}")
    report.save()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
