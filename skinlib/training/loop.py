"""The training of one trial: the loop, its checkpoints and its early stop.

All random numbers come from generators seeded with (seed, epoch), and the learning rate is a function of the step.
A checkpoint therefore needs no random state and no scheduler: a trial that was killed and continued ends with the
same weights, to the bit, as an undisturbed one.
"""

import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import log_loss, roc_auc_score
from torch import nn
from torch.nn import functional

from skinlib import machine
from skinlib.config import image_memory_limit
from skinlib.networks.inference import Streamed, predict_tensor, to_tensor
from skinlib.networks.network import Network, build, forward_flops
from skinlib.networks.pretrained import load_pretrained
from skinlib.training.augment import augment
from skinlib.training.checkpoint import Checkpoint, TrialState, saving_in_background
from skinlib.training.result import Epoch, Setting, TrialResult
from skinlib.training.slots import Slot
from skinlib.training.trial import Trial

# Dense bf16 peak in FLOP/s, by a part of the driver's name for the GPU (NVIDIA's data sheets).
PEAK = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "A10G": 70e12, "A10": 125e12}

OnHistory = Callable[[list[Epoch]], None]


@dataclass(frozen=True)
class _Data:
    """The images of a trial at its size, uint8 (N, 3, S, S); all but the validation labels are on its device.

    Images that do not fit there are streamed to it.
    """

    train_images: torch.Tensor | Streamed
    train_labels: torch.Tensor
    train_weights: torch.Tensor
    validation_images: torch.Tensor | Streamed
    validation_labels: NDArray[np.int64]


class _Diverged(Exception):
    pass


class _TimedOut(Exception):
    pass


def train(
    trial: Trial,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    train_index: NDArray[np.int64],
    validation_index: NDArray[np.int64],
    one_class: NDArray[np.bool_],
    *,
    seed: int,
    slot: Slot,
    checkpoint: Checkpoint,
    is_retry: bool = False,
    minutes: float = 24 * 60,
    on_epoch: OnHistory = lambda history: None,
    on_checkpoint: OnHistory = lambda history: None,
) -> TrialResult:
    """Train one trial; continue from its checkpoint if there is one.

    Args:
        trial: The hyperparameters.
        images: The packed set, uint8 (N, 224, 224, 3). If the images of the trial's size take less than half of the
            free memory, they are read once and kept on the device; otherwise each batch is read when it is needed,
            with the same result.
        labels: int64 (N,), 1 is malignant.
        train_index: Indices of the images to learn from.
        validation_index: Indices of the images that decide on the best epoch and the early stop; of both classes.
        one_class: bool (N,), whether each image is from a source that has one class only.
        seed: Seeds the weights, the order of the images and the augmentation.
        slot: The device to train on.
        checkpoint: Where to keep the state.
        is_retry: An earlier attempt was killed, perhaps for lack of memory: read each batch when it is needed, however
            much memory is free.
        minutes: The longest that this attempt may take.
        on_epoch: Called with the history after every epoch.
        on_checkpoint: Called with the history after it was saved.

    Returns:
        The result; divergence, lack of memory and lack of time are results, too.
    """
    setting = _set_up(slot)
    cost = forward_flops(trial.architecture, trial.image_size) // 2
    try:
        with _time_limit(minutes):
            size, device = trial.image_size, slot.device
            order = np.sort(train_index)  # a memory map is read from front to back
            fit = _fits(len(order) + len(validation_index), size, slot, is_retry)
            load = to_tensor if fit else Streamed
            data = _Data(
                load(images, size, device, order),
                torch.from_numpy(labels[order]).float().to(device),
                torch.from_numpy(image_weights(labels[order], one_class[order], trial.one_class_weight)).to(device),
                load(images, size, device, validation_index),
                labels[validation_index],
            )
            training = _Training(trial, data, seed, setting)
            if (state := checkpoint.load()) is not None:
                training.restore(state)
                print(
                    f"Continuing after epoch {len(training.history)} of {trial.epochs} from the last checkpoint.",
                    flush=True,
                )
            with saving_in_background(checkpoint, on_checkpoint) as saver:
                while not training.ended:
                    training.run_epoch()
                    on_epoch(training.history)
                    saver.save(training.state(), last=training.ended)
            return training.result(cost)
    except _TimedOut:
        reason = f"no result within {minutes:g} minutes; raise timeout_minutes in the compute config, or lower epochs"
        return TrialResult("timed out", reason, setting, cost)
    except _Diverged as error:
        return TrialResult("diverged", str(error), setting, cost)
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        reason = f"{error}".strip().split("\n")[0] or "the process got no more memory"
        return TrialResult("out of memory", f"{reason}; lower batch_size or image_size", setting, cost)


