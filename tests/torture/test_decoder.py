"""Any image file gives an image or a named reason, within 5 seconds and 1 GB: damaged, huge or made for harm.

The 20,000 damaged files are files of five formats with some bytes changed, lost, repeated or set to extreme numbers. A
file is made from its number, so that a failure can be repeated: `damaged(NUMBER)`.
"""

import faulthandler
import io
import multiprocessing
import resource
import struct
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from skinlib.data import sample
from skinlib.data.images import decode
from skinlib.errors import DataError
from tests.unit.data.scene import encode
from tests.unit.data.test_colour import P3, grey_profile, rgb_profile, srgb_curve

FILES, CHUNK = 20_000, 250
SECONDS, BYTES = 5, 1 << 30
WORDS = ["00000000", "ffffffff", "7fffffff", "ffffff7f", "80000000", "00000001", "00100000"]
EXTREMES = [bytes.fromhex(word) for word in WORDS]


@cache
def originals() -> list[bytes]:
    """Undamaged files of each format, in the variants that this project decodes or refuses by its own rules."""
    colour = Image.fromarray(sample.draw(0, "train", "malignant", 1))
    exif = Image.Exif()
    exif[0x0112] = 6
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "x" * 5000, zip=True)
    variants = [
        (colour, "JPEG", {"quality": 90}),
        (colour, "JPEG", {"progressive": True, "exif": exif}),
        (colour.convert("CMYK"), "JPEG", {}),
        (colour.convert("L"), "JPEG", {"subsampling": 2}),
        (colour, "PNG", {"pnginfo": text}),
        (colour.convert("P"), "PNG", {}),
        (Image.fromarray(np.asarray(colour.convert("L"), np.uint16) * 257), "PNG", {}),
        (colour, "TIFF", {}),
        (colour, "TIFF", {"compression": "tiff_lzw"}),
        (colour, "TIFF", {"compression": "tiff_adobe_deflate"}),
        (colour, "TIFF", {"compression": "jpeg"}),
        (colour, "WEBP", {"quality": 80}),
        (colour, "WEBP", {"lossless": True}),
        (colour, "BMP", {}),
        (colour.convert("P"), "BMP", {}),
    ]
    files = []
    for image, name, options in variants:
        file = io.BytesIO()
        image.save(file, name, **options)
        files.append(file.getvalue())
    return files


def damaged(number: int) -> bytes:
    """Make a damaged file; half of the changes are in the first 512 bytes, where the headers are."""
    rng = np.random.default_rng(number)
    data = bytearray(originals()[number % len(originals())])
    for _ in range(int(rng.integers(1, 9))):
        if not data:
            break
        place = int(rng.integers(0, min(len(data), 512) if rng.random() < 0.5 else len(data)))
        change = rng.integers(0, 6)
        if change == 0:
            data[place] ^= 1 << int(rng.integers(0, 8))
        elif change == 1:
            data[place] = int(rng.integers(0, 256))
        elif change == 2:
            data[place : place + 4] = EXTREMES[int(rng.integers(0, len(EXTREMES)))]
        elif change == 3:
            del data[place : place + int(rng.integers(1, 64))]
        elif change == 4:
            data[place:place] = data[place : place + int(rng.integers(1, 64))]
        elif len(data) > 64 and rng.random() < 0.3:
            del data[max(64, place) :]
    return bytes(data)


def decode_all(first: int, current: str) -> tuple[int, int, str]:
    """Decode a chunk of files; return how many gave an image, the peak of memory, and what was wrong, if anything."""
    before, decoded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0
    for number in range(first, first + CHUNK):
        data = damaged(number)
        with open(current, "w") as file:
            file.write(str(number))
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        try:
            image = decode(data)
            decoded += 1
            if image.shape != (224, 224, 3) or image.dtype != np.uint8:
                return decoded, 0, f"file {number}: {image.dtype} {image.shape}"
        except DataError as error:
            if not str(error).strip():
                return decoded, 0, f"file {number}: no reason"
        except BaseException as error:
            return decoded, 0, f"file {number}: {type(error).__name__}: {error}"
        finally:
            faulthandler.cancel_dump_traceback_later()
    return decoded, 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before), ""


def test_every_damaged_file_gives_an_image_or_a_reason(tmp_path):
    with ProcessPoolExecutor(2) as pool:
        firsts = range(0, FILES, CHUNK)
        jobs = [pool.submit(decode_all, first, str(tmp_path / f"{first}")) for first in firsts]
        results = []
        for job in jobs:
            try:
                results.append(job.result())
            except BrokenProcessPool as error:
                open_files = [path.read_text() for path in tmp_path.iterdir()]
                pytest.fail(f"a process died or hung at one of the files {open_files}: {error}")
    decoded, peaks, problems = zip(*results, strict=True)
    assert [problem for problem in problems if problem] == []
    assert max(peaks) < BYTES
    # Neither all damage is harmless, nor is all of it noticed.
    assert 0.02 * FILES < sum(decoded) < 0.9 * FILES
    print(f"{FILES} files, {sum(decoded)} decoded, at most {max(peaks) / 1e6:.0f} MB")


