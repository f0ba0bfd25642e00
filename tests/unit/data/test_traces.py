"""The traces of real files, written here by Pillow."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from skinlib.data.traces import FileTraces, columns, file_traces

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


def saved(file_format: str = "JPEG", pixels: Any = PIXELS, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, file_format, **options)
    return file.getvalue()


def test_a_png_has_size_and_format_but_no_trace_of_jpeg() -> None:
    data = saved("PNG")
    bytes_per_pixel = round(len(data) / 2400, 6)
    assert file_traces(data) == FileTraces("PNG", 60, 40, bytes_per_pixel, "", None, "", False)


@pytest.mark.parametrize("quality", [30, 50, 75, 90, 100])
def test_standard_tables_give_the_quality(quality: int) -> None:
    assert file_traces(saved(quality=quality)).jpeg_quality == quality


def test_equal_tables_have_equal_names_whatever_the_image_shows() -> None:
    names = [file_traces(saved(pixels=pixels)).jpeg_tables for pixels in (PIXELS, PIXELS[::-1].copy())]
    assert names[0] == names[1] != file_traces(saved(quality=80)).jpeg_tables
    assert len(names[0] or "") == 8


def test_tables_of_another_encoder_have_a_name_but_no_quality() -> None:
    found = file_traces(saved(qtables=[list(range(1, 65)), list(range(2, 66))]))
    assert found.jpeg_quality is None
    assert found.jpeg_tables not in ("", file_traces(saved()).jpeg_tables)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_subsampling_is_that_of_the_file(subsampling: str) -> None:
    assert file_traces(saved(subsampling=subsampling)).subsampling == subsampling


def test_a_grey_jpeg_has_no_subsampling() -> None:
    assert file_traces(saved(pixels=PIXELS[..., 0].copy())).subsampling == ""


def test_subsampling_without_a_name_is_listed() -> None:
    cmyk = Image.fromarray(PIXELS).convert("CMYK")
    file = io.BytesIO()
    cmyk.save(file, "JPEG")
    assert file_traces(file.getvalue()).subsampling == "1x1, 1x1, 1x1, 1x1"


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_exif_is_found(file_format: str) -> None:
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    assert file_traces(saved(file_format, exif=exif)).exif is True
    assert file_traces(saved(file_format)).exif is False


@pytest.mark.parametrize("data", [b"", b"not an image", saved()[:20]])
def test_the_traces_of_an_unreadable_file_are_unknown(data: bytes) -> None:
    assert file_traces(data) == FileTraces()


def test_columns_are_in_the_order_of_the_files() -> None:
    found = columns([file_traces(saved()), file_traces(saved("PNG"))])
    assert list(found) == list(FileTraces._fields)
    assert found["format"] == ("JPEG", "PNG")
    assert columns([]) == {}
