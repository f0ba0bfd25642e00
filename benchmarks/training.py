"""Compares the speed of training with torchvision's usual recipe and with the bare step, on a CPU or a GPU.

    python -m benchmarks.training FOLDER                       # ResNet-18 at 224, 128 and 96 px on all cores
    python -m benchmarks.training FOLDER --device cuda --architecture resnet50 --sizes 224 --batch-size 128

- *skinlib*: whole epochs of `skinlib.training.loop` with augmentation, on all cores or one GPU.
- *usual recipe*: ImageFolder, transforms v2, and a DataLoader with the number of workers (0, 1, 2, 4, ...) that is
  fastest; float32 on a CPU, and AMP in bf16 on a GPU.
- *bare step*: forward, backward and optimiser of the same network in bf16 and channels_last, on a batch that lies on
  the device.

The rounds alternate, and medians are shown. The recipe's decoding is part of it, while skinlib decodes a data set once
and trains on the packed images.
"""

import statistics
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
import torch
from torch.nn import functional
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from benchmarks.report import Table
from skinlib import machine
from skinlib.data.listing import list_images
from skinlib.data.packing import PackedDataset, open_packed, prepare
from skinlib.data.storage import open_store
from skinlib.networks.network import build, forward_flops
from skinlib.training import loop
from skinlib.training.checkpoint import Checkpoint
from skinlib.training.slots import Slot
from skinlib.training.trial import Trial

ROUNDS = 2


class Setting:
    """What all three train: the network, its input and the device."""

    def __init__(self, device: str, architecture: str, size: int, batch: int, images: int) -> None:
        self.device, self.architecture, self.size, self.batch, self.images = device, architecture, size, batch, images

    def wait(self) -> None:
        """Wait for the device, which works while the program goes on."""
        if self.device != "cpu":
            torch.cuda.synchronize()


def ours(setting: Setting, packed: PackedDataset) -> float:
    """Return the images per second of the second epoch."""
    torch.set_num_threads(machine.cores())
    trial = Trial(architecture=setting.architecture, image_size=setting.size, batch_size=setting.batch, epochs=2)
    index = np.random.default_rng(0).permutation(np.flatnonzero(np.array(packed.manifest.splits) == "train"))
    with TemporaryDirectory() as folder:
        result = loop.train(
            trial,
            packed.images,
            packed.labels,
            index[: setting.images],
            index[-64:],
            np.zeros(len(packed.labels), np.bool_),
            seed=0,
            slot=Slot("cpu" if setting.device == "cpu" else "cuda:0", machine.cores()),
            checkpoint=Checkpoint(open_store(folder), "state.pt"),
        )
    torch.use_deterministic_algorithms(False)
    return result.history[-1]["images_per_second"]


def _steps(
    setting: Setting, batches: Iterator[tuple[torch.Tensor, torch.Tensor]], bf16: bool, layout: torch.memory_format
) -> float:
    """Train on batches, and return the images per second after the first one."""
    network = build(setting.architecture).to(setting.device, memory_format=layout).train()
    optimiser = torch.optim.AdamW(network.parameters())
    seen, began = 0, 0.0
    for number, (images, labels) in enumerate(batches):
        if number == 1:
            setting.wait()
            seen, began = 0, time.perf_counter()
        with torch.autocast(setting.device, torch.bfloat16) if bf16 else nullcontext():
            logits = network(images.to(setting.device, non_blocking=True))
        loss = functional.binary_cross_entropy_with_logits(logits.float(), labels.to(setting.device).float())
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        seen += len(images)
    setting.wait()
    return seen / (time.perf_counter() - began)


def usual(setting: Setting, folder: Path, workers: int) -> float:
    """Return the images per second of an epoch of the usual recipe."""
    torch.set_num_threads(max(1, machine.cores() if setting.device == "cpu" else 1))
    steps = v2.Compose(
        [
            v2.RandomResizedCrop(setting.size, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(0.2, 0.2, 0.2),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32),
        ]
    )
    images = ImageFolder(str(folder / "train"), steps)
    chosen = np.random.default_rng(0).permutation(len(images))[: setting.images].tolist()
    batches = DataLoader(
        Subset(images, chosen),
        setting.batch,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        pin_memory=setting.device != "cpu",
    )
    return _steps(setting, iter(batches), bf16=setting.device != "cpu", layout=torch.contiguous_format)


def bare(setting: Setting) -> float:
    """Return the images per second of the bare step."""
    torch.set_num_threads(machine.cores())
    shape = setting.batch, 3, setting.size, setting.size
    images = (255 * torch.rand(shape, device=setting.device)).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(setting.batch, device=setting.device) % 2
    batches = [(images, labels)] * (1 + max(4, setting.images // setting.batch))
    return _steps(setting, iter(batches), bf16=True, layout=torch.channels_last)


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--architecture", default="resnet18", show_default=True)
@click.option("--sizes", default="224,128,96", show_default=True)
@click.option("--batch-size", default=64, show_default=True)
@click.option("--images", default=640, show_default=True, help="Images of an epoch.")
def main(folder: Path, device: str, architecture: str, sizes: str, batch_size: int, images: int) -> None:
    """Print a table with the rate of each, and their ratios."""
    name = torch.cuda.get_device_name() if device == "cuda" else ""
    columns = ["network", "px", "skinlib", "usual recipe (workers)", "bare step", "faster than the recipe"]
    columns += ["share of the bare step", *(["TFLOP/s", "share of the peak"] if name else [])]
    table = Table(f"training on {'a GPU' if name else 'a CPU'}", columns, ["torch", "torchvision"], name)
    workers = [0, *(2**k for k in range(5) if 2**k <= machine.cores())]
    with TemporaryDirectory() as scratch:
        cache = open_store(scratch)
        packed = open_packed(cache, prepare(list_images(str(folder)), cache).hash)
        for size in map(int, sizes.split(",")):
            setting = Setting(device, architecture, size, batch_size, images)
            rates: dict[str, list[float]] = {}
            for _ in range(ROUNDS):
                rates.setdefault("skinlib", []).append(ours(setting, packed))
                rates.setdefault("bare", []).append(bare(setting))
                for n in workers:
                    rates.setdefault(f"{n}", []).append(usual(setting, folder, n))
            median = {key: statistics.median(of) for key, of in rates.items()}
            best = max(map(str, workers), key=lambda n: median[n])
            share, gain = median["skinlib"] / median["bare"], median["skinlib"] / median[best]
            row = [architecture, size, f"{median['skinlib']:.0f}", f"{median[best]:.0f} ({best})"]
            row += [f"{median['bare']:.0f}", f"{gain:.2f}", f"{share:.0%}"]
            if name:
                flops = 3 * forward_flops(architecture, size) * median["skinlib"]
                peak = next((value for part, value in loop.PEAK.items() if part in name), None)
                row += [f"{flops / 1e12:.0f}", f"{flops / peak:.0%}" if peak else "unknown"]
            table.row(*row)
    table.save()


if __name__ == "__main__":
    main()
