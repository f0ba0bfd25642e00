"""The traces that only an image file has: how it was saved, which says nothing about the lesion."""

import hashlib
import io
from collections.abc import Iterable, Mapping
from functools import cache
from typing import NamedTuple

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

Trace = str | float | None  # None is unknown, or does not exist in the file's format
TraceColumns = Mapping[str, tuple[Trace, ...]]  # by field of `FileTraces`, in the order of the images

# ITU-T T.81, annex K.1, row by row. The Independent JPEG Group's encoder and most others scale them by their quality.
_LUMINANCE = (
    *(16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55),
    *(14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62),
    *(18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMINANCE = (
    *(17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99),
    *(24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99, 99, 99, 99),
    *(99,) * 32,
)
# Horizontal and vertical sampling of luminance, relative to that of the two colour components.
_SUBSAMPLING = {(1, 1): "4:4:4", (2, 1): "4:2:2", (2, 2): "4:2:0", (1, 2): "4:4:0", (4, 1): "4:1:1"}


class FileTraces(NamedTuple):
    """What the header of an image file shows; None where it is unknown.

    Attributes:
        format: Pillow's name, such as "JPEG".
        width: In pixels, before EXIF rotation.
        height: Likewise.
        bytes_per_pixel: Size of the file by its number of pixels.
        jpeg_tables: Names the JPEG quantisation tables: 8 hexadecimal digits of their SHA-256; "" in other formats.
        jpeg_quality: From 1 to 100, if these are the standard tables, scaled for this quality; 3 also for 1 and 2.
        subsampling: Chroma subsampling of a JPEG file, such as "4:2:0"; "" in grey files and other formats.
        exif: Whether the file has EXIF data.
    """

    format: str | None = None
    width: int | None = None
    height: int | None = None
    bytes_per_pixel: float | None = None
    jpeg_tables: str | None = None
    jpeg_quality: int | None = None
    subsampling: str | None = None
    exif: bool | None = None


def file_traces(data: bytes) -> FileTraces:
    """Read the traces of an image file from its header, in about 0.05 ms.

    Args:
        data: A file that `images.decode` accepts; of any other, the traces are unknown.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            tables = image.quantization if isinstance(image, JpegImageFile) else {}
            return FileTraces(
                format=image.format,
                width=image.width,
                height=image.height,
                bytes_per_pixel=round(len(data) / (image.width * image.height), 6),
                jpeg_tables=hashlib.sha256(repr(sorted(tables.items())).encode()).hexdigest()[:8] if tables else "",
                jpeg_quality=_quality([tuple(table) for table in tables.values()]),
                subsampling=_subsampling(image) if isinstance(image, JpegImageFile) else "",
                exif="exif" in image.info,
            )
    except Exception:  # Pillow raises many types on damaged bytes, and a trace is not worth an image
        return FileTraces()


def columns(traces: Iterable[FileTraces]) -> TraceColumns:
    """Turn the traces of files into columns; without files there are none."""
    rows = list(traces)
    return dict(zip(FileTraces._fields, zip(*rows, strict=True), strict=True)) if rows else {}


def _quality(tables: list[tuple[int, ...]]) -> int | None:
    """Return the quality for which all tables are standard tables, or None."""
    found = {_standard_tables().get(table) for table in tables}
    return found.pop() if len(found) == 1 else None


@cache
def _standard_tables() -> dict[tuple[int, ...], int]:
    """The standard tables by quality, scaled as `jpeg_quality_scaling` of the Independent JPEG Group's library does."""
    tables = {}
    for quality in range(1, 101):
        percent = 5000 // quality if quality < 50 else 200 - 2 * quality
        for standard in (_LUMINANCE, _CHROMINANCE):
            scaled = np.clip((np.array(standard) * percent + 50) // 100, 1, 255)
            tables[tuple(scaled.tolist())] = quality
    return tables


def _subsampling(image: JpegImageFile) -> str:
    """Name the chroma subsampling of a JPEG file, or list the sampling factors of its components if it has no name."""
    factors = [(horizontal, vertical) for _, horizontal, vertical, _ in image.layer]
    if len(factors) == 1:
        return ""
    if len(factors) == 3 and factors[1:] == [(1, 1), (1, 1)] and factors[0] in _SUBSAMPLING:
        return _SUBSAMPLING[factors[0]]
    return ", ".join(f"{horizontal}x{vertical}" for horizontal, vertical in factors)
