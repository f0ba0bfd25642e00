"""Synthetic skin lesions: sample data to run the whole project without images of your own.

The images are drawn by a program and have no medical value. They imitate what makes the real task hard.
The class of an image affects two things only:

- Its *irregularity*, drawn from two overlapping normal distributions, `SEPARATION` standard deviations apart.
  The signs of the ABCD rule (asymmetry, border, colour, dermoscopic structure) follow it, each with its own
  noise. The overlap limits every classifier: the irregularity itself has AUROC Phi(SEPARATION / sqrt(2)).
- Its *clinic*. As in most real data sets, two clinics contribute the classes in different proportions, and each
  clinic's camera has its own white balance: a shortcut that carries no information about the lesion.

Everything else (skin, size, hair, light, rulers) has the same distribution in both classes. An image depends only
on its seed, split, class and index.
"""

import csv
import math
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from skinlib import machine
from skinlib.data import hair, metadata
from skinlib.data.images import SIDE
from skinlib.data.manifest import CLASSES, SPLITS
from skinlib.errors import ConfigError, StorageError
from skinlib.progress import Progress, silent

VERSION = 3  # part of the cached folder's name: increase it when a byte of the default set changes
N_TRAIN, N_TEST = 480, 160
MALIGNANT_SHARE = 1497 / 3297  # the share in the real data set
SEPARATION = 3.6  # Phi(3.6 / sqrt(2)) = 0.995
# One of the two clinics has a warmer camera. This is its log gain in red, green and blue; the other clinic's is the
# negative.
WARM_SHARE = {"benign": 0.65, "malignant": 0.35}
CLINICS = ("cool clinic", "warm clinic")
WARM_BALANCE = np.array([0.04, -0.03, -0.02])

# Optical density of one unit of pigment in red, green and blue: melanin absorbs blue most, blood absorbs green most.
# The values are not measured spectra; they were chosen by eye to look like skin and lesions under a dermatoscope.
MELANIN = np.array([0.42, 0.85, 1.15], np.float32)[:, None, None]
BLOOD = np.array([0.06, 0.62, 0.50], np.float32)[:, None, None]
# Reflectance. Melanin deep in the skin looks blue-grey, as the skin above it scatters light.
VEIL = np.array([0.40, 0.45, 0.53], np.float32)[:, None, None]
HAIR = np.array([0.16, 0.11, 0.09], np.float32)[:, None, None]

README = """These images are SYNTHETIC: skinlib/data/sample.py drew them.
They have no medical value. They replace a real data set so that you can try the project.
"""

Field = NDArray[np.float32]  # (SIDE, SIDE)
_Y, _X = (np.mgrid[:SIDE, :SIDE].astype(np.float32) + 0.5) / (SIDE / 2) - 1  # -1 to 1 from edge to edge


def irregularity(rng: np.random.Generator, class_name: str) -> float:
    """Draw the irregularity of a lesion of a class, in (0, 1): the logistic function of a normal variable."""
    mean = SEPARATION * (CLASSES.index(class_name) - 0.5)
    return 1 / (1 + math.exp(-rng.normal(mean, 1.0)))


def draw(seed: int, split: str, class_name: str, index: int) -> NDArray[np.uint8]:
    """Draw one synthetic image, uint8 RGB (SIDE, SIDE, 3); `index` starts from 1, like the file names."""
    rng, irregular, warm = _patient(seed, split, class_name, index)
    melanin, blood = _skin(rng)
    lesion_melanin, lesion_blood, veil = _lesion(rng, irregular)
    density = (melanin + lesion_melanin) * MELANIN + (blood + lesion_blood) * BLOOD
    colour = np.exp(-density)  # Beer-Lambert law: the remaining part of white light; (3, SIDE, SIDE)
    colour += veil * (VEIL - colour)
    colour += _hair_and_ruler(rng) * (HAIR - colour)
    return _photograph(rng, colour, warm)