@contextmanager
def _time_limit(minutes: float) -> Iterator[None]:
    """Raise `_TimedOut` inside the block after that time, even where it waits for something that never comes."""

    def end(number: int, frame: object) -> None:
        raise _TimedOut

    handler, left = signal.signal(signal.SIGALRM, end), signal.alarm(math.ceil(60 * minutes))
    try:
        yield
    finally:
        # A process has one alarm: Metaflow's @timeout had set it.
        signal.signal(signal.SIGALRM, handler)
        signal.alarm(left)


def learning_rate(trial: Trial, step: int, steps: int) -> float:
    """Return the rate at a step (from 0): linear warm-up to the peak, then a cosine down to 1% of it."""
    warm = max(1, round(trial.warmup * steps))
    if step < warm:
        return trial.learning_rate * (step + 1) / warm
    progress = (step - warm) / max(1, steps - warm)
    return trial.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def image_weights(labels: NDArray[np.int64], one_class: NDArray[np.bool_], weight: float) -> NDArray[np.float32]:
    """Weigh the images of sources with one class less, so that telling the source pays less than reading the lesion.

    Args:
        labels: int64 (N,), 1 is malignant.
        one_class: bool (N,), whether each image is from such a source.
        weight: Theirs, compared with 1 for the others.

    Returns:
        float32 (N,), with a mean of 1 in each class, so that the balance of the classes stays the same.
    """
    weights = np.where(one_class, weight, 1.0)
    for label in (0, 1):
        if (mean := weights[labels == label].mean()) > 0:
            weights[labels == label] /= mean
    return weights.astype(np.float32)


def _set_up(slot: Slot) -> Setting:
    """Make torch deterministic on the slot's device, and choose the precision."""
    # cuBLAS is deterministic only with a workspace of fixed size. It reads this once, when it starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    torch.set_num_threads(slot.threads)
    name = "cpu" if slot.device == "cpu" else torch.cuda.get_device_name(slot.device)
    return {
        "device": slot.device,
        "name": name,
        "threads": slot.threads,
        "precision": "bfloat16" if _has_bfloat16(slot.device) else "float32",
    }


def _fits(n_images: int, size: int, slot: Slot, is_retry: bool) -> bool:
    """Return whether to keep the images in memory, which they may fill by half; print a message if not."""
    if is_retry:
        print(
            "An earlier attempt ended without a result. If it was killed for lack of memory (exit code 137), raise "
            "`memory` in the compute config. To save memory, each batch is read when it is needed.",
            flush=True,
        )
        return False
    needed, free = n_images * 3 * size**2, image_memory(slot)
    if 2 * needed > free:
        print(
            f"The images take {needed / 1e9:.1f} GB, more than half of the {free / 1e9:.1f} GB of free memory: "
            "each batch is read when it is needed.",
            flush=True,
        )
    return 2 * needed <= free


def image_memory(slot: Slot) -> float:
    """Return the bytes of memory that a trial on a slot may use; SKINLIB_IMAGE_MEMORY_MB sets a lower limit."""
    if slot.device == "cpu":
        free = machine.memory() * slot.threads // machine.cores()
    else:
        free = torch.cuda.mem_get_info(slot.device)[0]
    return min(free, image_memory_limit())


def _has_bfloat16(device: str) -> bool:
    if device != "cpu":
        # Not torch.cuda.is_bf16_supported(): it counts emulation, as on a T4. bf16 units came with Ampere.
        return torch.cuda.get_device_capability(device) >= (8, 0)
    # torch has no public question for this. On CPUs that emulate bf16 it is slower than float32.
    return bool(torch.cpu._is_avx512_bf16_supported())


