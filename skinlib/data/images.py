"""Decodes image files, in the same way for training, evaluation and the served model."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from skinlib.data.colour import embedded_profile, to_srgb
from skinlib.data.formats import check_format, refuse_other_formats, unidentified
from skinlib.errors import DataError

SIDE = 224
MIN_SIDE = 32  # below this, even a doctor could not judge a lesion
MAX_PIXELS = 80_000_000  # so that decoding takes at most 1 GB: up to 12 bytes per pixel
_HUNGRY_FORMATS = ("JPEG2000", "WEBP")  # their decoders take up to 25 bytes per pixel
_SLOW_DECODERS = ("bmp_rle", "ppm", "ppm_plain")  # of Pillow, in Python: up to 1.3 us per pixel
_MAX_SCANNED = 40 * 10**9  # pixels times scans of a JPEG file: 2.5 s
# How to turn an image upright, by its EXIF orientation. `ImageOps.exif_transpose` also rewrites all EXIF tags, and
# fails if it cannot write one of them.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SETTINGS = f"{SIDE}-bilinear-2"  # part of cache keys: increase the last number when `decode` returns other pixels


def fit(image: NDArray[np.uint8] | Image.Image) -> NDArray[np.uint8]:
    """Crop the largest centred square of an image and resize it, with antialiasing.

    An image of 224x224 pixels is returned unchanged.

    Args:
        image: uint8 (H, W, 3), RGB, or a Pillow image in mode RGB, which saves the memory of an array.

    Returns:
        uint8 (224, 224, 3), RGB.
    """
    square = image if isinstance(image, Image.Image) else Image.fromarray(image)
    width, height = square.size
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    if width != height:
        square = square.crop((left, top, left + side, top + side))
    if side != SIDE:
        square = square.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return np.asarray(square)


def decode(data: bytes) -> NDArray[np.uint8]:
    """Decode an image file to the pixels that an image viewer shows, and `fit` it.

    Grey, 16-bit, palette, CMYK and Lab images become 8-bit sRGB, by their colour profile if they have one, and EXIF
    rotation is applied.

    Args:
        data: A file in one of `FORMATS`.

    Returns:
        uint8 (224, 224, 3), sRGB.

    Raises:
        DataError: The file is empty, truncated, damaged or not an image, is of an unsupported kind, has several frames
            or translucent pixels, is too small or too big, or has pixels of unknown range or colour. The message is the
            reason only, without the file.
    """
    if not data:
        raise DataError("the file is empty")
    refuse_other_formats(data)
    try:
        # Without `with`, which would keep the opened image in memory while its colours are converted.
        image: Image.Image = Image.open(io.BytesIO(data))
        _check(image, data)
        check_format(image, data)
        profile = embedded_profile(image, data)
        image.load()
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
        image = _opaque(image)
        if turn is not None:
            image = image.transpose(turn)
        return fit(to_srgb(image, profile))
    except UnidentifiedImageError:
        raise unidentified(data) from None
    except Image.DecompressionBombError:
        raise DataError(f"it is too big: at most {MAX_PIXELS // 10**6} million pixels are allowed") from None
    except (DataError, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise many types on damaged bytes
        raise DataError(f"it is damaged or truncated ({(str(error) or type(error).__name__)[:200]})") from error


def _check(image: Image.Image, data: bytes) -> None:
    """Raise DataError for what the header shows, before any pixel is decoded."""
    width, height = image.size
    if min(width, height) < MIN_SIDE:
        raise DataError(f"it is too small: {width}x{height} pixels, at least {MIN_SIDE} per side are needed")
    limit = MAX_PIXELS
    if image.format in _HUNGRY_FORMATS:
        limit //= 2
    if any(tile[0] in _SLOW_DECODERS for tile in getattr(image, "tile", ())):
        limit //= 40
    if width * height > limit:
        raise DataError(f"it is too big: {width}x{height} pixels, at most {limit // 10**6} million are allowed")
    # Phones save MPO: an ordinary JPEG followed by a preview or a depth map.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise DataError("it has several frames")
    if image.format in ("JPEG", "MPO") and data.count(b"\xff\xda") * width * height > _MAX_SCANNED:
        raise DataError("it has too many scans; save it again as an ordinary JPEG")


def _opaque(image: Image.Image) -> Image.Image:
    """Remove an alpha channel, or raise DataError if pixels are translucent or of unknown range."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        tiff_tags = getattr(image, "tag_v2", {})
        deep = image.convert("I").convert("I;16")
        # Pillow does not scale 12-bit pixels, and does not invert grey images in which zero is white.
        twelve_bits, white_is_zero = tiff_tags.get(258) in (12, (12,)), tiff_tags.get(262) == 0
        if not (twelve_bits or white_is_zero):
            return deep
        pixels = np.asarray(deep)
        if twelve_bits:
            pixels = pixels * 16 + pixels // 273  # 65535 / 4095 is 16 + 1 / 273
        return Image.fromarray(~pixels if white_is_zero else pixels)
    if image.mode in ("I", "F"):
        raise DataError("the range of its signed or 32-bit pixels is unknown")
    if image.has_transparency_data:
        if image.mode not in ("LA", "RGBA"):
            image = image.convert("LA" if image.mode == "La" else "RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            raise DataError("it has translucent pixels")
    if image.mode in ("RGB", "L", "CMYK", "LAB", "1"):
        return image
    return image.convert("L" if image.mode == "LA" else "RGB")
