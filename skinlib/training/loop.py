"""Training of one trial: the loop, its checkpoints, and its early stop.

Everything random is drawn from generators seeded with (seed, epoch), and the learning rate is a function of the
step. A checkpoint thus needs no random state and no scheduler, and a trial that was killed and continued ends
with the same weights, to the bit, as one that ran through.
"""

import math
import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.nn import functional

from skinlib.networks.inference import predict_tensor, to_tensor
from skinlib.networks.pretrained import load_pretrained
from skinlib.networks.resnet import Network, build, forward_flops
from skinlib.training.augment import augment
from skinlib.training.checkpoint import Checkpoint
from skinlib.training.result import Epoch, TrialResult
from skinlib.training.slots import Slot
from skinlib.training.trial import Trial

# Dense bf16 peak in FLOP/s, by the name that the driver gives (NVIDIA's data sheets).
_PEAK = {
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10G": 70e12,
    "A10": 125e12,
}


class _Diverged(Exception):
    pass


def learning_rate(trial: Trial, step: int, steps: int) -> float:
    """Rate at a step (from 0): linear warm-up to the peak, then a cosine to 1 % of it."""
    warm = max(1, round(trial.warmup * steps))
    if step < warm:
        return trial.learning_rate * (step + 1) / warm
    progress = (step - warm) / max(1, steps - warm)
    return trial.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def train(
    trial: Trial,
    images: np.ndarray,
    labels: np.ndarray,
    train_index: np.ndarray,
    validation_index: np.ndarray,
    *,
    seed: int,
    slot: Slot,
    checkpoint: Checkpoint,
    on_epoch: Callable[[list[Epoch]], None] = lambda history: None,
    on_checkpoint: Callable[[list[Epoch]], None] = lambda history: None,
) -> TrialResult:
    """Train one trial, going on from its checkpoint if there is one.

    Args:
        images: the packed set, uint8 (N, 224, 224, 3); read once, then held on the device at the trial's size.
        labels: int (N,), 1 is malignant.
        train_index: which images to learn from.
        validation_index: which images decide on the best epoch and the early stop.
        seed: of the weights, the order of the images and the augmentation.
        on_epoch: called after every epoch with the history so far.
        on_checkpoint: called with the history once it cannot be lost any more.

    Returns:
        The result; a divergence or lack of memory is a result as well.
    """
    setting = _set_up(slot)
    device = torch.device(slot.device)
    order = np.sort(train_index)  # Sorted, a memory map is read from front to back.
    try:
        result = _train(
            trial,
            to_tensor(images[order], trial.image_size, device),
            torch.from_numpy(labels[order]).float().to(device),
            to_tensor(images[validation_index], trial.image_size, device),
            labels[validation_index],
            seed,
            setting,
            checkpoint,
            on_epoch,
            on_checkpoint,
        )
    except _Diverged as error:
        result = TrialResult("diverged", str(error))
    except (torch.OutOfMemoryError, MemoryError) as error:
        reason = f"{error}".strip().split("\n")[0] or "the process got no more memory"
        result = TrialResult("out of memory", f"{reason}; lower batch_size or image_size")
    multiply_adds = forward_flops(trial.architecture, trial.image_size) // 2
    return replace(result, setting=setting, multiply_adds=multiply_adds)


def _set_up(slot: Slot) -> dict[str, Any]:
    # cuBLAS is deterministic only with a workspace of fixed size, which it reads once, at its start.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    torch.set_num_threads(slot.threads)
    if slot.device == "cpu":
        # Emulated bf16 is slower than float32.
        fast, name = torch.cpu._is_avx512_bf16_supported(), "cpu"
    else:
        fast, name = torch.cuda.is_bf16_supported(), torch.cuda.get_device_name(slot.device)
    precision = "bfloat16" if fast else "float32"
    return {"device": slot.device, "name": name, "threads": slot.threads, "precision": precision}


