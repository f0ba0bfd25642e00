"""The overhead of a remote training task, compared with an empty Metaflow task.

    make platform && source .platform/env
    python -m benchmarks.remote_overhead                # ten minutes
    python -m benchmarks.remote_overhead kubernetes     # one of local, batch, kubernetes

A task takes the time from its creation by the scheduler to its end, as the metadata service records it. Overhead is the
time of a training task minus its epochs: code package, imports, packed images, network, card, curve, weights. The
emulators start processes instead of containers, so only the difference to the empty task applies to real backends.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from metaflow import Flow, Task, namespace

from benchmarks.report import Table

ROOT = Path(__file__).resolve().parents[1]
RUNS = 3
TRIAL = {"architecture": "resnet10", "image_size": 32, "epochs": 1, "batch_size": 32}


def run(folder: Path, *command: str) -> None:
    """Run a flow, or exit with its output if it fails."""
    done = subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)


def seconds(task: Task) -> float:
    """Return how long a task took, from its creation to its end."""
    return float((task.finished_at - task.created_at).total_seconds())


def empty_tasks(folder: Path, options: list[str]) -> Iterator[float]:
    """Run the empty flow and yield the time of each task."""
    run(folder, str(ROOT / "benchmarks/empty_flow.py"), "run", *options)
    yield from (seconds(step.task) for step in Flow("EmptyFlow").latest_run)


def training_task(folder: Path, backend: str) -> tuple[float, float]:
    """Run the training flow and return the overhead of its training task and the time of its epochs."""
    config = folder / "compute.json"
    config.write_text(json.dumps({"backend": backend}))
    sweep = folder / "sweep.json"
    sweep.write_text(json.dumps({"strategy": "list", "trials": [TRIAL]}))
    flow = [str(ROOT / "flows/train.py"), "--config", "compute", str(config), "--config", "sweep", str(sweep)]
    run(folder, *flow, "run", "--experiment", "benchmark", "--model-name", "benchmark")
    task = Flow("SkinLesionFlow").latest_run["train"].task
    epochs = sum(epoch["seconds"] for epoch in task["result"].data["history"])
    return seconds(task) - epochs, epochs


def main() -> None:
    """Print a table with one row per backend."""
    if os.environ.get("METAFLOW_PROFILE") != "local":
        sys.exit("This benchmark needs the local platform; run `make platform` and `source .platform/env` first.")
    namespace(None)
    columns = ["backend", "empty task", "training task without its epochs", "ratio", "its epochs"]
    table = Table("remote tasks", columns, ["metaflow", "torch", "mlflow"])
    for backend in sys.argv[1:] or ("local", "batch", "kubernetes"):
        empty: list[float] = []
        trained: list[tuple[float, float]] = []
        for _ in range(RUNS):
            with TemporaryDirectory() as folder:
                empty += empty_tasks(Path(folder), [] if backend == "local" else ["--with", backend])
                trained.append(training_task(Path(folder), backend))
        own, (ours, epochs) = median(empty), map(median, zip(*trained, strict=True))
        table.row(backend, *(f"{value:.1f}" for value in (own, ours, ours / own, epochs)))
    table.save()


if __name__ == "__main__":
    main()
