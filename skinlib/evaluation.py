"""Metrics of a binary classifier: what is reported, and when it is undefined."""

from typing import Any

import numpy as np


def auroc(labels: np.ndarray, probabilities: np.ndarray) -> float | None:
    """Area under the ROC curve, or None where one class is absent and it is undefined."""
    from sklearn.metrics import roc_auc_score

    if len(np.unique(labels)) < 2:
        return None
    return float(roc_auc_score(labels, probabilities))


def binary_metrics(labels: np.ndarray, probabilities: np.ndarray, threshold: float = 0.5) -> dict[str, Any]:
    """Score probabilities of malignancy against the truth.

    Args:
        labels: int (N,), 1 is malignant.
        probabilities: float (N,) in 0..1.
        threshold: a probability at or above it is called malignant.

    Returns:
        `n`, `n_malignant`, `threshold`, `auroc`, `accuracy`, `sensitivity` (share of the malignant that are
        called so), `specificity` (share of the benign that are called so); None where undefined.
    """
    malignant = np.asarray(labels) == 1
    called = np.asarray(probabilities) >= threshold

    def share(of: np.ndarray) -> float | None:
        return float(of.mean()) if of.size else None

    return {
        "n": int(malignant.size),
        "n_malignant": int(malignant.sum()),
        "threshold": float(threshold),
        "auroc": auroc(labels, probabilities),
        "accuracy": share(called == malignant),
        "sensitivity": share(called[malignant]),
        "specificity": share(~called[~malignant]),
    }
