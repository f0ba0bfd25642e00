"""A picture whose corners all differ, and its files."""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from skinlib.data.images import SIDE

ROW, COLUMN = np.mgrid[:SIDE, :SIDE].astype(np.uint8)
SCENE = np.stack([COLUMN, ROW, 255 - (ROW // 2 + COLUMN // 2)], axis=-1)  # all corners differ
GREY = np.repeat(ROW[..., None], 3, axis=-1)


def encode(image: Image.Image | NDArray[Any], format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, format, **options)
    return file.getvalue()


def largest_difference(left: NDArray[Any], right: NDArray[Any]) -> int:
    return int(np.abs(left.astype(int) - right.astype(int)).max())
