"""Images: in every format, the pixels are those that a viewer shows; incomplete files are refused."""

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from skinlib.data import images
from skinlib.data.images import SIDE, decode, fit
from skinlib.errors import DataError
from tests.unit.data.scene import GREY, ROW, SCENE, encode, largest_difference


def png16_rgb(pixels: NDArray[np.uint16]) -> bytes:
    """Encode 16-bit RGB, which Pillow reads but does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_files_keep_every_pixel(format: str) -> None:
    np.testing.assert_array_equal(decode(encode(SCENE, format)), SCENE)


@pytest.mark.parametrize("format", ["JPEG", "WEBP"])
def test_lossy_files_stay_close(format: str) -> None:
    assert largest_difference(decode(encode(SCENE, format, quality=95)), SCENE) <= 10


def test_grey_becomes_three_equal_channels() -> None:
    np.testing.assert_array_equal(decode(encode(ROW)), GREY)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_clipped(format: str) -> None:
    np.testing.assert_array_equal(decode(encode(ROW.astype(np.uint16) * 257, format)), GREY)


def test_16_bit_colour_is_scaled_not_clipped() -> None:
    np.testing.assert_array_equal(decode(png16_rgb(SCENE.astype(np.uint16) * 257)), SCENE)


def test_black_and_white_becomes_0_and_255() -> None:
    mask = ROW > 100
    np.testing.assert_array_equal(decode(encode(mask)), np.where(mask[..., None], 255, 0).repeat(3, -1))


@pytest.mark.parametrize("format", ["PNG", "GIF"])
def test_palette_indices_become_their_colours(format: str) -> None:
    palette = Image.fromarray(ROW % 4, "P")
    colours = np.array([[200, 0, 0], [0, 150, 0], [0, 0, 100], [9, 99, 199]], np.uint8)
    palette.putpalette(colours.tobytes())
    np.testing.assert_array_equal(decode(encode(palette, format)), colours[ROW % 4])


def test_a_transparent_palette_colour_without_pixels_does_no_harm() -> None:
    palette = Image.fromarray(SCENE).quantize(16)
    data = encode(palette, transparency=200)
    np.testing.assert_array_equal(decode(data), np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_cmyk_is_not_inverted(format: str) -> None:
    data = encode(Image.fromarray(SCENE).convert("CMYK"), format, quality=95)
    assert largest_difference(decode(data), SCENE) <= 10


def test_cmyk_with_black_ink_is_dark() -> None:
    ink = np.zeros((SIDE, SIDE, 4), np.uint8)
    ink[..., 3] = 200
    data = encode(Image.fromarray(ink, "CMYK"), "JPEG")
    assert largest_difference(decode(data), np.full_like(SCENE, 55)) <= 3


def test_opaque_alpha_is_dropped() -> None:
    np.testing.assert_array_equal(decode(encode(np.dstack([SCENE, np.full_like(ROW, 255)]))), SCENE)


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, SCENE),
        (2, SCENE[:, ::-1]),
        (3, SCENE[::-1, ::-1]),
        (4, SCENE[::-1]),
        (5, SCENE.transpose(1, 0, 2)),
        (6, np.rot90(SCENE, -1)),
        (7, SCENE[::-1, ::-1].transpose(1, 0, 2)),
        (8, np.rot90(SCENE)),
    ],
)
def test_exif_orientation_is_applied(orientation: int, upright: NDArray[np.uint8]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(decode(encode(SCENE, exif=exif)), upright)


def test_exif_that_pillow_cannot_write_does_not_prevent_the_rotation() -> None:
    orientation, resolution_as_text = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0), struct.pack("<HHI4s", 282, 2, 2, b"9")
    exif = b"Exif\0\0II*\0\x08\0\0\0\2\0" + orientation + resolution_as_text + bytes(4)
    np.testing.assert_array_equal(decode(encode(SCENE, exif=exif)), np.rot90(SCENE, -1))


def test_a_phone_photo_with_a_preview_is_read() -> None:
    preview = Image.fromarray(GREY)
    data = encode(SCENE, "MPO", save_all=True, append_images=[preview], quality=95)
    assert largest_difference(decode(data), SCENE) <= 10


def test_fit_keeps_an_image_of_the_right_size() -> None:
    np.testing.assert_array_equal(fit(SCENE), SCENE)


@pytest.mark.parametrize("shape", [(SIDE, SIDE + 101), (SIDE + 100, SIDE)])
def test_fit_only_crops_if_the_short_side_has_the_right_length(shape: tuple[int, int]) -> None:
    top, left = (shape[0] - SIDE) // 2, (shape[1] - SIDE) // 2
    wide = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    np.testing.assert_array_equal(fit(wide), wide[top : top + SIDE, left : left + SIDE])


def test_fit_averages_fine_detail_instead_of_sampling_it() -> None:
    stripes = np.zeros((4 * SIDE, 4 * SIDE, 3), np.uint8)
    stripes[:, ::2] = 200
    assert largest_difference(fit(stripes)[8:-8, 8:-8], np.full((SIDE - 16, SIDE - 16, 3), 100)) <= 2


def test_fit_keeps_the_scene_at_another_scale() -> None:
    small = np.asarray(Image.fromarray(SCENE).resize((150, 150), Image.Resampling.BICUBIC))
    assert largest_difference(fit(small), SCENE) <= 4


def test_decode_gives_the_same_for_any_frame_around_the_square() -> None:
    framed = np.pad(SCENE, ((0, 0), (40, 40), (0, 0)), mode="edge")
    np.testing.assert_array_equal(decode(encode(framed)), SCENE)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"name,label\n1,benign\n" * 50, "it is not an image"),
        (encode(SCENE[:31]), "it is too small: 224x31 pixels, at least 32 per side are needed"),
        (encode(np.dstack([SCENE, ROW])), "it has translucent pixels"),
        (encode(Image.fromarray(SCENE).quantize(16), transparency=3), "it has translucent pixels"),
        (encode(SCENE, "GIF", save_all=True, append_images=[Image.fromarray(GREY)]), "it has several frames"),
        (encode(SCENE, save_all=True, append_images=[Image.fromarray(GREY)]), "it has several frames"),
        (
            encode(SCENE, "TIFF", save_all=True, append_images=[Image.fromarray(GREY)]),
            "it has several frames",
        ),
        (encode(ROW.astype(np.float32), "TIFF"), "the range of its signed or 32-bit pixels is unknown"),
        (encode(ROW.astype(np.int32), "TIFF"), "the range of its signed or 32-bit pixels is unknown"),
    ],
)
def test_what_cannot_be_decoded_correctly_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=f"^{reason}$"):
        decode(data)


@pytest.mark.parametrize("lost", [1, 2, 8, 100, 1000, 2000])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_truncated_jpeg_is_refused(lost: int, progressive: bool) -> None:
    data = encode(SCENE, "JPEG", progressive=progressive)
    with pytest.raises(DataError, match="it is damaged or truncated"):
        decode(data[:-lost])


def test_a_decompression_bomb_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(SCENE)
    monkeypatch.setattr(images, "MAX_PIXELS", SIDE * SIDE - 1)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("was decoded"))
    with pytest.raises(DataError, match="it is too big: 224x224 pixels"):
        decode(data)


@pytest.mark.parametrize(
    "data",
    [encode(SCENE, "WEBP"), encode(SCENE, "JPEG2000"), b"P5 224 224 99\n" + bytes(SIDE * SIDE)],
    ids=["WebP", "JPEG 2000", "PPM of 99 levels"],
)
def test_formats_that_take_more_memory_or_time_have_a_lower_limit(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    assert decode(data).shape == (SIDE, SIDE, 3)
    monkeypatch.setattr(images, "MAX_PIXELS", SIDE * SIDE)
    assert decode(encode(SCENE)).shape == (SIDE, SIDE, 3)
    with pytest.raises(DataError, match="it is too big: 224x224 pixels"):
        decode(data)


def test_a_damaged_file_has_a_reason_even_if_pillow_gives_none() -> None:
    data = encode(Image.fromarray(SCENE).quantize(16))
    place = data.index(b"PLTE") - 4
    length = 12 + int.from_bytes(data[place : place + 4], "big")
    with pytest.raises(DataError, match=r"^it is damaged or truncated \(\w+\)$"):
        decode(data[:place] + data[place + length :])


def test_the_reason_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(file: object) -> None:
        raise ValueError("x" * 1000)

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(DataError, match=r"^it is damaged or truncated") as refused:
        decode(encode(SCENE))
    assert len(str(refused.value)) < 250


_FILES = [encode(SCENE[:48, :48], format) for format in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP")]


@pytest.mark.filterwarnings("ignore::UserWarning")  # from Pillow, about damaged tags
@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.sampled_from(_FILES), st.integers(0), st.binary(min_size=1, max_size=8), st.integers(0))
def test_damaged_bytes_give_an_image_or_a_reason(data: bytes, place: int, damage: bytes, end: int) -> None:
    place %= len(data)
    damaged = data[:place] + damage + data[place + len(damage) :]
    try:
        image = decode(damaged[: len(damaged) - end % len(damaged)])
    except DataError:
        return
    assert image.shape == (SIDE, SIDE, 3)
    assert image.dtype == np.uint8
