"""Colours: a profile is applied as its definition says, and colours that are not known to be sRGB are refused."""

import struct
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from skinlib.data import colour
from skinlib.data.images import SIDE, decode
from skinlib.errors import DataError
from tests.unit.data.scene import GREY, ROW, SCENE, encode, largest_difference

Floats = NDArray[np.float64]
WHITE = np.array([0.9642, 1.0, 0.8249])  # D50, the white of ICC profiles
# Linear colours to XYZ, adapted to D50: brucelindbloom.com/Eqn_RGB_XYZ_Matrix.html, and Apple's Display P3 profile.
SRGB = np.array(
    [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]]
)
P3 = np.array([[0.5151, 0.292, 0.1571], [0.2412, 0.6922, 0.0666], [-0.0011, 0.0419, 0.7841]])
ADOBE = np.array(
    [[0.6097559, 0.2052401, 0.1492240], [0.3111242, 0.6256560, 0.0632197], [0.0194811, 0.0608902, 0.7448387]]
)


def profile(space: str, tags: dict[str, bytes], pcs: str = "XYZ ", kind: str = "mntr") -> bytes:
    """Build an ICC profile, version 2.4 (https://www.color.org/icc32.pdf)."""
    body, table = b"", struct.pack(">I", len(tags))
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += struct.pack(">4sII", name.encode(), 132 + 12 * len(tags) + len(body), len(content))
        body += content
    kinds = b"\2\x40\0\0" + f"{kind}{space}{pcs}".encode()
    header = struct.pack(">I4x", 132 + 12 * len(tags) + len(body)) + kinds + bytes(12) + b"acsp" + bytes(28)
    header += xyz(WHITE)[8:]
    return header.ljust(128, b"\0") + table + body


def xyz(values: Floats) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(values * 65536).round().astype(int).tolist())


def gamma(exponent: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(exponent * 256))


def srgb_curve() -> bytes:
    levels = np.arange(1024) / 1023
    return b"curv\0\0\0\0" + struct.pack(">I1024H", 1024, *(linear(levels) * 65535).round().astype(int).tolist())


def rgb_profile(matrix: Floats, curve: bytes) -> bytes:
    columns = {f"{name}XYZ": xyz(matrix[:, i]) for i, name in enumerate("rgb")}
    return profile("RGB ", {"wtpt": xyz(WHITE), **columns, **{f"{name}TRC": curve for name in "rgb"}})


def grey_profile(exponent: float) -> bytes:
    return profile("GRAY", {"wtpt": xyz(WHITE), "kTRC": gamma(exponent)})


def cmyk_profile() -> bytes:
    """Black and full ink of any colour are black; a lookup table of two points per ink, to Lab."""
    straight = bytes(range(256))
    grid = np.full((2, 2, 2, 2, 3), [0, 128, 128], np.uint8)
    grid[0, 0, 0, 0] = [255, 128, 128]  # paper
    table = struct.pack(">BBBx9i", 4, 3, 2, *(np.eye(3) * 65536).astype(int).ravel().tolist())
    lookup = b"mft1\0\0\0\0" + table + straight * 4 + grid.tobytes() + straight * 3
    return profile("CMYK", {"wtpt": xyz(WHITE), "A2B0": lookup}, pcs="Lab ", kind="prtr")


def linear(value: Floats) -> Floats:
    """Undo the sRGB curve (IEC 61966-2-1)."""
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def encoded(value: Floats) -> NDArray[np.uint8]:
    """Apply the sRGB curve, to 8 bits."""
    value = value.clip(0, 1)
    curved = np.where(value <= 0.0031308, value * 12.92, 1.055 * value ** (1 / 2.4) - 0.055)
    return (curved * 255).round().astype(np.uint8)


def to_srgb(linear_colours: Floats, matrix: Floats) -> NDArray[np.uint8]:
    return encoded(linear_colours @ (np.linalg.inv(SRGB) @ matrix).T)


def grey_steps(lightness: Floats) -> NDArray[np.uint8]:
    """Return the sRGB pixels of a CIE lightness, 0 to 100."""
    y = np.where(lightness > 8, ((lightness + 16) / 116) ** 3, lightness / 903.3)
    return encoded(y)[..., None].repeat(3, -1)


RGB_FORMATS = ["PNG", "TIFF", "JPEG", "WEBP", "AVIF"]


def with_profile(pixels: Any, icc: bytes, format: str = "PNG") -> bytes:
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}, "AVIF": {"quality": 100}}
    return encode(pixels, format, icc_profile=icc, **options.get(format, {}))


@pytest.mark.parametrize("format", RGB_FORMATS)
def test_a_display_p3_photograph_becomes_srgb(format: str) -> None:
    pale = SCENE // 4 + 96  # without colours outside of sRGB, where small errors of a lossy format grow
    data = with_profile(pale, rgb_profile(P3, srgb_curve()), format)
    expected = to_srgb(linear(pale / 255), P3)
    lossy = 5 if format in ("JPEG", "AVIF") else 1
    assert largest_difference(decode(data), expected) <= lossy
    assert largest_difference(pale, expected) > 15


def test_adobe_rgb_becomes_srgb() -> None:
    data = with_profile(SCENE, rgb_profile(ADOBE, gamma(2.19921875)))
    assert largest_difference(decode(data), to_srgb((SCENE / 255) ** 2.19921875, ADOBE)) <= 2