def cost(data: bytes) -> tuple[str, float, int]:
    """Decode a file; return what it gives, the seconds of CPU time, and the growth of the peak of memory."""

    def peak() -> int:  # not of `resource`, which includes that of the parent process
        return 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])

    before, begun = peak(), time.process_time()
    try:
        decode(data)
        outcome = "an image"
    except DataError as error:
        outcome = str(error)
    return outcome, time.process_time() - begun, peak() - before


def in_new_process(data: bytes) -> str:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        outcome, seconds, growth = pool.submit(cost, data).result(timeout=60)
    print(f"{len(data) / 1e6:.1f} MB: {seconds:.1f} s, {growth / 1e6:.0f} MB, {outcome}")
    assert seconds < SECONDS
    assert growth < BYTES
    return outcome


WIDE_GAMUT, TURNED = rgb_profile(P3, srgb_curve()), Image.Exif()
TURNED[0x0112] = 6


@pytest.mark.parametrize(
    ("mode", "format", "millions", "options"),
    [
        ("RGB", "JPEG", 80, {"icc_profile": WIDE_GAMUT, "exif": TURNED}),
        ("CMYK", "JPEG", 80, {"progressive": True}),
        ("RGBA", "PNG", 80, {"icc_profile": WIDE_GAMUT, "compress_level": 1}),
        ("I;16", "PNG", 80, {"icc_profile": grey_profile(1.8), "compress_level": 1}),
        ("LAB", "TIFF", 80, {"compression": "tiff_lzw"}),
        ("RGBA", "AVIF", 80, {"speed": 10}),
        ("RGBA", "JPEG2000", 40, {}),
        ("RGB", "WEBP", 40, {"icc_profile": WIDE_GAMUT, "method": 0}),
    ],
)
def test_the_largest_images_are_decoded(mode: str, format: str, millions: int, options: dict[str, Any]) -> None:
    side = int((millions * 1e6) ** 0.5)
    colour = {"RGBA": (200, 100, 50, 255), "CMYK": (50, 100, 200, 0), "I;16": 999}.get(mode, (200, 100, 50))
    assert in_new_process(encode(Image.new(mode, (side, side), colour), format, **options)) == "an image"


def test_a_large_grey_image_with_a_profile_is_decoded() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8900, 8900), np.uint8)
    assert in_new_process(encode(noise, "JPEG", icc_profile=grey_profile(1.8))) == "an image"


def jpeg_of_scans() -> bytes:
    data = bytearray(encode(np.zeros((16, 16), np.uint8), "JPEG", progressive=True))
    struct.pack_into(">HH", data, data.index(b"\xff\xc2") + 5, 8900, 8900)
    last = data.rindex(b"\xff\xda")
    return bytes(data[:last] + data[last:-2] * 3000 + data[-2:])


def tiff_of_frames() -> bytes:
    data = encode(np.zeros((40, 40), np.uint8), "TIFF")
    (at,) = struct.unpack_from("<I", data, 4)
    end = at + 2 + 12 * int.from_bytes(data[at : at + 2], "little")
    frames = [data[at:end] + struct.pack("<I", len(data) + (end - at + 4) * number) for number in range(1, 40_000)]
    return data[:end] + struct.pack("<I", len(data)) + data[end + 4 :] + b"".join(frames)


def png_of_profiles() -> bytes:
    data = encode(np.zeros((40, 40), np.uint8))
    content = b"iCCP" + b"x\0\0" + zlib.compress(bytes(10**6))
    chunk = struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
    return data[:33] + 5000 * chunk + data[33:]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (jpeg_of_scans, "too many scans"),
        (tiff_of_frames, "several frames"),
        (png_of_profiles, "many colour profiles"),
        (lambda: b"P3 100 100 255\n" + b"#\n" * 10**6, "many comments"),
        (lambda: b"P6 3000 2000 4095\n" + bytes(6 * 3000 * 2000), "it is too big"),
        (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n" + b"%a\n" * 6 * 10**6, "a PostScript drawing"),
    ],
    ids=["scans", "frames", "profiles", "comments", "slow decoder", "PostScript"],
)
def test_a_file_that_would_take_long_is_refused(make: Callable[[], bytes], reason: str) -> None:
    assert reason in in_new_process(make())
