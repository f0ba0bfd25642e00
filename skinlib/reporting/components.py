"""What the Metaflow cards share: their protocol, tables, pictures and notes. A card is `current.card["id"]`."""

import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from metaflow.cards import Image, Markdown, Table

from skinlib.evaluation.scores import AgainstBaseline
from skinlib.reporting.numbers import estimate
from skinlib.reporting.text import without_markup

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SYNTHETIC = "**These images are synthetic.** The results only show that the pipeline works."


class Card(Protocol):
    """The part of Metaflow's card that is used."""

    def append(self, component: object) -> None:
        """Add a component at the end."""

    def refresh(self) -> None:
        """Render the card again while the task runs."""


def gain_note(of: AgainstBaseline) -> str:
    """Compare a model with the colour baseline."""
    gain, interval = estimate(of["difference"]), of["difference"]["interval"]
    noise = ", which may be noise" if interval is not None and interval[0] <= 0 <= interval[1] else ""
    return f"**Colour baseline: AUROC {estimate(of['auroc'])}.** The model's gain over it is {gain}{noise}."


def markdown(text: str) -> Markdown:
    """Show Markdown, in which names are words only."""
    return Markdown(without_markup(text))


def picture(figure: "Figure", file_format: str = "png") -> Image:
    """Show a figure; `jpeg` for photographs."""
    # Image.from_matplotlib would load pyplot, and give photographs three to five times the bytes of a JPEG.
    file = io.BytesIO()
    figure.savefig(file, format=file_format, dpi=150)  # more than a card's 100, for sharp screens
    return Image(file.getvalue())


def table(rows: Iterable[Sequence[object]]) -> Table:
    """Show rows of values; the first one has the heads."""
    heads, *values = rows
    return Table([[_cell(value) for value in row] for row in values], headers=list(heads))


def unbroken(words: str) -> str:
    """Keep words on one line."""
    return words.replace(" ", "\N{NO-BREAK SPACE}")


def column_title(name: str) -> str:
    """Turn the name of a column or hyperparameter into words."""
    return name.replace("_", " ").replace("auroc", "AUROC")


def _cell(value: object) -> str:
    if value is None or value != value:  # NaN
        return "-"
    return f"{value:.3g}" if isinstance(value, float) and abs(value) < 100 else str(value)