def _is_out_of_memory(error: RuntimeError | MemoryError) -> bool:
    """Whether an error means lack of memory: for a CPU, torch raises a plain RuntimeError that says so."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)


class _Training:
    """A trial in training: its network, the moving average of its weights, the optimiser and the history."""

    def __init__(self, trial: Trial, data: _Data, seed: int, setting: Setting) -> None:
        self.trial, self.data, self.seed, self.setting = trial, data, seed, setting
        self.device = data.train_labels.device
        torch.manual_seed(seed)
        pretrained = load_pretrained(trial.weights, trial.architecture)
        self.network = build(trial.architecture, pretrained).to(self.device)
        self.average = build(trial.architecture).to(self.device)
        self.average.load_state_dict(self.network.state_dict())
        self.optimiser = _optimiser(trial, self.network)
        self.batch_size = min(trial.batch_size, len(data.train_labels))
        self.steps_per_epoch = len(data.train_labels) // self.batch_size
        self.history: list[Epoch] = []
        self.best: dict[str, torch.Tensor] = {}
        self.best_epoch = 0

    @property
    def ended(self) -> bool:
        """Whether all epochs are done, or `patience` epochs in a row were no better."""
        epoch = len(self.history)
        return epoch >= self.trial.epochs or epoch - self.best_epoch >= self.trial.patience

    def state(self) -> TrialState:
        """Return what a checkpoint must hold."""
        return {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "history": self.history,
            "best": self.best,
            "best_epoch": self.best_epoch,
        }

    def restore(self, state: TrialState) -> None:
        """Continue from the state of a checkpoint."""
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.history, self.best, self.best_epoch = state["history"], state["best"], state["best_epoch"]

    def run_epoch(self) -> None:
        """Train one epoch, validate the averaged weights, and keep them if they are the best so far."""
        epoch, began = len(self.history) + 1, time.monotonic()
        train_loss, rate = self._train_epoch(epoch)
        seconds = time.monotonic() - began
        # A hundred times the loss of guessing: no network recovers from that.
        if not train_loss < 100 * math.log(2):
            raise _Diverged(
                f"The loss was {train_loss:.3g} in epoch {epoch}; lower learning_rate ({self.trial.learning_rate:g})"
            )
        labels, probabilities = self.data.validation_labels, predict_tensor(self.average, self.data.validation_images)
        if not np.isfinite(probabilities).all():
            raise _Diverged(f"The averaged weights gave no finite output in epoch {epoch}; lower learning_rate")
        speed = self.steps_per_epoch * self.batch_size / seconds
        entry: Epoch = {
            "epoch": epoch,
            "time_ms": int(time.time() * 1000),
            "train_loss": train_loss,
            "validation_loss": float(log_loss(labels, probabilities)),
            "validation_auroc": float(roc_auc_score(labels, probabilities)),
            "learning_rate": rate,
            "images_per_second": speed,
            "seconds": seconds,
        }
        if (share := _peak_share(self.trial, self.setting["name"], speed)) is not None:
            entry["peak_share"] = share
        self.history.append(entry)
        if self.best_epoch == 0 or entry["validation_auroc"] > self.history[self.best_epoch - 1]["validation_auroc"]:
            self.best_epoch = epoch
            self.best = {name: value.detach().cpu().clone() for name, value in self.average.state_dict().items()}
        _print(entry, self.trial.epochs)

    def _train_epoch(self, epoch: int) -> tuple[float, float]:
        """Make one step for each batch; return the mean loss and the last learning rate."""
        # SeedSequence mixes its input, so that neighbouring epochs and seeds share nothing.
        epoch_seed = int(np.random.SeedSequence([self.seed, epoch]).generate_state(1, np.uint64)[0] >> 1)
        generator = torch.Generator().manual_seed(epoch_seed)
        losses, rate = torch.zeros((), device=self.device), 0.0
        shuffled = torch.randperm(len(self.data.train_labels), generator=generator)
        order = [shuffled[i * self.batch_size : (i + 1) * self.batch_size] for i in range(self.steps_per_epoch)]
        rows, images = [chosen.to(self.device) for chosen in order], self.data.train_images
        batches = images.batches(order) if isinstance(images, Streamed) else (images[chosen] for chosen in rows)
        self.network.train()
        for number, (chosen, batch) in enumerate(zip(rows, batches, strict=True)):
            step = (epoch - 1) * self.steps_per_epoch + number
            rate = learning_rate(self.trial, step, self.trial.epochs * self.steps_per_epoch)
            losses += self._train_step(batch, chosen, rate, generator)
            # The decay grows with the steps, or the average would remember the first random weights for long.
            _average(self.average, self.network, min(self.trial.ema_decay, (1 + step) / (10 + step)))
        return losses.item() / self.steps_per_epoch, rate

    def _train_step(
        self, images: torch.Tensor, chosen: torch.Tensor, rate: float, generator: torch.Generator
    ) -> torch.Tensor:
        """Update the weights on one batch, uint8 (n, 3, S, S), and the indices of its images; return the loss."""
        trial = self.trial
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        strengths = trial.augmentation, trial.colour_augmentation, trial.artefacts
        batch = augment(images, *strengths, generator)
        batch = batch.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.setting["precision"] == "bfloat16"):
            logits = self.network(batch)
        target = self.data.train_labels[chosen] * (1 - trial.label_smoothing) + trial.label_smoothing / 2
        loss = functional.binary_cross_entropy_with_logits(logits.float(), target, self.data.train_weights[chosen])
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        return loss.detach()

    def result(self, multiply_adds: int) -> TrialResult:
        """Return the best epoch's weights and what they predict for the validation images."""
        self.average.load_state_dict(self.best)
        epochs = len(self.history)
        ending = f"stopped early after {epochs} epochs" if epochs < self.trial.epochs else f"all {epochs} epochs"
        whole = f", in batches of all {self.batch_size} training images" * (self.batch_size < self.trial.batch_size)
        return TrialResult(
            status="finished",
            reason=f"{ending} in {self.setting['precision']}{whole}",
            setting=self.setting,
            multiply_adds=multiply_adds,
            history=self.history,
            best_epoch=self.best_epoch,
            validation_auroc=self.history[self.best_epoch - 1]["validation_auroc"],
            validation_probabilities=predict_tensor(self.average, self.data.validation_images),
            weights={name: value.numpy() for name, value in self.best.items()},
        )


