"""The card of the step `train`: a live view of a trial."""

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

from metaflow.cards import Markdown, ProgressBar, VegaChart

from skinlib.audit.baselines import COLOURS
from skinlib.reporting.components import Card, column_title, gain_note, table
from skinlib.reporting.figures import BLUE, VERMILION
from skinlib.reporting.text import against
from skinlib.training.result import Epoch
from skinlib.training.trial import Trial

Curve: TypeAlias = Literal["validation_auroc", "validation_loss", "train_loss"]
LIVE_CURVES: dict[str, list[Curve]] = {"AUROC": ["validation_auroc"], "loss": ["validation_loss", "train_loss"]}


class TrainingCard:
    """A live view of a trial. Metaflow skips refreshes that follow the last one by less than `refresh_interval`."""

    def __init__(self, card: Card, trial: Trial, fold: int = 1, folds: int = 1) -> None:
        """Show the hyperparameters and an empty progress bar; name the fold if there are several."""
        self._card = card
        self._epochs = trial.epochs
        self._summary = ""
        self._title = f"# Training, fold {fold} of {folds}" if folds > 1 else "# Training"
        self._heading = Markdown(self._title)
        self._progress = ProgressBar(max=trial.epochs, label="epoch")
        self._charts = [VegaChart(_chart([], trial.epochs, *curves)) for curves in LIVE_CURVES.items()]
        values = [[column_title(name), value] for name, value in trial.model_dump().items()]
        for component in (self._heading, self._progress, *self._charts, table([["hyperparameter", "value"], *values])):
            card.append(component)
        self._card.refresh()

    def update(self, history: Sequence[Epoch]) -> None:
        """Show all epochs so far, at least one."""
        last, best = history[-1], max(history, key=lambda epoch: epoch["validation_auroc"])
        auroc = f"Best validation AUROC **{best['validation_auroc']:.3f}** in epoch {best['epoch']}"
        self._summary = f"{auroc}, {last['images_per_second']:,.0f} images/s"
        self._heading.update(f"{self._title}\n\n{self._summary}")
        self._progress.update(last["epoch"])
        for chart, curves in zip(self._charts, LIVE_CURVES.items(), strict=True):
            chart.update(_chart(history, self._epochs, *curves))
        self._card.refresh()

    def finish(self, status: str, reason: str, above: Mapping[str, float | None]) -> None:
        """Show how the trial ended, as in `TrialResult`, and its gain, from `selection.against_baselines`."""
        words = reason.replace("<", "< ")  # otherwise the card takes what follows for HTML
        note = gain_note(against(above, COLOURS)) if f"above_{COLOURS}" in above else ""
        parts = [f"{self._title}: {status}", words, self._summary, note]
        self._heading.update("\n\n".join(part for part in parts if part))
        self._card.refresh()


def _chart(history: Sequence[Epoch], epochs: int, title: str, columns: Sequence[Curve]) -> dict[str, object]:
    """Specify curves over epochs in Vega-Lite: a few kilobytes, since each refresh sends them whole."""
    values = [{"epoch": epoch["epoch"], **{name: epoch[name] for name in columns}} for epoch in history]
    ticks = {"tickMinStep": 1, "format": "d", "grid": False}
    x = {"field": "epoch", "type": "quantitative", "scale": {"domain": [0, epochs]}, "axis": ticks}
    layers: list[dict[str, object]] = []
    for name, colour, dash, dy in zip(columns, (BLUE, VERMILION), ([1, 0], [6, 4]), (-7, 7), strict=False):
        y = {"field": name, "type": "quantitative", "title": title, "scale": {"zero": False, "padding": 12}}
        line = {"type": "line", "color": colour, "strokeDash": dash, "point": {"color": colour}}
        label: dict[str, object] = {"type": "text", "text": name.split("_")[0], "color": colour, "fontSize": 13}
        label |= {"align": "left", "dx": 8, "dy": dy}  # dy separates the labels where the curves meet
        layers.append({"mark": line, "encoding": {"x": x, "y": y}})
        layers.append({"mark": label, "encoding": {"x": x, "y": y}, "data": {"values": values[-1:]}})
    config = {"axis": {"labelFontSize": 12, "titleFontSize": 13}, "view": {"stroke": None}}
    schema = "https://vega.github.io/schema/vega-lite/v5.json"
    return {"$schema": schema, "height": 200, "config": config, "data": {"values": values}, "layer": layers}
