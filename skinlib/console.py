"""What is printed: progress while something runs, and what came out of it."""

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

_SECONDS_BETWEEN_LINES = 3.0


def progress(what: str) -> Callable[[int, int], None]:
    """Return a function of (done, total) that prints a line now and then, and always the last one."""
    last = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal last
        if done == total or time.monotonic() - last >= _SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            print(f"{what}: {done:,} of {total:,}", flush=True)

    return show


def number(value: float | None) -> str:
    """A metric as it is printed; `undefined` where it has no value."""
    return "undefined" if value is None else f"{value:.3f}"


def estimate(of: Mapping[str, Any] | None) -> str:
    """A metric with its interval, as `evaluation.report` gives them."""
    if of is None:
        return number(None)
    if of["interval"] is None:
        return number(of["value"])
    return f"{number(of['value'])} ({' to '.join(map(number, of['interval']))})"


def summary(
    leaderboard: "pd.DataFrame",
    test_report: Mapping[str, Any],
    registered: Mapping[str, str],
    tracking_uri: str,
    synthetic: bool,
) -> str:
    """Say at the end of a run what came out and what can be done with it."""
    look = f"mlflow ui --backend-store-uri {tracking_uri}" if tracking_uri.startswith("sqlite") else tracking_uri
    best = leaderboard["trial"][0]
    shown = leaderboard[["trial", "status", "validation_auroc", "best_epoch", "epochs_trained", "seconds"]]
    scores = test_report["all"]
    metrics = {"AUROC": scores["auroc"]} | {
        name: scores["operating_point"][name] for name in ("accuracy", "sensitivity", "specificity")
    }
    with_intervals = "\n".join(f"  {name:12} {estimate(of)}" for name, of in metrics.items())
    warning = "\nThe images are SYNTHETIC: the model is for trying out only.\n" if synthetic else ""
    return f"""
{shown.to_string(index=False, float_format="%.3f")}

Best trial: {best}
Test set: {scores["n"]} images, {scores["n_malignant"]} malignant, called so from {test_report["threshold"]} on;
with 95 % intervals
{with_intervals}
{warning}
Registered: {registered["name"]} version {registered["version"]}, alias {registered["alias"]}

Next:
  data, training, leaderboard and test:  make cards
  runs and models:  {look}
  score other images:  python -m skinlib evaluate models:/{registered["name"]}@{registered["alias"]} FOLDER
"""
