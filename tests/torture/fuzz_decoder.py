"""Fuzz the decoder with coverage of Pillow's and this project's Python code, until something is found.

Each file must give an image or a reason of one line, also for its traces. Atheris is not a requirement of the project:

    pip install atheris
    mkdir corpus
    python -m tests.torture.fuzz_decoder corpus -timeout=5 -rss_limit_mb=1200 -max_len=65536 -max_total_time=600

The options are those of libFuzzer: https://llvm.org/docs/LibFuzzer.html. What it finds is written to the working
directory; the file's name as the only argument repeats it. The folder grows, and can be continued.
"""

import sys
import warnings
from pathlib import Path

import atheris
import numpy as np

with atheris.instrument_imports(include=["PIL", "skinlib.data"]):
    from PIL import Image

    Image.init()  # imports the plugins of all formats
    from skinlib.data.images import decode
    from skinlib.data.traces import file_traces
    from skinlib.errors import DataError

from tests.torture.test_decoder import originals
from tests.unit.data.scene import SCENE, encode


def check(data: bytes) -> None:
    try:
        image, reason = decode(data), ""
    except DataError as error:
        image, reason = None, str(error)
    if image is None:
        assert 0 < len(reason) < 300
        assert reason.isprintable()
    else:
        assert (image.shape, image.dtype) == ((224, 224, 3), np.uint8)
        assert file_traces(data).format


def write_seeds(folder: Path) -> None:
    others = [encode(SCENE[:40, :40], format) for format in ("AVIF", "GIF", "JPEG2000", "MPO", "PPM", "ICO", "PCX")]
    for number, data in enumerate([*originals(), *others]):
        (folder / f"seed-{number:02}").write_bytes(data)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for argument in map(Path, sys.argv[1:]):
        if argument.is_dir() and not any(argument.iterdir()):
            write_seeds(argument)
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()