def test_a_palette_has_the_profile_s_colours() -> None:
    palette = Image.fromarray(SCENE).quantize(32)
    data = with_profile(palette, rgb_profile(P3, srgb_curve()))
    assert largest_difference(decode(data), to_srgb(linear(np.asarray(palette.convert("RGB")) / 255), P3)) <= 2


def test_opaque_alpha_does_not_hide_a_profile() -> None:
    data = with_profile(np.dstack([SCENE, np.full_like(ROW, 255)]), rgb_profile(P3, srgb_curve()))
    assert largest_difference(decode(data), to_srgb(linear(SCENE / 255), P3)) <= 2


@pytest.mark.parametrize("format", ["PNG", "TIFF", "JPEG"])
def test_a_grey_profile_is_applied(format: str) -> None:
    expected = encoded((GREY / 255) ** 1.5)
    assert largest_difference(decode(with_profile(ROW, grey_profile(1.5), format)), expected) <= 2
    assert largest_difference(GREY, expected) > 20


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_a_grey_profile_is_applied_to_16_bits(format: str) -> None:
    data = with_profile(ROW.astype(np.uint16) * 257, grey_profile(1.5), format)
    assert largest_difference(decode(data), encoded((GREY / 255) ** 1.5)) <= 2


@pytest.mark.parametrize("pixels", [ROW, ROW.astype(np.uint16) * 257], ids=["8 bits", "16 bits"])
def test_an_rgb_profile_of_a_grey_image_applies_to_equal_channels(pixels: NDArray[Any]) -> None:
    data = with_profile(pixels, rgb_profile(SRGB, gamma(1.5)))
    assert largest_difference(decode(data), encoded((GREY / 255) ** 1.5)) <= 2


@pytest.mark.parametrize("format", ["TIFF", "JPEG"])
def test_a_cmyk_profile_is_applied(format: str) -> None:
    ink = np.zeros((SIDE, SIDE, 4), np.uint8)
    ink[..., 3] = ROW
    expected = grey_steps(100 - ROW / 2.55)
    data = with_profile(Image.fromarray(ink, "CMYK"), cmyk_profile(), format)
    assert largest_difference(decode(data), expected) <= 3
    assert largest_difference(255 - GREY, expected) > 5


def test_a_lab_image_becomes_srgb() -> None:
    lab = np.stack([ROW // 2 + 64, np.full_like(ROW, 20), np.full_like(ROW, 256 - 15)], axis=-1)  # a and b are signed
    data = encode(Image.fromarray(lab, "LAB"), "TIFF")
    f_y = (lab[..., 0] / 2.55 + 16) / 116
    f = np.stack([f_y + 20 / 500, f_y, f_y + 15 / 200], axis=-1)
    assert largest_difference(decode(data), encoded(f**3 * WHITE @ np.linalg.inv(SRGB).T)) <= 2


@pytest.mark.parametrize(
    "icc",
    [
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        rgb_profile(SRGB, srgb_curve()),
    ],
    ids=["of LittleCMS", "own"],
)
def test_an_srgb_profile_changes_no_pixel(icc: bytes) -> None:
    np.testing.assert_array_equal(decode(with_profile(SCENE, icc)), SCENE)


def test_an_image_without_profile_is_not_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(colour, "_transform", lambda *_, **__: pytest.fail("made a transform"))
    monkeypatch.setattr(colour, "_applied", lambda *_: pytest.fail("converted"))
    np.testing.assert_array_equal(decode(encode(SCENE)), SCENE)


@pytest.mark.parametrize(
    ("pixels", "icc"),
    [
        (SCENE, b"not a profile"),
        (SCENE, rgb_profile(P3, srgb_curve())[:200]),
        (SCENE, profile("RGB ", {"wtpt": xyz(WHITE)})),
        (SCENE, profile("HSV ", {"wtpt": xyz(WHITE)})),
        (SCENE, b""),
    ],
    ids=["text", "cut", "no matrix", "unknown space", "empty"],
)
def test_an_unusable_profile_is_a_reason_for_rejection(pixels: NDArray[Any], icc: bytes) -> None:
    with pytest.raises(DataError, match="its colour profile is damaged or of an unknown kind; export it as sRGB"):
        colour.to_srgb(Image.fromarray(pixels), icc)


def test_a_damaged_profile_in_a_file_is_a_reason_for_rejection() -> None:
    with pytest.raises(DataError, match="its colour profile is damaged"):
        decode(with_profile(SCENE, rgb_profile(P3, srgb_curve())[:200], "JPEG"))


def test_a_profile_for_other_pixels_is_a_reason_for_rejection() -> None:
    with pytest.raises(DataError, match="its colour profile is for GRAY pixels, but its pixels are RGB"):
        decode(with_profile(SCENE, grey_profile(2.2)))


def test_a_remark_in_exif_without_a_profile_changes_nothing() -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769).update({0xA001: 2})  # Adobe RGB; images of the public set keep it after conversion
    np.testing.assert_array_equal(decode(encode(SCENE, "PNG", exif=exif)), SCENE)


def test_images_with_the_same_profile_share_a_transform() -> None:
    colour._transform.cache_clear()
    for pixels in (SCENE, GREY):
        decode(with_profile(pixels, rgb_profile(P3, srgb_curve())))
    assert colour._transform.cache_info().misses == 1
