"""The weights of a model as arrays by name. A model is one network, or the mean of the logits of several.

A single network's arrays have the names of its state dict. Those of several have them after `fold-1.`, `fold-2.` and so
on. So one mapping holds any model, in an artifact and in a file.
"""

from collections.abc import Mapping, Sequence

import numpy as np


def join(members: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Put the state dicts of networks, in the order of their folds, into one mapping."""
    if len(members) == 1:
        return dict(members[0])
    return {f"fold-{n}.{name}": value for n, member in enumerate(members, 1) for name, value in member.items()}


def members(weights: Mapping[str, np.ndarray]) -> list[Mapping[str, np.ndarray]]:
    """Return the state dict of each network of a model, in the order of their folds."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, value in weights.items():
        fold, _, own_name = name.partition(".")
        if fold.startswith("fold-"):
            found.setdefault(fold, {})[own_name] = value
    return list(found.values()) or [weights]
