"""Pictures of data and results, and the Metaflow cards that show them.

A figure function takes data and returns a `matplotlib.figure.Figure` that belongs to no global state. A card
function fills `current.card["id"]`. Nothing is said by colour alone; colours are those of Okabe and Ito
(https://jfly.uni-koeln.de/color/). Everywhere here

    labels          int (N,), index into `CLASSES`, so that 1 is malignant
    probabilities   float (N,) of being malignant, 0 to 1
    threshold       a probability at or above it is called malignant
    images          uint8 (N, height, width, 3)
    histories       by trial key, the records of its epochs as in `TrialResult.history`
    leaderboard     a row a trial, as from `selection.leaderboard`: best first, failed last with NaN as AUROC
"""

import io
import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from metaflow.cards import Image, Markdown, ProgressBar, Table, VegaChart

from skinlib.dataset import CLASSES

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

Card: TypeAlias = Any  # of which only append(component) and refresh() are used
Record: TypeAlias = Mapping[str, Any]
History: TypeAlias = Sequence[Record]
Histories: TypeAlias = Mapping[str, History]

BLUE, VERMILION, GREY = "#0072B2", "#D55E00", "#767676"
CLASS_STYLES = ({"color": BLUE}, {"color": VERMILION, "hatch": "///"})
# Colour, line and marker of the best trials; the others are grey, since nobody can tell more lines apart.
TRIAL_STYLES = ((BLUE, "-", "o"), (VERMILION, "--", "s"), ("#009E73", "-.", "^"), ("#CC79A7", ":", "D"))
DRAWN_TRIALS = 16  # more rows are not legible in the 500 pixels of height that a card gives a picture
GRID_COLUMNS = 8
SHOWN_MISTAKES = 16
SHOWN_REJECTED = 50
REFRESH_SECONDS = 5.0  # each refresh starts a Python process
LIVE_CURVES = {"AUROC": ["validation_auroc"], "loss": ["validation_loss", "train_loss"]}
SYNTHETIC = "**These images are synthetic.** Results on them show that the pipeline works and nothing else."
MEANINGS = {
    "threshold": "probability from which an image is called malignant",
    "auroc": "chance that a malignant image scores above a benign one",
    "accuracy": "share of all images called rightly",
    "sensitivity": "share of malignant images called malignant",
    "specificity": "share of benign images called benign",
}


def counts_figure(counts: Mapping[str, Mapping[str, int]]) -> "Figure":
    """Draw the number of images by split and class, as in `Manifest.summary()["counts"]`."""
    bars = [(split, name, n) for split, by_class in counts.items() for name, n in by_class.items()]
    figure, axes = _figure(0.3 + 0.4 * len(bars))
    for row, (_, name, n) in enumerate(bars):
        axes.barh(row, n, edgecolor="white", **CLASS_STYLES[CLASSES.index(name)])
        axes.annotate(f"{n:,}", (n, row), xytext=(5, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(bars)), [f"{split}, {name}" for split, name, _ in bars])
    axes.set(xticks=[], title="images")
    axes.invert_yaxis()
    return figure


def image_grid(images: np.ndarray, labels: np.ndarray, captions: Sequence[str]) -> "Figure":
    """Draw images, captioned and framed by class; up to 24 stay legible in a card."""
    lines = 1 + max(caption.count("\n") for caption in captions)
    rows = math.ceil(len(images) / GRID_COLUMNS)
    figure, grid = _figure(rows * (1 + 0.18 * lines), rows, GRID_COLUMNS, squeeze=False)
    for axes in grid.flat[len(images) :]:
        axes.set_axis_off()
    for axes, image, label, caption in zip(grid.flat, images, labels, captions, strict=False):
        axes.imshow(image)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(visible=True, color=CLASS_STYLES[label]["color"], linewidth=2.5)
        axes.set_title(caption, fontsize=9, pad=4)
    return figure


