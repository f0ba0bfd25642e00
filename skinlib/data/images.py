"""Files to pixels: the one way in which training, evaluation and the served model read an image."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from skinlib.errors import DataError

SIDE = 224
MIN_SIDE = 32  # less holds no lesion that a doctor could judge either
MAX_PIXELS = 100_000_000  # 300 MB decoded
SETTINGS = f"{SIDE}-bilinear-1"  # names what decode does in cache keys: raise the last number when pixels change


def fit(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Scale and crop an image to the network's square.

    The largest centred square is cut out and resized with antialiasing, which amounts to resizing the short
    side and cropping the centre. An image of 224x224 comes back unchanged.

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
        return np.ascontiguousarray(square)  # no view that keeps a big image in memory
    return np.asarray(Image.fromarray(square).resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def decode(data: bytes) -> NDArray[np.uint8]:
    """Read an image file, whatever its name, as a viewer would show it, and `fit` it.

    Grey, 16-bit, palette and CMYK images become 8-bit RGB, and EXIF rotation is applied.

    Args:
        data: A file in a format that Pillow knows, such as JPEG, PNG, BMP, TIFF or WebP.

    Returns:
        uint8 (224, 224, 3), RGB.

    Raises:
        DataError: With the bare reason, where the file is empty, cut short, damaged or no image, has several
            frames or translucent pixels, is too small or too big, or has pixels of unknown range.
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
    except Exception as error:  # Pillow's decoders raise almost anything on damaged bytes
        raise DataError(f"it is damaged or cut short ({error})") from error


def _check(image: Image.Image) -> None:
    """Refuse by the header alone, before any pixel is decoded."""
    width, height = image.size
    if min(width, height) < MIN_SIDE:
        raise DataError(f"it is too small: {width}x{height} pixels, at least {MIN_SIDE} a side are needed")
    if width * height > MAX_PIXELS:
        raise DataError(f"it is too big: {width}x{height} pixels, at most {MAX_PIXELS // 10**6} million are read")
    # Phones save MPO: an ordinary JPEG first, with a preview or a depth map behind it.
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        raise DataError("it has several frames")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # convert would clip at 255
        image = Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise DataError("the range of its 32-bit pixels is unknown")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            raise DataError("it has translucent pixels")
    return image.convert("RGB")
