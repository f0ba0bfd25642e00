"""Formats: every kind of TIFF is read as its tags say or refused, and what is not an image is named."""

import struct
import zlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from skinlib.data.images import SIDE, decode
from skinlib.errors import DataError
from tests.unit.data.scene import GREY, ROW, SCENE, encode, largest_difference

WIDE = ROW.astype(np.uint16) * 257
INVERTED = 255 - GREY


def tiff(rows: bytes, photometric: int, bits: list[int], order: str = "<", **more: list[int]) -> bytes:
    """Build an uncompressed TIFF of 224x224 pixels (TIFF 6.0), so that the test does not depend on Pillow's writer."""
    names = {"subfile": 254, "orientation": 274, "planar": 284, "palette": 320, "inks": 332, "extra": 338}
    names |= {"tile_width": 322, "tile_length": 323, "signed": 339, "subsampling": 530, "fill_order": 266, "dng": 50706}
    planes = len(bits) if more.get("planar") == [2] else 1
    size = len(rows) // planes
    tags = {256: [SIDE], 257: [SIDE], 258: bits, 259: [1], 262: [photometric], 277: [len(bits)], 278: [SIDE]}
    tags |= {names[name]: values for name, values in more.items()}
    entries, after = b"", b""
    start = 8 + 2 + 12 * (len(tags) + 2) + 4
    strips = start + sum(2 * len(values) for values in tags.values() if len(values) > 2) + 8 * planes
    longs = {273: [strips + size * i for i in range(planes)], 279: [size] * planes}
    for tag, values in sorted((tags | longs).items()):
        kind, letter = (4, "I") if tag in longs else (3, "H")
        content = struct.pack(f"{order}{len(values)}{letter}", *values)
        if len(content) > 4:
            after, content = after + content, struct.pack(f"{order}I", start + len(after))
        entries += struct.pack(f"{order}HHI", tag, kind, len(values)) + content.ljust(4, b"\0")
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HIH", 42, 8, len(tags) + 2)
    return (head + entries + bytes(4) + after).ljust(strips, b"\0") + rows


def raw(pixels: NDArray[Any], order: str = "<") -> bytes:
    return pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()


def packed(levels: NDArray[np.uint8], bits: int) -> bytes:
    """Pack small numbers into bytes, most significant bit first."""
    single = np.unpackbits(levels[..., None], axis=-1)[..., 8 - bits :]
    return np.packbits(single.reshape(SIDE, -1), axis=-1).tobytes()