def roc_figure(labels: np.ndarray, probabilities: np.ndarray, threshold: float = 0.5) -> "Figure":
    """Draw the ROC curve, its area and the operating point, or say that one class alone has none."""
    from sklearn.metrics import roc_auc_score, roc_curve

    figure, axes = _figure(5)
    if len(present := np.unique(labels)) < 2:
        axes.set_axis_off()
        axes.text(0.5, 0.5, f"No ROC curve: all images are {CLASSES[present[0]]}.", ha="center")
        return figure
    _, ((specificity, _), (_, sensitivity)) = _confusion(labels, probabilities, threshold)
    words = f"threshold {threshold:.2f}\nsensitivity {sensitivity:.3f}\nspecificity {specificity:.3f}"
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":")
    axes.text(0.62, 0.57, "chance", color=GREY)
    axes.plot(*roc_curve(labels, probabilities)[:2], color=BLUE, linewidth=2)
    axes.plot(1 - specificity, sensitivity, "o", color=VERMILION, markersize=9)
    axes.text(1.03 - specificity, sensitivity - 0.04, words, va="top")
    axes.set_title(f"AUROC {roc_auc_score(labels, probabilities):.3f}")
    axes.set(xlabel="1 - specificity (false positives)", ylabel="sensitivity (true positives)", aspect=1)
    return figure


def confusion_figure(labels: np.ndarray, probabilities: np.ndarray, threshold: float = 0.5) -> "Figure":
    """Draw the confusion matrix at `threshold`: counts, and their shares of the true class."""
    counts, shares = _confusion(labels, probabilities, threshold)
    figure, axes = _figure(3.4)
    axes.imshow(np.nan_to_num(shares), cmap="Blues", vmin=0, vmax=1.2, aspect="auto")
    for (truth, called), share in np.ndenumerate(shares):
        words = f"no {CLASSES[truth]} image" if np.isnan(share) else f"{share:.1%} of {CLASSES[truth]}"
        style = {"ha": "center", "color": "white" if share > 0.6 else "black"}
        axes.text(called, truth, f"{counts[truth, called]:,}", fontsize=20, **style)
        axes.text(called, truth + 0.25, words, **style)
    axes.set_xticks([0, 1], [f"called {name} at threshold {threshold:.2f}" for name in CLASSES])
    axes.set_yticks([0, 1], CLASSES)
    axes.tick_params(length=0, labelbottom=False, labeltop=True)
    axes.spines[:].set_visible(False)
    return figure


def score_histogram(labels: np.ndarray, probabilities: np.ndarray, threshold: float = 0.5) -> "Figure":
    """Draw how the probabilities of each class lie around `threshold`."""
    figure, rows = _figure(4.4, 2, sharex=True)
    for label, axes in enumerate(rows):
        scores = probabilities[labels == label]
        axes.hist(scores, bins=np.linspace(0, 1, 26), edgecolor="white", **CLASS_STYLES[label])
        axes.axvline(threshold, color="black", linestyle="--")
        called = f"{np.sum(scores >= threshold):,} called malignant at threshold {threshold:.2f}"
        axes.set_title(f"{CLASSES[label]}: {len(scores):,} images, {called}", loc="left", fontsize=11)
        axes.set(ylabel="images", xlim=(0, 1))
    axes.set_xlabel("predicted probability of malignant")
    return figure


def search_figure(leaderboard: "pd.DataFrame", histories: Histories, best_key: str) -> "Figure":
    """Draw the validation AUROC of the first 16 trials: of every epoch at the left, the best at the right."""
    figure, (curves, results) = _figure(5, 1, 2)
    shown = leaderboard.head(DRAWN_TRIALS)
    for row, trial in enumerate(shown.to_dict("records")):
        colour, line, marker = TRIAL_STYLES[row] if row < len(TRIAL_STYLES) else (GREY, "-", ".")
        history, best = histories[trial["trial"]], trial["trial"] == best_key
        epochs, aurocs = ([epoch[name] for epoch in history] for name in ("epoch", "validation_auroc"))
        style = {"color": colour, "linestyle": line, "linewidth": 3 if best else 1, "zorder": -row}
        curves.plot(epochs, aurocs, marker=marker, markersize=5, **style)
        auroc = trial["validation_auroc"]
        if math.isnan(auroc):
            results.text(0.03, row, trial["status"], va="center", transform=results.get_yaxis_transform())
            continue
        results.plot(auroc, row, color=colour, marker=marker, markersize=8)
        words = f"{auroc:.3f} best" if best else f"{auroc:.3f}"
        results.annotate(words, (auroc, row), xytext=(9, 0), textcoords="offset points", va="center")
    results.set_yticks(range(len(shown)), shown["trial"], fontsize=9)
    results.set(xlabel="best validation AUROC", ylim=(len(shown) - 0.5, -0.5))
    results.set_title(f"{len(shown)} of {len(leaderboard)} trials")
    results.margins(x=0.4)
    results.grid(axis="y", color="#dddddd")
    curves.set(xlabel="epoch", ylabel="validation AUROC")
    curves.xaxis.get_major_locator().set_params(integer=True)
    return figure


