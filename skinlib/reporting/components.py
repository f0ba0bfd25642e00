"""The Metaflow cards of a run: what each step found, in words, tables and pictures.

A card function fills `current.card["id"]`. Everywhere here

    labels          int (N,), index into `CLASSES`, so that 1 is malignant
    probabilities   float (N,) of being malignant, 0 to 1
    images          uint8 (N, height, width, 3)
    histories       by trial key, the records of its epochs as in `TrialResult.history`
"""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from metaflow.cards import Image, Table

from skinlib.console import estimate, estimate_in
from skinlib.figures import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Card: TypeAlias = Any  # of which only append(component) and refresh() are used

SYNTHETIC = "**These images are synthetic.** Results on them show that the pipeline works and nothing else."
SHORTCUT = (
    "A logistic regression on nothing but each image's mean and deviation of red, green and blue: it has seen no lesion"
)


def _versus_shortcut(auroc: Record, difference: Record) -> str:
    """Say how a model stands to the shortcut, from two estimates."""
    interval = difference["interval"]
    noise = ", which may be noise" if interval is not None and interval[0] <= 0 <= interval[1] else ""
    above = f"the model's paired difference to it is {estimate(difference)}{noise}"
    return f"**Colour alone reaches {estimate(auroc)}**; {above}."


def _compared(trial: Record) -> tuple[Record, Record]:
    """Read the shortcut's AUROC, and a trial's paired difference to it, from the trial's row of a leaderboard."""
    auroc = {"value": trial["shortcut_auroc"], "interval": None}
    return auroc, estimate_in(trial, "above_shortcut", "above_shortcut_low", "above_shortcut_high")


def _unbroken(words: str) -> str:
    return words.replace(" ", "\N{NO-BREAK SPACE}")


def _picture(figure: "Figure", file_format: str = "png") -> Image:
    # Image.from_matplotlib would load pyplot, and give photographs three to five times the bytes of a JPEG.
    file = io.BytesIO()
    figure.savefig(file, format=file_format, dpi=150)  # more than is shown, for sharp screens
    return Image(file.getvalue())


def _table(rows: Any, headers: Sequence[str]) -> Table:
    return Table([[_text(value) for value in row] for row in rows], headers=list(headers))


def _text(value: Any) -> str:
    if value is None or value != value:  # NaN
        return "-"
    return f"{value:.3g}" if isinstance(value, float) and abs(value) < 100 else str(value)


def _words(name: str) -> str:
    return name.replace("_", " ").replace("auroc", "AUROC")