def _optimiser(trial: Trial, network: Network) -> torch.optim.Optimizer:
    # Norms and biases are not decayed: smaller ones do not make the function simpler.
    groups = [
        {"params": [p for p in network.parameters() if p.ndim > 1], "weight_decay": trial.weight_decay},
        {"params": [p for p in network.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if trial.optimiser == "adamw":
        return torch.optim.AdamW(groups, lr=trial.learning_rate)
    return torch.optim.SGD(groups, lr=trial.learning_rate, momentum=trial.momentum, nesterov=trial.momentum > 0)


@torch.no_grad()
def _average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the average towards the network, including the running statistics of the norms."""
    pairs = zip(average.state_dict().values(), network.state_dict().values(), strict=True)
    into, source = zip(*[(a, b) for a, b in pairs if a.is_floating_point()], strict=True)
    # Not public, but what torch.optim.swa_utils uses: one kernel for all tensors instead of one for each.
    torch._foreach_lerp_(into, source, 1 - decay)


def _peak_share(trial: Trial, device_name: str, images_per_second: float) -> float | None:
    """Return the share of the GPU's bf16 peak, None if that is not known; a step takes three forward passes."""
    peak = next((value for name, value in PEAK.items() if name in device_name), None)
    return peak and 3 * forward_flops(trial.architecture, trial.image_size) * images_per_second / peak


def _print(epoch: Epoch, epochs: int) -> None:
    share = f", {epoch['peak_share']:.0%} of the GPU's peak" if "peak_share" in epoch else ""
    print(
        f"epoch {epoch['epoch']}/{epochs}: loss {epoch['train_loss']:.3f}, validation loss "
        f"{epoch['validation_loss']:.3f}, validation AUROC {epoch['validation_auroc']:.3f}, "
        f"{epoch['images_per_second']:.0f} images/s{share}",
        flush=True,
    )