def ingest_card(card: Card, summary: Record, images: np.ndarray, labels: np.ndarray, synthetic: bool) -> None:
    """Show the data of a `Manifest.summary`: counts, some images, what was rejected and why, and the hash."""
    counts, rejected = summary["counts"], summary["rejected"]
    card.append(Markdown(f"# Data: {summary['n_images']:,} images\n\n{SYNTHETIC if synthetic else ''}"))
    rows = [[split, *(of[name] for name in CLASSES), sum(of.values())] for split, of in counts.items()]
    card.append(_table(rows, ["split", *CLASSES, "all"]))
    card.append(_picture(counts_figure(counts)))
    card.append(Markdown("## Examples"))
    card.append(_picture(image_grid(images, labels, [CLASSES[label] for label in labels]), "jpeg"))
    card.append(Markdown(f"## Rejected: {len(rejected):,}" if rejected else "Nothing was rejected."))
    if rejected:
        rows = [[file["key"], file["reason"]] for file in rejected[:SHOWN_REJECTED]]
        card.append(_table(rows, ["file", "reason"]))
    if len(rejected) > SHOWN_REJECTED:
        card.append(Markdown(f"The other {len(rejected) - SHOWN_REJECTED:,} are in the manifest."))
    card.append(Markdown(f"Manifest `{summary['hash']}` names these images, wherever they lie."))


class TrainingCard:
    """A live view of a trial; it refreshes the card itself, at most once in `REFRESH_SECONDS`."""

    def __init__(self, card: Card, trial: Record, epochs: int) -> None:
        """Show the hyperparameters in `trial`, and that none of `epochs` has ended yet."""
        self._card = card
        self._epochs = epochs
        self._summary = ""
        self._heading = Markdown("# Training")
        self._progress = ProgressBar(max=epochs, label="epoch")
        self._charts = [VegaChart(_chart([], epochs, *curves)) for curves in LIVE_CURVES.items()]
        table = _table([[_words(name), value] for name, value in trial.items()], ["hyperparameter", "value"])
        for component in (self._heading, self._progress, *self._charts, table):
            card.append(component)
        self._refresh()

    def update(self, history: History) -> None:
        """Show all epochs so far, at least one."""
        last, best = history[-1], max(history, key=lambda epoch: epoch["validation_auroc"])
        auroc = f"Best validation AUROC **{best['validation_auroc']:.3f}** in epoch {best['epoch']}"
        self._summary = f"{auroc}, {last['images_per_second']:,.0f} images/s"
        self._heading.update(f"# Training\n\n{self._summary}")
        self._progress.update(last["epoch"])
        for chart, curves in zip(self._charts, LIVE_CURVES.items(), strict=True):
            chart.update(_chart(history, self._epochs, *curves))
        if time.monotonic() - self._refreshed >= REFRESH_SECONDS:
            self._refresh()

    def finish(self, status: str, reason: str) -> None:
        """Show how the trial ended, as in `TrialResult`, and refresh at once."""
        words = reason.replace("<", "< ")  # or the card would take what follows for HTML
        self._heading.update(f"# Training: {status}\n\n{words}\n\n{self._summary}")
        self._refresh()

    def _refresh(self) -> None:
        self._card.refresh()
        self._refreshed = time.monotonic()


