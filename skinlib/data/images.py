"""Decodes image files, in the same way for training, evaluation and the served model."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from skinlib.errors import DataError

SIDE = 224
MIN_SIDE = 32  # below this, even a doctor could not judge a lesion
MAX_PIXELS = 100_000_000  # 300 MB decoded
SETTINGS = f"{SIDE}-bilinear-1"  # part of cache keys: increase the last number when `decode` returns other pixels


def fit(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Crop the largest centred square of an image and resize it, with antialiasing.

    An image of 224x224 pixels is returned unchanged.

    Args:
        image: uint8 (H, W, 3), RGB.

    Returns:
        uint8 (224, 224, 3), RGB.
    """
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[top : top + side, left : left + side]
    if side == SIDE:
        return np.ascontiguousarray(square)  # a view would keep the whole image in memory
    return np.asarray(Image.fromarray(square).resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def decode(data: bytes) -> NDArray[np.uint8]:
    """Decode an image file to the pixels that an image viewer shows, and `fit` it.

    Grey, 16-bit, palette and CMYK images become 8-bit RGB, and EXIF rotation is applied.

    Args:
        data: A file in any format that Pillow reads, such as JPEG, PNG, BMP, TIFF or WebP.

    Returns:
        uint8 (224, 224, 3), RGB.

    Raises:
        DataError: The file is empty, truncated, damaged or not an image, has several frames or translucent pixels, is
            too small or too big, or has pixels of unknown range. The message is the reason only, without the file.
    """
    if not data:
        raise DataError("the file is empty")
    try:
        with Image.open(io.BytesIO(data)) as image:
            _check(image)
            image.load()
            return fit(np.asarray(_to_rgb(ImageOps.exif_transpose(image))))
    except UnidentifiedImageError:
        raise DataError("it is not an image") from None
    except (DataError, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise many types on damaged bytes
        raise DataError(f"it is damaged or truncated ({error})") from error


def _check(image: Image.Image) -> None:
    """Raise DataError for what the header shows, before any pixel is decoded."""
    width, height = image.size
    if min(width, height) < MIN_SIDE:
        raise DataError(f"it is too small: {width}x{height} pixels, at least {MIN_SIDE} per side are needed")
    if width * height > MAX_PIXELS:
        raise DataError(f"it is too big: {width}x{height} pixels, at most {MAX_PIXELS // 10**6} million are allowed")
    # Phones save MPO: an ordinary JPEG followed by a preview or a depth map.
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        raise DataError("it has several frames")


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image to 8-bit RGB, or raise DataError if that would lose what it shows."""
    if image.mode.startswith("I;16"):  # `convert` would clip at 255
        image = Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise DataError("the range of its 32-bit pixels is unknown")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            raise DataError("it has translucent pixels")
    return image.convert("RGB")
