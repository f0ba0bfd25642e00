"""Small made-up results in the form that the library gives them."""

import functools
import math
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skinlib.audit.traces import Standout
from skinlib.data.split import Fold
from skinlib.evaluation.scores import Report, build_report, histograms
from skinlib.evaluation.stress import StressRow
from skinlib.serving.settings import ClassifierSettings
from skinlib.training.result import Epoch

LABELS = np.array([0] * 60 + [1] * 40)
PROBABILITIES = np.clip(np.random.default_rng(0).normal(0.3 + 0.4 * LABELS, 0.2), 0.001, 0.999)
HISTOGRAMS = histograms(LABELS, PROBABILITIES)
THRESHOLD = 0.3
FOLDS: list[Fold] = [{"train": np.arange(40), "validation": np.arange(40, 60)}]  # of 60 photographs
STRESS: list[StressRow] = [
    {"name": "unchanged", "auroc": 0.9556, "sensitivity": 0.9289, "specificity": 0.8299, "auroc_change": 0.0,
     "probability_change": 0.0},
    {"name": "cooler", "auroc": 0.9361, "sensitivity": 0.8954, "specificity": 0.7986, "auroc_change": -0.0195,
     "probability_change": 0.071},
    {"name": "hair", "auroc": None, "sensitivity": None, "specificity": 0.7361, "auroc_change": None,
     "probability_change": 0.0753},
]  # fmt: skip

CLASSIFIER: ClassifierSettings = {
    "architecture": "resnet10",
    "image_size": 32,
    "temperature": 1.7,
    "threshold": 0.5,
    "sensitivity": 0.95,
    "uncertain": [0.4, 0.6],
    "scores": {"edges": [0.5], "counts": [60, 40]},
    "shortcut": {
        "mean": [0.5] * 6,
        "deviation": [0.1] * 6,
        "histograms": [{"edges": [0.5], "counts": [50, 50]}] * 6,
        "weights": [1.0] * 6,
        "bias": 0.0,
    },
}


@functools.cache
def report(kind: str = "full") -> Report:
    """A report with every part ("full"), with labels and scores only ("no twins"), or of benign images ("benign")."""
    twins = np.arange(100) % 20 == 0 if kind == "full" else None
    n = 60 if kind == "benign" else 100
    colours = np.where(np.arange(100) % 3, PROBABILITIES, 0.5)
    columns: dict[str, Any] = {"baselines": {"colours": colours[:n]}, "twins": twins}
    if kind == "full":
        sources = ["north" if i % 3 else "south" for i in range(n)]
        traces = np.where(np.arange(100) % 4, PROBABILITIES, 0.4)
        columns |= {"metadata": {"source": sources, "age": [str(30 + i % 40) for i in range(n)]}, "source": "source"}
        columns["baselines"] |= {"file traces": traces, "source": 1.0 * (PROBABILITIES > 0.6)}
    return report_of(LABELS[:n], PROBABILITIES[:n], THRESHOLD, **columns)


def report_of(labels: NDArray[np.int64], probabilities: NDArray[np.float64], threshold: float, **more: Any) -> Report:
    """A report of images whose other columns do not matter."""
    flags = {"unfamiliar": np.arange(len(labels)) % 10 == 0, "unsupported": np.arange(len(labels)) % 10 == 1}
    near = abs(probabilities - threshold) < 0.1
    answers = pd.DataFrame({"probability": probabilities, "uncertain": near, **flags})
    settings = {**CLASSIFIER, "threshold": threshold}
    columns = {"groups": np.arange(len(labels)), "baselines": {"colours": np.full(len(labels), 0.5)}}
    return build_report(labels, answers, settings, **columns | more)


def standout(**changes: Any) -> Standout:
    """A trace that tells the classes apart."""
    usual: Standout = {
        "trace": "subsampling",
        "value": "4:2:0",
        "other": False,
        "benign": 35,
        "malignant": 532,
        "all_benign": 1152,
        "all_malignant": 958,
    }
    return cast(Standout, {**usual, **changes})


def photographs(n: int) -> NDArray[np.uint8]:
    """Smooth images, uint8 (n, 224, 224, 3): they take as many bytes in a card as photographs do."""
    ramp = np.linspace(60, 220, 224, dtype=np.uint8)
    return np.stack([np.roll(np.stack(np.broadcast_arrays(ramp, ramp[:, None], ramp), -1), i, 0) for i in range(n)])


def heat(n: int) -> NDArray[np.float32]:
    """Grad-CAM maps, float32 (n, 224, 224), each with one bright spot in another place."""
    y, x = np.mgrid[:224, :224]
    spots = [np.exp(-((x - 20 - 9 * i) ** 2 + (y - 112) ** 2) / 2000) for i in range(n)]
    return np.array(spots, np.float32)


def history(epochs: int, final: float = 0.9) -> list[Epoch]:
    """The epochs of a trial that improves in every epoch."""
    return [
        {
            "epoch": epoch,
            "time_ms": 1_763_900_000_000 + 60_000 * epoch,
            "train_loss": 0.6 / epoch,
            "validation_loss": 0.7 / epoch,
            "validation_auroc": final - 0.01 * (epochs - epoch),
            "learning_rate": 0.001,
            "images_per_second": 123.4,
            "seconds": 60.0,
        }
        for epoch in range(1, epochs + 1)
    ]


def search(finished: int, diverged: int = 1) -> tuple[pd.DataFrame, dict[str, list[Epoch]]]:
    """A leaderboard and the histories; the second trial is better than the chosen one by less than one std. error."""
    rows = []
    histories: dict[str, list[Epoch]] = {}
    for i in range(finished + diverged):
        auroc = 0.95 - 0.01 * i + 0.015 * (i == 1)
        scores = {
            "validation_auroc": auroc,
            "low": auroc - 0.03,
            "high": auroc + 0.02,
            "behind_best": 0.955 - auroc if finished > 1 else 0.0,
            "standard_error": 0.006,
            "colours_auroc": 0.861,
            "above_colours": auroc - 0.861,
            "above_colours_low": auroc - 0.9,
            "above_colours_high": auroc - 0.83,
        }
        failed = i >= finished
        rows.append(
            {
                "trial": f"resnet18-{i:02}",
                "status": "diverged" if failed else "finished",
                "reason": "the loss was nan in epoch 3; lower learning_rate" if failed else "all 20 epochs",
                **(dict.fromkeys(scores, math.nan) if failed else scores),
                "multiply_adds": 592_400_000 + i * 10**9,
                "best_epoch": 4,
                "epochs_trained": 5,
                "seconds": 812.3,
                "architecture": "resnet18",
                "learning_rate": 0.001 * (i + 1),
            }
        )
        histories[f"resnet18-{i:02}"] = [] if failed else history(5, auroc)
    return pd.DataFrame(rows), histories
