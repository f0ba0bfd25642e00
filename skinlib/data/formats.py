"""Says what a file is that cannot be read as an image, and what to do with it."""

import re

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from skinlib.errors import DataError

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
_RAW = "a camera raw file; export it as JPEG, for example with darktable-cli"
_VIDEO = "a video; save single frames as PNG, for example with ffmpeg"
_SAVE_AGAIN = "save it again as an 8-bit JPEG or PNG"
_ARCHIVE = "an archive; unpack it"

# A regular expression for the first bytes, what it is, and what to do. Brands of ISO media files follow their length.
_OTHER_FORMATS = [
    (rb"version https://git-lfs", "a Git LFS pointer without the image; fetch the image with git lfs pull"),
    (
        rb"(\.git)?/annex/objects/|.{0,200}\.git/annex/objects/",
        "a git-annex pointer; fetch the image with git annex get",
    ),
    (rb"(wdir|outs):\s.*md5: |md5: .*outs:\s", "a DVC pointer without the image; fetch the image with dvc pull"),
    (
        rb"....ftyp(?!.{0,80}avi[fs])(hei|hev|mif1|msf1)",
        "a HEIC photograph; convert it to JPEG, for example with heif-convert",
    ),
    (rb"....ftypcrx |.{8}CR\x02|FUJIFILMCCD-RAW|IIRO|IIRS|MMOR|IIU\0|FOVb|II\x1a\0\0\0HEAPCCDR|\0MRM", _RAW),
    (rb"....ftyp(?!.{0,80}avi[fs])|RIFF....AVI |\x1aE\xdf\xa3|\0\0\x01[\xb3\xba]", _VIDEO),
    (rb".{128}DICM", "a DICOM file; export its picture as PNG, for example with dcm2img"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "a JPEG XL image; convert it to JPEG or PNG, for example with djxl"),
    (rb"II\xbc\x01", "a JPEG XR image; convert it to JPEG or PNG"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "a PostScript drawing; convert it to PNG"),
    (rb"\s*%PDF-", "a PDF document; extract its pictures, for example with pdfimages"),
    (
        rb"(?i)\s*(<!--.*?-->\s*)?(<!doctype html|<html)",
        "a web page, perhaps an error message; download the image again",
    ),
    (rb"\s*(<\?xml.*?\?>\s*)?<Error>", "an error message of a server; download the image again"),
    (rb"(\s*<[^>]*>)*?\s*<svg[\s>]", "an SVG drawing; convert it to PNG"),
    (rb"PK\x03\x04|\x1f\x8b|7z\xbc\xaf|Rar!|BZh|\xfd7zXZ|.{257}ustar", _ARCHIVE),
]
_PATTERNS = [(re.compile(pattern, re.DOTALL), words) for pattern, words in _OTHER_FORMATS]
_MAX_TILE = 1 << 26  # pixels: a tile of a TIFF file is decoded as a whole, even if it is larger than the image
_KNOWN = {b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG", b"II*\0": "TIFF", b"MM\0*": "TIFF", b"BM": "BMP", b"GIF8": "GIF"}


def refuse_other_formats(data: bytes) -> None:
    """Raise DataError, with the format and a remedy, for what cannot be read or would be read as another image."""
    if data.startswith(b"\xff\xd8\xff"):  # JPEG, the usual case
        return
    if data.startswith(b"\x89PNG") and data.count(b"iCCP") > 10:  # Pillow unpacks each
        raise DataError(f"it is a PNG file with many colour profiles; {_SAVE_AGAIN}")
    for pattern, words in _PATTERNS:
        if pattern.match(data[:1024]):
            raise DataError(f"it is {words}")


def unidentified(data: bytes) -> DataError:
    """Return the error for a file whose header Pillow cannot read."""
    for magic, name in _KNOWN.items():
        if data.startswith(magic):
            return DataError(f"it is a {name} file of an unsupported kind or with a damaged header; {_SAVE_AGAIN}")
    return DataError("it is not an image")


def check_format(image: Image.Image, data: bytes) -> None:
    """Raise DataError for an opened image that Pillow would decode differently from an image viewer."""
    if image.format not in FORMATS:
        raise DataError(f"its format is {image.format_description or image.format}; convert it to JPEG or PNG")
    # Pillow copies a block of such a file for each of its comments.
    if image.format == "PPM" and data[1:2] in (b"1", b"2", b"3") and data.count(b"#") > 100:
        raise DataError(f"it is a PPM file with many comments; {_SAVE_AGAIN}")
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
    kind = ""
    if tags.get(284, 1) == 2 and (depth > 8 or photometric in (0, 8)):
        kind = "separate planes"
    elif depth == 8 and 2 in _as_tuple(tags.get(339, 1)):
        kind = "signed pixels"
    elif photometric == 5 and tags.get(332, 1) != 1:
        kind = "inks other than CMYK"
    elif photometric == 6 and tags.get(259, 1) == 1 and _as_tuple(tags.get(530, (1, 1))) != (1, 1):
        kind = "uncompressed subsampled colours"
    elif photometric == 3 and max(tags.get(320, (256,))) < 256:
        kind = "a palette of 8-bit colours"
    elif tags.get(322, 0) * tags.get(323, 0) > _MAX_TILE:
        kind = "huge tiles"
    if kind:
        raise DataError(f"it is a TIFF file with {kind}, which is not supported; {_SAVE_AGAIN}")


def _as_tuple(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)
