"""Says what a file is that cannot be read as an image, and what to do with it."""

import re

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from skinlib.errors import DataError

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
_RAW = "a camera raw file; export it as JPEG, for example with darktable-cli"

# A regular expression for the first bytes, what it is, and what to do. Brands of ISO media files follow their length.
_OTHER_FORMATS = [
    (
        rb"version https://git-lfs|.{0,200}/annex/objects/|(wdir|outs):\s.*md5: |md5: .*outs:\s",
        "a pointer of Git LFS, git-annex or DVC without the image; fetch it, for example with git lfs pull",
    ),
    (
        rb"....ftyp(?!.{0,80}avi[fs])(hei|hev|mif1|msf1)",
        "a HEIC photograph; convert it to JPEG, for example with heif-convert",
    ),
    (rb"....ftypcrx |.{8}CR\x02", _RAW),  # Pillow would read the preview
    (rb".{128}DICM", "a DICOM file; export its picture as PNG, for example with dcm2img"),
]
_PATTERNS = [(re.compile(pattern, re.DOTALL), words) for pattern, words in _OTHER_FORMATS]


def refuse_other_formats(data: bytes) -> None:
    """Raise DataError, with the format and a remedy, for what cannot be read or would be read as another image."""
    if data.startswith(b"\xff\xd8\xff"):  # JPEG, the usual case
        return
    for pattern, words in _PATTERNS:
        if pattern.match(data[:1024]):
            raise DataError(f"it is {words}")


def check_format(image: Image.Image, data: bytes) -> None:
    """Raise DataError for an opened image that Pillow would decode differently from an image viewer."""
    if image.format not in FORMATS:
        raise DataError(f"its format is {image.format_description or image.format}; convert it to JPEG or PNG")
    if isinstance(image, TiffImageFile):
        _check_tiff(image)
    # Pillow compares the transparent colour with pixels that it has already scaled to 8 bits.
    if image.format == "PNG" and data[24] in (2, 4, 16) and image.mode != "P" and "transparency" in image.info:
        raise DataError("it has translucent pixels")


def _check_tiff(image: TiffImageFile) -> None:
    """Raise DataError for the kinds of TIFF that Pillow 13 reads wrongly."""
    tags = image.tag_v2
    photometric, depth = tags.get(262, 0), max(_as_tuple(tags.get(258, 1)))
    if 50706 in tags or tags.get(254, 0) & 1:  # DNGVersion; a first page of reduced resolution
        raise DataError(f"it is {_RAW}")
    if (
        (tags.get(284, 1) == 2 and (depth > 8 or photometric in (0, 8)))  # separate planes
        or (depth == 8 and 2 in _as_tuple(tags.get(339, 1)))  # signed pixels
        or (photometric == 5 and tags.get(332, 1) != 1)  # inks other than CMYK
        # Uncompressed subsampled colours; a palette of 8-bit colours.
        or (photometric == 6 and tags.get(259, 1) == 1 and _as_tuple(tags.get(530, (1, 1))) != (1, 1))
        or (photometric == 3 and max(tags.get(320, (256,))) < 256)
    ):
        raise DataError("it is a TIFF file of an unsupported kind; save it again as an 8-bit JPEG or PNG")


def _as_tuple(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)
