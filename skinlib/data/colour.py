"""Converts decoded images to 8-bit sRGB, the colours that a viewer shows."""

import io
import struct
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from skinlib.errors import DataError

_SRGB = ImageCms.createProfile("sRGB")
_LAB = ImageCms.createProfile("LAB")
_INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC
_REMEDY = "export it as sRGB"
_EIGHT_BITS = [(level + 128) // 257 for level in range(65536)]
_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # colour spaces of ICC profiles, and Pillow's modes for them

# Code points of ITU-T H.273 that viewers show as sRGB: sRGB, unspecified, and those of standard video.
_PRIMARIES, _TRANSFERS = (1, 2, 5, 6), (1, 2, 6, 13, 14, 15)
_SRGB_CHROMATICITY = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)  # white, red, green, blue


def embedded_profile(image: Image.Image, data: bytes) -> bytes | None:
    """Return the ICC profile of an opened image; None means that its colours are sRGB.

    Raises:
        DataError: The file says without a profile that its colours are not sRGB.
    """
    if "icc_profile" in image.info:
        profile: object = image.info["icc_profile"]  # None if Pillow found it damaged
        return profile if isinstance(profile, bytes) else b""
    space = None
    if image.format in ("AVIF", "JPEG2000"):
        place = data.find(b"colr")
        if place > 0 and image.format == "JPEG2000" and data[place + 4] in (2, 3):  # a profile, which Pillow ignores
            (length,) = struct.unpack(">I", data[place - 4 : place])
            return data[place + 7 : place - 4 + length]
        space = _boxed_space(data[place : place + 12]) if place > 0 else None
    elif image.format == "PNG":
        space = _png_space(image.info, data)
    if space:
        raise DataError(f"its colours are {space}, but it has no colour profile; {_REMEDY}")
    return None


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert an opaque image to 8-bit sRGB.

    A profile is applied, relative colorimetric with black point compensation. If it changes no colour by more than 1 of
    255, as an sRGB profile, the pixels stay as they are. An RGB profile of a grey image applies to equal channels.
    Without a profile, RGB and grey are taken for sRGB, and CMYK is converted without colour management.

    Args:
        image: in a mode of 8 bits, LAB, or I;16.
        profile: from `embedded_profile`.

    Raises:
        DataError: The profile is damaged or belongs to another kind of pixels.
    """
    if image.mode == "LAB":  # colours of known meaning, which need no profile
        return _applied(ImageCms.buildTransform(_LAB, _SRGB, "LAB", "RGB", _INTENT), image)
    grey = image.mode in ("1", "L", "I;16")
    pixels = "GRAY" if grey else "CMYK" if image.mode == "CMYK" else "RGB"
    mode, transform = "RGB", None
    if profile is not None:
        space, mode, transform = _transform(profile, deep=image.mode == "I;16")
        if space != pixels and (space, pixels) != ("RGB", "GRAY"):
            raise DataError(f"its colour profile is for {space} pixels, but its pixels are {pixels}; {_REMEDY}")
    if image.mode == "I;16" and not (transform and mode == "I;16"):  # `convert` would clip at 255
        image = image.convert("I").point(_EIGHT_BITS, "L")
    if not transform:
        mode = "RGB"
    if image.mode != mode:  # otherwise `convert` would copy it
        image = image.convert(mode)
    return _applied(transform, image) if transform else image


@lru_cache(maxsize=32)  # the images of a data set share a few profiles
def _transform(profile: bytes, deep: bool) -> tuple[str, str, ImageCms.ImageCmsTransform | None]:
    """Return a profile's colour space, the mode that its transform takes, and the transform, None if not needed."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        mode = "I;16" if deep and space == "GRAY" else _MODES[space]
        flags = ImageCms.Flags.BLACKPOINTCOMPENSATION
        if space == "GRAY":  # otherwise, LittleCMS approximates the curve by so few points that shadows are 10 off
            flags |= ImageCms.Flags.NOOPTIMIZE
        transform = ImageCms.buildTransform(source, _SRGB, mode, "RGB", _INTENT, flags)
    except (OSError, ValueError, KeyError, ImageCms.PyCMSError) as error:
        raise DataError(f"its colour profile is damaged or of an unknown kind; {_REMEDY}") from error
    if space == "CMYK":
        return space, mode, transform
    levels = np.arange(0, 256, 15, dtype=np.uint8)
    if space == "RGB":
        colours = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
        probe = Image.fromarray(colours)
    else:
        colours = np.arange(256, dtype=np.uint8)[None, :, None]
        probe = Image.fromarray(colours[..., 0] * np.uint16(257) if deep else colours[..., 0])
    change = np.abs(np.asarray(_applied(transform, probe)).astype(int) - colours).max()
    return space, mode, transform if change > 1 else None


def _applied(transform: ImageCms.ImageCmsTransform, image: Image.Image) -> Image.Image:
    if image.mode in ("L", "I;16"):  # each level once: without optimisation, LittleCMS takes 0.1 us per pixel
        deep = image.mode == "I;16"
        levels = Image.fromarray(np.arange(65536 if deep else 256, dtype=np.uint16 if deep else np.uint8)[None])
        source = image.convert("I") if deep else image
        return Image.merge("RGB", [source.point(list(band.tobytes()), "L") for band in transform.apply(levels).split()])
    out: Image.Image = transform.apply(image)
    return out


def _boxed_space(box: bytes) -> str | None:
    """Name the colour space in the first 12 bytes of a `colr` box of AVIF or JPEG 2000, if it is not sRGB."""
    if box[4:8] == b"nclx":
        return _coded_space(*struct.unpack(">HH", box[8:12]))
    number = int.from_bytes(box[7:11], "big")
    if box[4] == 1 and number not in (0, 12, 15, 16, 17, 18):  # black and white, CMYK, sRGB, grey and its YCbCr
        return f"space {number} of JPEG 2000"
    return None


def _png_space(info: dict[str | tuple[int, int], Any], data: bytes) -> str | None:
    """Name the colour space in the chunks of a PNG file, if it is not sRGB; cICP precedes sRGB, gAMA and cHRM."""
    place = data.find(b"\0\0\0\4cICP", 0, data.find(b"IDAT"))
    if place > 0:
        return _coded_space(data[place + 8], data[place + 9])
    if "srgb" in info:
        return None
    if "gamma" in info and abs(info["gamma"] * 2.2 - 1) > 0.05:  # the tolerance of libpng
        return f"of gamma {info['gamma']:g} by its gAMA chunk"
    chromaticity = info.get("chromaticity", _SRGB_CHROMATICITY)
    if max(abs(a - b) for a, b in zip(chromaticity, _SRGB_CHROMATICITY, strict=True)) > 0.01:
        return "not sRGB by its cHRM chunk"
    return None


def _coded_space(primaries: int, transfer: int) -> str | None:
    if primaries in _PRIMARIES and transfer in _TRANSFERS:
        return None
    return f"code points {primaries} and {transfer} of H.273"
