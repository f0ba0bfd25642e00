"""Results as the library gives them, small and made up, for what draws or writes them."""

import functools
from typing import Any

import numpy as np

from skinlib import evaluation

LABELS = np.array([0] * 60 + [1] * 40)
PROBABILITIES = np.clip(np.random.default_rng(0).normal(0.3 + 0.4 * LABELS, 0.2), 0.001, 0.999)
THRESHOLD = 0.3
STRESS = [
    {"name": "unchanged", "auroc": 0.9556, "sensitivity": 0.9289, "specificity": 0.8299, "auroc_change": 0.0,
     "probability_change": 0.0},
    {"name": "cooler", "auroc": 0.9361, "sensitivity": 0.8954, "specificity": 0.7986, "auroc_change": -0.0195,
     "probability_change": 0.071},
    {"name": "hair", "auroc": None, "sensitivity": None, "specificity": 0.7361, "auroc_change": None,
     "probability_change": 0.0753},
]  # fmt: skip


@functools.cache
def report(kind: str = "full") -> dict[str, Any]:
    """`evaluation.report` of everything ("full"), of no more than it needs ("bare"), or of benign images ("benign")."""
    groups = np.arange(100)
    if kind == "bare":
        return evaluation.report(LABELS, PROBABILITIES, THRESHOLD, groups=groups)
    if kind == "benign":
        return evaluation.report(LABELS[:60], PROBABILITIES[:60], THRESHOLD, groups=groups[:60])
    return evaluation.report(
        LABELS,
        PROBABILITIES,
        THRESHOLD,
        groups=groups,
        uncalibrated=PROBABILITIES**2,
        shortcut_probabilities=np.where(np.arange(100) % 3, PROBABILITIES, 0.5),
        twins=np.arange(100) % 20 == 0,
    )


def photographs(n: int) -> np.ndarray:
    """Smooth images, as photographs are: their size in a card is then a realistic one."""
    ramp = np.linspace(60, 220, 224, dtype=np.uint8)
    return np.stack([np.roll(np.stack(np.broadcast_arrays(ramp, ramp[:, None], ramp), -1), i, 0) for i in range(n)])


def heat(n: int) -> np.ndarray:
    """A bright spot, float32 (n, 224, 224), somewhere else in each."""
    y, x = np.mgrid[:224, :224]
    spots = [np.exp(-((x - 20 - 9 * i) ** 2 + (y - 112) ** 2) / 2000) for i in range(n)]
    return np.array(spots, np.float32)