def select_card(card: Card, leaderboard: "pd.DataFrame", histories: Histories, best_key: str) -> None:
    """Show the search: a picture, a table of all trials with the best marked, and why trials failed."""
    failed = leaderboard.loc[leaderboard["validation_auroc"].isna(), ["trial", "status", "reason"]]
    card.append(Markdown(f"# Search: {len(leaderboard)} trials, {len(failed)} failed"))
    card.append(_picture(search_figure(leaderboard, histories, best_key)))
    table = leaderboard.drop(columns=["status", "reason"]).astype(object)
    table["trial"] = table["trial"].replace(best_key, f"{best_key} (best)")
    table["validation_auroc"] = table["validation_auroc"].map("{:.3f}".format, na_action="ignore")
    results = ("trial", "validation_auroc", "best_epoch", "epochs_trained", "seconds")
    same = [name for name in table if name not in results and table[name].nunique() == 1]
    varied = table.drop(columns=same)
    card.append(_table(varied.to_numpy(), [_words(name) for name in varied]))
    if same:
        card.append(Markdown("## The same in every trial"))
        rows = [[_words(name), table[name].iloc[0]] for name in same]
        card.append(_table(rows, ["hyperparameter", "value"]))
    if len(failed):
        card.append(Markdown("## Failed trials"))
        card.append(_table(failed.to_numpy(), list(failed)))


def evaluate_card(
    card: Card,
    labels: np.ndarray,
    probabilities: np.ndarray,
    metrics: Record,
    title: str,
    images: np.ndarray,
    synthetic: bool,
) -> None:
    """Show a model on test images: `metrics` as from `binary_metrics`, pictures, and its mistakes."""
    threshold = metrics["threshold"]
    card.append(Markdown(f"# Test: {title}\n\n{SYNTHETIC if synthetic else ''}"))
    rows = [[_words(name), value, MEANINGS.get(name, "")] for name, value in metrics.items()]
    card.append(_table(rows, ["metric", "value", "meaning"]))
    for draw in (roc_figure, confusion_figure, score_histogram):
        card.append(_picture(draw(labels, probabilities, threshold)))
    mistakes = np.flatnonzero((probabilities >= threshold) != labels)
    card.append(Markdown(f"## Mistakes: {len(mistakes):,} of {len(labels):,}, the surest first"))
    if len(mistakes):
        error = np.abs(labels - probabilities)[mistakes]
        surest = mistakes[np.argsort(-error, kind="stable")[:SHOWN_MISTAKES]]
        captions = [f"{CLASSES[labels[i]]}\nscored {probabilities[i]:.2f}" for i in surest]
        card.append(_picture(image_grid(images[surest], labels[surest], captions), "jpeg"))


def _figure(height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple["Figure", Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, height), layout="constrained")  # inches of 100 pixels as shown
    axes = figure.subplots(rows, columns, **options)
    for each in figure.axes:
        each.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _confusion(labels: np.ndarray, probabilities: np.ndarray, threshold: float) -> tuple[Any, Any]:
    """Count images by true class (row) and called class, also as shares of the true class (NaN if absent)."""
    counts = np.bincount(2 * labels + (probabilities >= threshold), minlength=4).reshape(2, 2)
    totals = counts.sum(axis=1, keepdims=True)
    return counts, counts / np.where(totals > 0, totals, np.nan)


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


def _chart(history: History, epochs: int, title: str, columns: list[str]) -> dict[str, Any]:
    """Specify curves over epochs in Vega-Lite: a few kilobytes, since each refresh sends them whole."""
    values = [{name: epoch[name] for name in ("epoch", *columns)} for epoch in history]
    ticks = {"tickMinStep": 1, "format": "d", "grid": False}
    x = {"field": "epoch", "type": "quantitative", "scale": {"domain": [0, epochs]}, "axis": ticks}
    layers: list[dict[str, Any]] = []
    for name, colour, dash, dy in zip(columns, (BLUE, VERMILION), ([1, 0], [6, 4]), (-7, 7), strict=False):
        y = {"field": name, "type": "quantitative", "title": title, "scale": {"zero": False, "padding": 12}}
        line = {"type": "line", "color": colour, "strokeDash": dash, "point": {"color": colour}}
        label = {"type": "text", "text": name.split("_")[0], "color": colour, "fontSize": 13}
        label |= {"align": "left", "dx": 8, "dy": dy}  # apart where the curves meet
        layers.append({"mark": line, "encoding": {"x": x, "y": y}})
        layers.append({"mark": label, "encoding": {"x": x, "y": y}, "data": {"values": values[-1:]}})
    config = {"axis": {"labelFontSize": 12, "titleFontSize": 13}, "view": {"stroke": None}}
    schema = "https://vega.github.io/schema/vega-lite/v5.json"
    return {"$schema": schema, "height": 200, "config": config, "data": {"values": values}, "layer": layers}