def _train(
    trial: Trial,
    train_images: torch.Tensor,
    train_labels: torch.Tensor,
    validation_images: torch.Tensor,
    validation_labels: np.ndarray,
    seed: int,
    setting: dict[str, Any],
    checkpoint: Checkpoint,
    on_epoch: Callable[[list[Epoch]], None],
    on_checkpoint: Callable[[list[Epoch]], None],
) -> TrialResult:
    device = train_images.device
    torch.manual_seed(seed)
    network = build(trial.architecture, load_pretrained(trial.weights, trial.architecture)).to(device)
    average = build(trial.architecture).to(device)
    average.load_state_dict(network.state_dict())
    optimiser = _optimiser(trial, network)
    batch_size = min(trial.batch_size, len(train_labels))
    steps_per_epoch = len(train_labels) // batch_size
    history: list[Epoch] = []
    best: dict[str, torch.Tensor] = {}
    best_epoch = 0

    if (state := checkpoint.load()) is not None:
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        history, best, best_epoch = state["history"], state["best"], state["best_epoch"]
        print(f"Continuing after epoch {len(history)} of {trial.epochs} from the last checkpoint.", flush=True)
    saved_at = time.monotonic()

    while len(history) < trial.epochs and len(history) - best_epoch < trial.patience:
        epoch = len(history) + 1
        began = time.monotonic()
        # A seed of its own for each epoch: SeedSequence mixes, so that neighbours share nothing.
        epoch_seed = int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> 1)
        generator = torch.Generator().manual_seed(epoch_seed)
        rate = 0.0
        losses = torch.zeros((), device=device)
        shuffled = torch.randperm(len(train_labels), generator=generator).to(device)
        network.train()
        for number in range(steps_per_epoch):
            step = (epoch - 1) * steps_per_epoch + number
            rate = learning_rate(trial, step, trial.epochs * steps_per_epoch)
            for group in optimiser.param_groups:
                group["lr"] = rate
            chosen = shuffled[number * batch_size : (number + 1) * batch_size]
            batch = augment(train_images[chosen], trial.augmentation, trial.colour_augmentation, generator)
            batch = batch.contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, torch.bfloat16, enabled=setting["precision"] == "bfloat16"):
                logits = network(batch)
            target = train_labels[chosen] * (1 - trial.label_smoothing) + trial.label_smoothing / 2
            loss = functional.binary_cross_entropy_with_logits(logits.float(), target)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            # The decay grows with the steps, or the average would remember the first random weights for long.
            _average(average, network, min(trial.ema_decay, (1 + step) / (10 + step)))
            losses += loss.detach()
        train_loss = losses.item() / steps_per_epoch
        seconds = time.monotonic() - began
        # A hundred times the loss of guessing: no network comes back from there.
        if not train_loss < 100 * math.log(2):
            raise _Diverged(
                f"The loss was {train_loss:.3g} in epoch {epoch}; lower learning_rate ({trial.learning_rate:g})"
            )

        probabilities = predict_tensor(average, validation_images)
        if not np.isfinite(probabilities).all():
            raise _Diverged(f"The averaged weights gave no finite output in epoch {epoch}; lower learning_rate")
        score = float(roc_auc_score(validation_labels, probabilities))
        speed = steps_per_epoch * batch_size / seconds
        history.append(
            {
                "epoch": epoch,
                "time_ms": int(time.time() * 1000),
                "train_loss": train_loss,
                "validation_loss": _log_loss(validation_labels, probabilities),
                "validation_auroc": score,
                "learning_rate": rate,
                "images_per_second": speed,
                "seconds": seconds,
                **_peak_share(trial, setting, speed),
            }
        )
        if best_epoch == 0 or score > history[best_epoch - 1]["validation_auroc"]:
            best_epoch = epoch
            best = {name: value.detach().cpu().clone() for name, value in average.state_dict().items()}
        _print(trial, history)
        on_epoch(history)
        last = epoch == trial.epochs or epoch - best_epoch >= trial.patience
        if last or time.monotonic() - saved_at >= checkpoint.seconds:
            checkpoint.save(
                {
                    "network": network.state_dict(),
                    "average": average.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "history": history,
                    "best": best,
                    "best_epoch": best_epoch,
                }
            )
            saved_at = time.monotonic()
            on_checkpoint(history)

    average.load_state_dict(best)
    stopped = len(history) < trial.epochs
    return TrialResult(
        status="finished",
        reason=f"stopped early after {len(history)} epochs" if stopped else f"all {trial.epochs} epochs",
        history=history,
        best_epoch=best_epoch,
        validation_auroc=history[best_epoch - 1]["validation_auroc"],
        validation_probabilities=predict_tensor(average, validation_images),
        weights={name: value.numpy() for name, value in best.items()},
    )


def _optimiser(trial: Trial, network: Network) -> torch.optim.Optimizer:
    # Norms and biases are not decayed: shrinking them does not make the function simpler.
    groups = [
        {"params": [p for p in network.parameters() if p.ndim > 1], "weight_decay": trial.weight_decay},
        {"params": [p for p in network.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if trial.optimiser == "adamw":
        return torch.optim.AdamW(groups, lr=trial.learning_rate)
    return torch.optim.SGD(groups, lr=trial.learning_rate, momentum=trial.momentum, nesterov=trial.momentum > 0)


@torch.no_grad()
def _average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the average towards the network, the running statistics of the norms included."""
    pairs = zip(average.state_dict().values(), network.state_dict().values(), strict=True)
    into, source = zip(*[(a, b) for a, b in pairs if a.is_floating_point()], strict=True)
    torch._foreach_lerp_(into, source, 1 - decay)


def _log_loss(labels: np.ndarray, probabilities: np.ndarray) -> float:
    p = np.clip(probabilities, 1e-7, 1 - 1e-7)
    return float(-np.mean(np.where(labels == 1, np.log(p), np.log1p(-p))))


def _peak_share(trial: Trial, setting: dict[str, Any], images_per_second: float) -> dict[str, float]:
    peak = next((value for name, value in _PEAK.items() if name in setting["name"]), None)
    if peak is None:
        return {}
    return {"peak_share": 3 * forward_flops(trial.architecture, trial.image_size) * images_per_second / peak}


def _print(trial: Trial, history: list[Epoch]) -> None:
    now = history[-1]
    share = f", {now['peak_share']:.0%} of the GPU's peak" if "peak_share" in now else ""
    print(
        f"epoch {now['epoch']}/{trial.epochs}: loss {now['train_loss']:.3f}, validation loss "
        f"{now['validation_loss']:.3f}, validation AUROC {now['validation_auroc']:.3f}, "
        f"{now['images_per_second']:.0f} images/s{share}",
        flush=True,
    )
