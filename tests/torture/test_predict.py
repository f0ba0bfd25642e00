"""`skinlib predict` that is killed 20 times at random moments: every image is in the table exactly once."""

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pandas as pd

from tests.flow.conftest import Place, sweep

IMAGES, KILLS = 2637, 20


def test_every_image_is_scored_exactly_once(tmp_path: Path, tiny_images: Path) -> None:
    place = Place(tmp_path)
    code, output = place.flow("--promote", "always", config=sweep(), data=tiny_images)
    assert code == 0, output
    originals = sorted(tiny_images.glob("test/*/*.jpg"))
    (tmp_path / "ward").mkdir()
    for number in range(IMAGES):
        shutil.copy(originals[number % len(originals)], tmp_path / f"ward/{number:04}.jpg")

    command = ["-m", "skinlib", "predict", "models:/skin-lesion@champion", "ward", "--output"]
    began = time.monotonic()
    code, output = place.call(*command, "whole.parquet")
    assert code == 0, output
    length = time.monotonic() - began

    rng, kills = random.Random(0), 0
    for _ in range(KILLS):
        process = place.start(*command, "killed.parquet")
        time.sleep(rng.uniform(0, length))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.communicate()
        if (tmp_path / "killed.parquet").exists():
            break
    if not (tmp_path / "killed.parquet").exists():
        code, output = place.call(*command, "killed.parquet")
        assert code == 0, output
    tables = [pd.read_parquet(tmp_path / name) for name in ("whole.parquet", "killed.parquet")]
    whole, killed = (table.sort_values("image", ignore_index=True) for table in tables)
    assert killed["image"].tolist() == [f"{number:04}.jpg" for number in range(IMAGES)]
    pd.testing.assert_frame_equal(whole, killed)
    print(f"{IMAGES:,} images, {kills} kills: each is in the table once")
