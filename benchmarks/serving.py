"""A registered model: its environment, its speed compared with the PyTorch model before it, and its server under load.

python -m benchmarks.serving [--model models:/skin-lesion@champion] IMAGE
"""

import argparse
import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from importlib.metadata import distribution
from pathlib import Path

import mlflow
import numpy as np
import psutil

from benchmarks.report import Table
from skinlib.data.images import decode
from skinlib.tracking.requirements import pinned

ROOT = Path(__file__).resolve().parents[1]
BEFORE = "b84b44c"  # the last commit at which the registered model was a PyTorch network
SAVE = """
import json, sys
from pathlib import Path
import mlflow, numpy as np, onnxruntime, skinlib
from skinlib.serving import classifier
source, target, folder = map(Path, sys.argv[1:])
session = onnxruntime.InferenceSession(source / "artifacts/model.onnx")
settings = json.loads(session.get_modelmeta().custom_metadata_map["skinlib.settings"])
files = classifier.save(folder, dict(np.load(source / "weights.npz")), settings)
mlflow.pyfunc.save_model(
    target, python_model=Path(classifier.__file__), artifacts=files,
    code_paths=[str(Path(skinlib.__file__).parent)], pip_requirements=[],
)
"""
# Both models get the same pixels. Medians, so that another process disturbs less.
TIME = """
import json, sys, time
started = time.perf_counter()
import mlflow.pyfunc
imported = time.perf_counter()
model = mlflow.pyfunc.load_model(sys.argv[1])
loaded = time.perf_counter()
import numpy as np, pandas as pd
images = np.load(sys.argv[2])
times = {"import mlflow.pyfunc": imported - started, "load": loaded - imported}
for count, repeats in ((1, 50), (64, 9)):
    batch = images[:count]
    if sys.argv[3] == "table":
        batch = pd.DataFrame({"image": pd.Series(list(batch), dtype=object)})
    spent = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        model.predict(batch)
        spent.append(time.perf_counter() - start)
    times[f"{count} images"] = float(np.median(spent[2:]))
print(json.dumps(times))
"""


def main() -> None:
    """Write the tables `serving` and `server`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="models:/skin-lesion@champion")
    parser.add_argument("image", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = Path(mlflow.artifacts.download_artifacts(arguments.model, dst_path=f"{folder}/model"))
        environment = Path(folder, "environment")
        uv = Path(sys.executable).with_name("uv")
        run(uv, "venv", "--quiet", "--python", sys.executable, environment)
        python = environment / "bin/python"
        run(uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", python, "-r", model / "requirements.txt")
        compare(Path(folder), model, python, arguments.image.read_bytes())
        load(Path(folder), model, python, arguments.image.read_bytes())


def run(*command: object, **environment: str) -> str:
    """Run a command and return what it prints."""
    ran = subprocess.run(
        list(map(str, command)), env=os.environ | environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return ran.stdout


def compare(folder: Path, model: Path, python: Path, file: bytes) -> None:
    """Print size, import time, load time and speed of both models."""
    before, old = folder / "before", folder / "before-model"
    before.mkdir()
    archive = subprocess.run(["git", "archive", BEFORE, "skinlib"], cwd=ROOT, stdout=subprocess.PIPE, check=True)
    subprocess.run(["tar", "-x", "-C", before], input=archive.stdout, check=True)
    run(sys.executable, "-P", "-c", SAVE, model, old, before, PYTHONPATH=str(before))
    pixels = folder / "pixels.npy"
    np.save(pixels, np.repeat(decode(file)[None], 64, 0))
    timed: dict[str, dict[str, float]] = {"PyTorch": {}, "ONNX": {}}
    # Alternately, and the best of three: caches are warm, and another process disturbs less.
    for _ in range(3):
        for name, command in (
            ("PyTorch", (sys.executable, "-P", "-c", TIME, old, pixels, "array")),
            ("ONNX", (python, "-P", "-c", TIME, model, pixels, "table")),
        ):
            for key, value in json.loads(run(*command).splitlines()[-1]).items():
                timed[name][key] = min(value, timed[name].get(key, value))
    sizes = {"PyTorch": installed(), "ONNX": sum(f.stat().st_size for f in python.parents[1].rglob("*") if f.is_file())}
    table = Table("serving", ["", "PyTorch", "ONNX", "ratio"], ["mlflow", "torch", "onnxruntime"])
    rows = {"environment, MB": {name: size / 1e6 for name, size in sizes.items()}}
    rows |= {f"{key}, ms": {name: timed[name][key] * 1e3 for name in timed} for key in timed["ONNX"]}
    for key, row in rows.items():
        ratio = row["PyTorch"] / row["ONNX"]
        table.row(key, f"{row['PyTorch']:.0f}", f"{row['ONNX']:.0f}", f"{ratio:.2f}")
    table.save()


def installed() -> int:
    """Return the bytes of the packages that the PyTorch model required, as they are installed here."""
    names = [pin.split("==")[0] for pin in pinned(("mlflow", "numpy", "pandas", "pillow", "torch", "torchvision"))]
    files = {Path(str(file.locate())) for name in names for file in distribution(name).files or ()}
    return sum(file.stat().st_size for file in files if file.is_file())


def load(folder: Path, model: Path, python: Path, file: bytes) -> None:
    """Print latency, throughput and memory of the server, with clients on the same cores."""
    shutil.copy(ROOT / "skinlib/serving/server.py", model)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    body = json.dumps({"inputs": {"image": [base64.b64encode(file).decode()]}}).encode()
    command = [python, "-m", "uvicorn", f"--app-dir={model}", "--factory", "server:create", f"--port={port}"]
    local = threading.local()

    def ask(_: int) -> tuple[float, bool]:
        if not hasattr(local, "connection"):
            local.connection = HTTPConnection("127.0.0.1", port, timeout=120)
        start = time.perf_counter()
        local.connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
        answer = local.connection.getresponse()
        answer.read()
        return time.perf_counter() - start, answer.status == 200

    started = time.perf_counter()
    with (folder / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
        try:
            for _ in range(1200):
                try:
                    ask(0)
                    break
                except OSError:
                    local.connection.close()
                    time.sleep(0.05)
            print(f"\nFirst answer after {time.perf_counter() - started:.1f} s.\n")
            columns = ["clients", "requests", "failed", "p50, ms", "p99, ms", "per second", "memory, MB"]
            table = Table("server", columns, ["mlflow", "uvicorn", "onnxruntime"])
            for clients, requests in ((1, 300), (8, 1000), (64, 1000), (200, 200), (8, 5000)):
                begun = time.perf_counter()
                with ThreadPoolExecutor(clients) as pool:
                    answers = list(pool.map(ask, range(requests)))
                rate = requests / (time.perf_counter() - begun)
                p50, p99 = np.percentile([seconds * 1e3 for seconds, _ in answers], [50, 99])
                failed = sum(not good for _, good in answers)
                memory = psutil.Process(server.pid).memory_info().rss / 1e6
                table.row(clients, requests, failed, *(f"{value:.0f}" for value in (p50, p99, rate, memory)))
            table.save()
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
