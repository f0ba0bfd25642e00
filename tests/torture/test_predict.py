"""`skinlib predict`, killed at random moments, scores every image exactly once."""

import random
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from tests.unit.conftest import network, weights  # noqa: F401 (fixtures)
from tests.unit.serving.test_scoring import MODEL, encoded, pictures, uri  # noqa: F401 (fixture)

IMAGES, KILLS = 2637, 20


def test_each_image_is_scored_once_however_often_the_command_is_killed(
    tmp_path: Path,
    uri: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    files = [encoded(image) for image in pictures(50, seed=7)]
    for number in range(IMAGES):
        path = tmp_path / "in" / f"{number:05}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(files[number % len(files)])
    whole, rng = tmp_path / "whole.parquet", random.Random(0)

    def started(path: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "skinlib", "predict", MODEL, str(tmp_path / "in"), "--output", str(path)]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL)

    began = time.monotonic()
    assert started(whole).wait() == 0
    length, kills, tables = time.monotonic() - began, 0, 0
    expected = pd.read_parquet(whole).sort_values("image", ignore_index=True)
    while kills < KILLS:
        output, tables = tmp_path / f"scores-{tables}.parquet", tables + 1
        while not output.exists():
            process = started(output)
            try:
                process.wait(rng.uniform(0.2, 1) * length if kills < KILLS else None)
                assert process.returncode == 0
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                kills += 1
        table = pd.read_parquet(output).sort_values("image", ignore_index=True)
        assert table["image"].is_unique
        assert len(table) == IMAGES
        pd.testing.assert_frame_equal(table, expected, check_exact=False, atol=1e-6)
    print(f"{kills} kills, {tables} tables: {IMAGES:,} images, each scored once", flush=True)