def clinic(seed: int, split: str, class_name: str, index: int) -> str:
    """Return the clinic that an image comes from, as `metadata.csv` names it."""
    return CLINICS[_patient(seed, split, class_name, index)[2]]


def _patient(seed: int, split: str, class_name: str, index: int) -> tuple[np.random.Generator, float, bool]:
    """Return an image's generator, and the first two draws from it: irregularity, and whether the camera is warm."""
    entropy = [seed, SPLITS.index(split), CLASSES.index(class_name), index]
    rng = np.random.default_rng(np.random.SeedSequence(entropy))
    return rng, irregularity(rng, class_name), bool(rng.random() < WARM_SHARE[class_name])


def _step(x: Field, width: float | Field) -> Field:
    """Return a soft step from 0 to 1 around x = 0."""
    return 1 / (1 + np.exp(-np.clip(x / width, -30, 30)))


def _noise(rng: np.random.Generator, cells: int) -> Field:
    """Draw smooth noise of about unit variance, with blobs that are SIDE / cells pixels wide."""
    grid = Image.fromarray(1.25 * rng.standard_normal((cells, cells), np.float32))
    return np.asarray(grid.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def _skin(rng: np.random.Generator) -> tuple[Field, Field]:
    """Draw melanin and blood of the skin around a lesion, with texture, sun spots and redness."""
    tone = 0.08 + 1.1 * rng.beta(1.1, 3.0)
    texture = 0.025 * _noise(rng, 24) + 0.02 * _noise(rng, 70) + 0.02 * _noise(rng, 140)
    spots = rng.exponential(0.10) * np.clip(_noise(rng, 14) - 1.0, 0, None)
    # Furrows: the zero crossings of a noise field form a net of thin, light lines.
    furrows = rng.uniform(0, 0.12) * np.exp(-((_noise(rng, 40) / 0.25) ** 2))
    melanin = np.clip(tone * (1 + 2 * texture) + texture + spots - furrows * (0.5 + tone), 0.01, None)
    blood = rng.uniform(0.1, 0.6) * (1 + 0.15 * _noise(rng, 4) + 0.12 * _noise(rng, 18))
    return melanin, np.clip(blood, 0.02, None)


def _lesion(rng: np.random.Generator, irregular: float) -> tuple[Field, Field, Field]:
    """Draw the melanin, blood and blue-grey veil (0 to 1) that a lesion adds to the skin."""
    # The ABCD rule: Stolz et al., European Journal of Dermatology 4 (1994) 521.
    asymmetry, border, colours, structure = np.clip(irregular + rng.normal(0, 0.2, 4), 0, 1).tolist()

    # Outline: an ellipse whose radius varies with the angle: asymmetry adds slow variation, border fine variation.
    size = 0.46 * math.exp(rng.normal(0, 0.3))
    turn, stretch = rng.uniform(0, math.pi), math.exp(rng.uniform(0, 0.25))
    x, y = _X - rng.normal(0, 0.1), _Y - rng.normal(0, 0.1)
    along, across = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
    along, across = along / stretch / size, across * stretch / size
    distance, angle = np.hypot(along, across), np.arctan2(across, along)
    outline = np.ones_like(distance)
    for k in range(2, 7):
        bulge = rng.normal(0, 0.02 + 0.16 * asymmetry) / k
        outline += bulge * np.cos(k * angle + rng.uniform(0, 2 * math.pi))
    rough = 0.6 * _noise(rng, 9) + 0.45 * _noise(rng, 22) + 0.35 * _noise(rng, 50) + 0.25 * _noise(rng, 100)
    ragged = (0.04 + 0.20 * border) * rough
    softness = rng.uniform(0.05, 0.13) * np.exp(border * 0.6 * _noise(rng, 5))
    inside = _step(outline - distance + ragged, softness)

    # Pigment: one shade that is darker or lighter at the rim, with blotches, a gradient and pale parts.
    shade = 0.75 * math.exp(rng.normal(0, 0.3))
    tilt_angle = rng.uniform(0, 2 * math.pi)
    tilt = along * math.cos(tilt_angle) + across * math.sin(tilt_angle)
    pigment = 1 + rng.uniform(-0.3, 0.4) * (0.5 - distance) + 0.12 * _noise(rng, 20) + 0.08 * _noise(rng, 60)
    pigment += 0.45 * asymmetry * np.clip(tilt, -1, 1)
    pigment += (0.05 + 0.5 * colours) * np.tanh(1.5 * (_noise(rng, 6) + 0.4 * _noise(rng, 20)))
    pigment += _network(rng, structure)
    pigment *= 1 - 0.8 * max(0.0, colours - 0.3) * _step(_noise(rng, 5) + 0.3 * rough - 1.0, 0.2)
    redness = rng.exponential(0.15) + 0.4 * colours * np.clip(_noise(rng, 5) - 0.2, 0, None)

    # Blue-grey veil: patches in irregular lesions. A blue naevus is blue throughout and harmless.
    veil = max(0.0, colours - 0.4) * _step(_noise(rng, 5) + 0.4 * rough - 0.5, 0.3)
    if rng.random() < 0.04:
        veil = np.maximum(veil, 0.6)
    return inside * shade * np.clip(pigment, 0.05, None), inside * redness, inside * veil


def _network(rng: np.random.Generator, structure: float) -> Field:
    """Draw pigment network and globules around 0: a regular honeycomb, or a warped, coarse and patchy one."""
    period = rng.uniform(0.06, 0.09) * (1 + 0.5 * structure)
    warp = 0.015 + 0.04 * structure
    u, v = _X + warp * _noise(rng, 10), _Y + warp * _noise(rng, 10)
    start = rng.uniform(0, math.pi)
    directions = [start + k * math.pi / 3 for k in range(3)]
    waves = sum(np.cos(2 * math.pi / period * (u * math.cos(a) + v * math.sin(a))) for a in directions)
    patches = _step((0.4 + 0.6 * structure) * _noise(rng, 6), 0.3)
    globules = 0.6 * structure * _step(_noise(rng, 30) - 1.1, 0.15)
    return globules - rng.exponential(0.08) * (1 + structure) * patches * waves


def _hair_and_ruler(rng: np.random.Generator) -> Field:
    """Draw hairs and ruler marks: the fraction of each pixel that they cover, 0 to 1."""
    scale = 3  # drawn larger and reduced, for soft lines thinner than a pixel
    canvas = Image.new("L", (SIDE * scale, SIDE * scale))
    pen = ImageDraw.Draw(canvas)
    n_hairs = rng.poisson(rng.choice([0, 2, 12], p=[0.5, 0.35, 0.15]))
    lean = rng.uniform(0, math.pi)
    for _ in range(n_hairs):
        curve = hair.curve(rng, lean, shortest=0.15)
        darkness, width = int(rng.integers(110, 240)), int(rng.integers(2, 6))
        pen.line((curve * SIDE * scale).ravel().tolist(), fill=darkness, width=width)
    if rng.random() < 0.12:
        step, offset = rng.uniform(14, 22) * scale, rng.uniform(4, 20) * scale
        for i in range(1, 12):
            length = (14 if i % 5 == 0 else 8) * scale
            pen.line([(offset, i * step), (offset + length, i * step)], fill=210, width=scale)
        canvas = canvas.rotate(float(rng.choice([0, 90, 180, 270])))
    return np.asarray(canvas.reduce(scale), np.float32) / np.float32(255)


def _photograph(rng: np.random.Generator, colour: NDArray[np.float32], warm: bool) -> NDArray[np.uint8]:
    """Apply what a camera adds: uneven light, dark corners, white balance, exposure, sensor noise."""
    towards = rng.uniform(0, 2 * math.pi)
    slope = _X * math.cos(towards) + _Y * math.sin(towards)
    light = 1 + rng.uniform(0, 0.15) * slope + 0.03 * _noise(rng, 3)
    radius = np.hypot(_X - rng.normal(0, 0.05), _Y - rng.normal(0, 0.05))
    light *= 1 - rng.uniform(0, 0.3) * np.clip(radius - 0.5, 0, None) ** 2
    if rng.random() < 0.08:  # the round edge of the lens is visible
        light *= _step(rng.uniform(1.05, 1.2) - radius, 0.02)
    balance = (1 if warm else -1) * WARM_BALANCE + rng.normal(0, 0.04, 3)
    gain = np.exp(balance + rng.normal(0.08, 0.08)).astype(np.float32)
    image = colour * light * gain[:, None, None]
    image += 0.012 * rng.standard_normal(image.shape, np.float32)
    return np.ascontiguousarray((np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0))


def generate(
    directory: Path,
    *,
    n_train: int = N_TRAIN,
    n_test: int = N_TEST,
    seed: int = 0,
    on_progress: Progress = silent,
) -> None:
    """Write synthetic images as `train|test/benign|malignant/1.jpg ...`, their metadata.csv, and a README.txt.

    Args:
        directory: A new or an empty folder.
        n_train: Images in train, at least 2; the share of malignant images is the same as in the real data set.
        n_test: Images in test, at least 2.
        seed: 0 or more. The same seed gives the same bytes with the same versions of numpy and Pillow.
        on_progress: Called with (images written, all images) after each image.

    Raises:
        ConfigError: A count is too small, or `directory` is not empty.
        StorageError: `directory` cannot be written.
    """
    if min(n_train, n_test) < 2:
        raise ConfigError(f"{n_train} train and {n_test} test images leave a class empty; ask for 2 or more of each.")
    with _writing(directory):
        if directory.exists() and any(directory.iterdir()):
            raise ConfigError(f"{directory} already holds files; give a new or an empty folder.")
        jobs = []
        for split, n in zip(SPLITS, (n_train, n_test), strict=True):
            n_malignant = max(1, round(n * MALIGNANT_SHARE))
            for class_name, count in zip(CLASSES, (n - n_malignant, n_malignant), strict=True):
                (directory / split / class_name).mkdir(parents=True)
                jobs += [(split, class_name, index) for index in range(1, count + 1)]
        (directory / "README.txt").write_text(README)

        with (directory / metadata.FILE).open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow([metadata.KEY_COLUMN, metadata.SOURCE_COLUMN, "lesion_id"])
            for job in jobs:
                table.writerow(["{}/{}/{}.jpg".format(*job), clinic(seed, *job), "-".join(map(str, job))])

        def write(job: tuple[str, str, int]) -> None:
            split, class_name, index = job
            path = directory / split / class_name / f"{index}.jpg"
            Image.fromarray(draw(seed, split, class_name, index)).save(path, quality=90)

        # Threads, since numpy and Pillow release the interpreter lock; processes would need a main guard in callers.
        with ThreadPoolExecutor(machine.cores()) as pool:
            for done, _ in enumerate(pool.map(write, jobs), start=1):
                on_progress(done, len(jobs))


def ensure(on_progress: Progress = silent) -> Path:
    """Return the folder of the default set; the first call creates it below XDG_CACHE_HOME or ~/.cache.

    The folder appears only when it is complete, and concurrent calls all succeed.

    Raises:
        StorageError: The cache cannot be written.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "skinlib"
    target = cache / f"sample-v{VERSION}"
    if target.exists():
        return target
    with _writing(cache):
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".sample-", dir=cache) as scratch:
            built = Path(scratch, "synthetic")
            generate(built, on_progress=on_progress)
            try:
                built.rename(target)
            except OSError:
                if not target.exists():  # otherwise another process created it first, with the same images
                    raise
    return target


def locate(data: str, on_progress: Progress = silent) -> str:
    """Return the folder of the synthetic set if `data` is "sample"; otherwise return `data`, a URL or a folder."""
    return str(ensure(on_progress)) if data == "sample" else data


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"The synthetic images cannot be written to {folder} ({error.strerror or error}); "
            "choose another folder, or set XDG_CACHE_HOME to move the cache."
        ) from error
