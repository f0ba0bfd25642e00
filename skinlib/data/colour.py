"""Converts decoded images to 8-bit sRGB, the colours that a viewer shows."""

import io
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from skinlib.errors import DataError

_SRGB = ImageCms.createProfile("sRGB")
_LAB = ImageCms.createProfile("LAB")
_INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC
_REMEDY = "export it as sRGB"
_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # colour spaces of ICC profiles, and Pillow's modes for them


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert an opaque image to 8-bit sRGB.

    A profile is applied, relative colorimetric with black point compensation. If it changes no colour by more than 1 of
    255, as an sRGB profile, the pixels stay as they are. An RGB profile of a grey image applies to equal channels.
    Without a profile, RGB and grey are taken for sRGB, and CMYK is converted without colour management.

    Args:
        image: in a mode of 8 bits, or LAB.
        profile: its ICC profile; None if it has none, which is then taken for sRGB.

    Raises:
        DataError: The profile is damaged or belongs to another kind of pixels.
    """
    if image.mode == "LAB":  # colours of known meaning, which need no profile
        return _applied(ImageCms.buildTransform(_LAB, _SRGB, "LAB", "RGB", _INTENT), image)
    if profile is None:
        return image.convert("RGB")
    pixels = {"1": "GRAY", "L": "GRAY", "CMYK": "CMYK"}.get(image.mode, "RGB")
    space, transform = _transform(profile)
    if space != pixels and (space, pixels) != ("RGB", "GRAY"):
        raise DataError(f"its colour profile is for {space} pixels, but its pixels are {pixels}; {_REMEDY}")
    return _applied(transform, image.convert(_MODES[space])) if transform else image.convert("RGB")


@lru_cache(maxsize=32)  # the images of a data set share a few profiles
def _transform(profile: bytes) -> tuple[str, ImageCms.ImageCmsTransform | None]:
    """Return a profile's colour space and its transform to sRGB, None if that changes nothing."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        flags = ImageCms.Flags.BLACKPOINTCOMPENSATION
        if space == "GRAY":  # otherwise, LittleCMS approximates the curve by so few points that shadows are 10 off
            flags |= ImageCms.Flags.NOOPTIMIZE
        transform = ImageCms.buildTransform(source, _SRGB, _MODES[space], "RGB", _INTENT, flags)
    except (OSError, ValueError, KeyError, ImageCms.PyCMSError) as error:
        raise DataError(f"its colour profile is damaged or of an unknown kind; {_REMEDY}") from error
    if space == "CMYK":
        return space, transform
    levels: NDArray[np.uint8] = np.arange(0, 256, 15 if space == "RGB" else 1, dtype=np.uint8)
    if space == "RGB":
        colours = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    else:
        colours = levels[None]
    changed = np.asarray(_applied(transform, Image.fromarray(colours))).astype(int)
    change = changed - (colours if space == "RGB" else colours[..., None])
    return space, transform if np.abs(change).max() > 1 else None


def _applied(transform: ImageCms.ImageCmsTransform, image: Image.Image) -> Image.Image:
    out: Image.Image = transform.apply(image)
    return out