@pytest.mark.parametrize("order", ["<", ">"], ids=["little", "big"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("photometric", [0, 1], ids=["white is zero", "black is zero"])
def test_grey_of_every_depth(bits: int, order: str, photometric: int) -> None:
    levels = ROW >> (8 - bits)
    expected = (levels * (255 // (2**bits - 1)))[..., None].repeat(3, -1)
    data = tiff(packed(levels, bits), photometric, [bits], order)
    np.testing.assert_array_equal(decode(data), expected if photometric else 255 - expected)


def test_16_bit_grey_whose_zero_is_white() -> None:
    np.testing.assert_array_equal(decode(tiff(raw(WIDE), 0, [16])), INVERTED)


@pytest.mark.parametrize("order", ["<", ">"], ids=["little", "big"])
def test_16_bit_grey_of_both_byte_orders(order: str) -> None:
    np.testing.assert_array_equal(decode(tiff(raw(WIDE, order), 1, [16], order)), GREY)


def test_12_bit_grey_is_scaled() -> None:
    levels = ROW.astype(np.uint16) * 16 + ROW // 16
    first, second = levels[:, ::2], levels[:, 1::2]
    rows = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=-1).astype(np.uint8)
    np.testing.assert_array_equal(decode(tiff(rows.tobytes(), 1, [12])), GREY)


@pytest.mark.parametrize("order", ["<", ">"], ids=["little", "big"])
def test_16_bit_rgb_of_both_byte_orders(order: str) -> None:
    np.testing.assert_array_equal(decode(tiff(raw(SCENE.astype(np.uint16) * 257, order), 2, [16] * 3, order)), SCENE)


def test_planes_that_are_stored_separately() -> None:
    rows = np.ascontiguousarray(SCENE.transpose(2, 0, 1)).tobytes()
    np.testing.assert_array_equal(decode(tiff(rows, 2, [8] * 3, planar=[2])), SCENE)


@pytest.mark.parametrize("extra", [0, 1, 2], ids=["unspecified", "associated alpha", "alpha"])
def test_an_opaque_fourth_channel_is_dropped(extra: int) -> None:
    rows = np.dstack([SCENE, np.full_like(ROW, 255)]).tobytes()
    np.testing.assert_array_equal(decode(tiff(rows, 2, [8] * 4, extra=[extra])), SCENE)


@pytest.mark.parametrize("extra", [1, 2], ids=["associated alpha", "alpha"])
@pytest.mark.parametrize("depth", [8, 16])
def test_translucent_pixels_are_refused(extra: int, depth: int) -> None:
    rows = np.dstack([SCENE, np.full_like(ROW, 200)])
    data = tiff(raw(rows.astype(np.uint16) * 257) if depth == 16 else rows.tobytes(), 2, [depth] * 4, extra=[extra])
    with pytest.raises(DataError, match="it has translucent pixels"):
        decode(data)


def test_a_palette_of_16_bit_colours() -> None:
    palette = [index * 257 for index in range(256)]
    data = tiff(ROW.tobytes(), 3, [8], palette=palette + palette[::-1] + [0] * 256)
    np.testing.assert_array_equal(decode(data), np.stack([ROW, 255 - ROW, 0 * ROW], axis=-1))


def test_ycbcr_without_subsampling() -> None:
    rows = np.asarray(Image.fromarray(SCENE).convert("YCbCr")).tobytes()
    assert largest_difference(decode(tiff(rows, 6, [8] * 3, subsampling=[1, 1])), SCENE) <= 3


@pytest.mark.parametrize("order", ["<", ">"], ids=["little", "big"])
def test_16_bit_cmyk(order: str) -> None:
    ink = np.dstack([255 - SCENE, 0 * ROW]).astype(np.uint16) * 257
    assert largest_difference(decode(tiff(raw(ink, order), 5, [16] * 4, order)), SCENE) <= 1


@pytest.mark.parametrize("order", ["<", ">"], ids=["little", "big"])
@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_compression_keeps_16_bit_grey(compression: str, order: str) -> None:
    image = Image.fromarray(WIDE.astype(WIDE.dtype.newbyteorder(order)))
    np.testing.assert_array_equal(decode(encode(image, "TIFF", compression=compression)), GREY)


def test_the_orientation_of_a_tiff_is_applied() -> None:
    data = tiff(SCENE.tobytes(), 2, [8] * 3, orientation=[6])
    np.testing.assert_array_equal(decode(data), np.rot90(SCENE, -1))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (tiff(raw(WIDE), 1, [16], signed=[2]), "the range of its signed or 32-bit pixels is unknown"),
        (tiff(ROW.tobytes(), 1, [8], signed=[2]), "it is a TIFF file with signed pixels, which is not supported"),
        (
            tiff(raw(SCENE.transpose(2, 0, 1).astype(np.uint16)), 2, [16] * 3, planar=[2]),
            "it is a TIFF file with separate planes",
        ),
        (tiff(SCENE.tobytes(), 8, [8] * 3, planar=[2]), "it is a TIFF file with separate planes"),
        (tiff(bytes(SIDE * SIDE * 4), 5, [8] * 4, inks=[2]), "it is a TIFF file with inks other than CMYK"),
        (
            tiff(bytes(SIDE * SIDE * 3), 6, [8] * 3, subsampling=[2, 2]),
            "it is a TIFF file with uncompressed subsampled colours",
        ),
        (
            tiff(ROW.tobytes(), 3, [8], palette=[*range(256)] * 3),
            "it is a TIFF file with a palette of 8-bit colours",
        ),
        (
            tiff(SCENE.tobytes(), 2, [8] * 3, tile_width=[65535], tile_length=[2048]),
            "it is a TIFF file with huge tiles",
        ),
        (tiff(SCENE.tobytes(), 9, [8] * 3), "it is a TIFF file of an unsupported kind or with a damaged header"),
        (tiff(raw(WIDE), 32803, [16]), "it is a TIFF file of an unsupported kind or with a damaged header"),
        (tiff(raw(WIDE), 0, [16], ">"), "it is a TIFF file of an unsupported kind or with a damaged header"),
        (tiff(SCENE.tobytes(), 2, [8] * 3, dng=[1, 4]), "it is a camera raw file; export it as JPEG"),
        (tiff(SCENE.tobytes(), 2, [8] * 3, subfile=[1]), "it is a camera raw file; export it as JPEG"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_tiff_that_cannot_be_read_correctly_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        decode(data)


def test_a_transparent_level_of_16_bit_grey_is_refused() -> None:
    data = encode(WIDE)
    chunk = b"tRNS" + struct.pack(">H", 7 * 257)
    data = data[:33] + struct.pack(">I", 2) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:]
    with pytest.raises(DataError, match="it has translucent pixels"):
        decode(data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC photograph; convert it to JPEG, for example with heif-convert"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "a HEIC photograph"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0isommp42", "a video; save single frames as PNG, for example with ffmpeg"),
        (b"\0\0\0\x14ftypqt  \0\0\0\0qt  ", "a video"),
        (b"RIFF\x10\0\0\0AVI LIST", "a video"),
        (b"\x1aE\xdf\xa3\x01\0\0\0", "a video"),
        (bytes(128) + b"DICM\x02\0\0\0", "a DICOM file; export its picture as PNG, for example with dcm2img"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "a camera raw file"),
        (b"II*\0\x10\0\0\0CR\x02\0", "a camera raw file"),
        (b"FUJIFILMCCD-RAW 0201", "a camera raw file"),
        (b"\xff\x0a" + bytes(20), "a JPEG XL image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "a PostScript drawing; convert it to PNG"),
        (b"%PDF-1.7\n", "a PDF document; extract its pictures, for example with pdfimages"),
        (b"<?xml version='1.0'?>\n<!-- made by hand -->\n<svg xmlns='...'>", "an SVG drawing; convert it to PNG"),
        (b"<svg width='9'>", "an SVG drawing"),
        (b"\n<!DOCTYPE html><html><body>404", "a web page, perhaps an error message; download the image again"),
        (b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code>", "an error message of a server"),
        (b"PK\x03\x04" + bytes(60), "an archive; unpack it"),
        (b"\x1f\x8b\x08" + bytes(60), "an archive"),
        (bytes(257) + b"ustar\0" + bytes(60), "an archive"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n", "a Git LFS pointer .* lfs pull"),
        (b"/annex/objects/SHA256E-s4--9f86.jpg\n", "a git-annex pointer; fetch the image with git annex get"),
        (b"../../.git/annex/objects/Xx/Zz/SHA256E-s4--9f86.jpg/SHA256E-s4--9f86.jpg", "a git-annex pointer"),
        (b"outs:\n- md5: a304afb96060aad90176268345e10355\n  path: a.jpg\n", "a DVC pointer .* dvc pull"),
        (b"notes on the patients", "not an image"),
        (bytes(2000), "not an image"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_is_not_an_image_is_named(data: bytes, words: str) -> None:
    with pytest.raises(DataError, match=f"^it is {words}"):
        decode(data)


@pytest.mark.parametrize("format", ["ICO", "TGA", "PCX"])
def test_a_rare_format_is_named(format: str) -> None:
    with pytest.raises(DataError, match=r"^its format is .*; convert it to JPEG or PNG$"):
        decode(encode(SCENE, format))


def test_avif_is_read() -> None:
    assert largest_difference(decode(encode(SCENE, "AVIF", quality=95)), SCENE) <= 12


def test_avif_with_a_general_brand_is_read() -> None:
    data = encode(SCENE, "AVIF", quality=95).replace(b"ftypavif", b"ftypmif1", 1)
    assert largest_difference(decode(data), SCENE) <= 12


def test_an_unsupported_jpeg_is_called_a_jpeg() -> None:
    with pytest.raises(DataError, match="it is a JPEG file of an unsupported kind or with a damaged header"):
        decode(b"\xff\xd8\xff\xff" + bytes(100))
