"""Plots of data and results.

A function takes data and returns a `matplotlib.figure.Figure` without global state. A figure is 8 inches wide and at
most 5 high, since a card shrinks higher ones, and its text has at least 9 points. Nothing is shown by colour only; the
colours are those of Okabe and Ito (https://jfly.uni-koeln.de/color/). In all functions

    labels          int (N,), index into `CLASSES`, so that 1 is malignant
    probabilities   float (N,) of being malignant, 0 to 1
    threshold       an image with this probability or a higher one is classified as malignant
    images          uint8 (N, height, width, 3)
    histories       the epochs of each trial by its key
    leaderboard     from `selection.leaderboard`: a row per trial, the chosen one first, failed ones last with NaN
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skinlib.audit.baselines import COLOURS
from skinlib.data.manifest import CLASSES
from skinlib.evaluation.metrics import DecisionCurve
from skinlib.evaluation.scores import BeforeAndAfter, Calibration, Scores
from skinlib.evaluation.stress import StressRow
from skinlib.reporting.numbers import calibration_error, estimate, number
from skinlib.training.result import Epoch

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, VERMILION, GREY = "#0072B2", "#D55E00", "#767676"
CLASS_STYLES = ({"color": BLUE}, {"color": VERMILION, "hatch": "///"})
# Colour, line and marker of the best trials. The others are grey: more lines cannot be told apart.
TRIAL_STYLES = ((BLUE, "-", "o"), (VERMILION, "--", "s"), ("#009E73", "-.", "^"), ("#CC79A7", ":", "D"))
DRAWN_TRIALS = 16  # more rows are not legible in 5 inches
GRID_COLUMNS = 8
CONTOUR = 0.5  # of the strongest heat


def image_grid(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    captions: Sequence[str],
    heat: NDArray[np.float32] | None = None,
) -> "Figure":
    """Draw up to 24 images, each with its caption and a frame in the colour of its class.

    Args:
        images: uint8 (k, H, W, 3).
        labels: int (k,).
        captions: k texts; with `heat`, of up to 24 letters.
        heat: float32 (k, H, W) in 0..1, from `saliency.heat_maps`, shown next to each of up to 16 images; a line
            encloses what exceeds 0.5.
    """
    each = 1 if heat is None else 2
    rows = math.ceil(each * len(images) / GRID_COLUMNS)
    figure, grid = _figure(rows * 1.2, rows, GRID_COLUMNS, squeeze=False)
    cells = grid.reshape(-1, each)
    for axes in cells[len(images) :].flat:
        axes.set_axis_off()
    for index, (cell, image, label) in enumerate(zip(cells, images, labels, strict=False)):
        cell[0].imshow(image)
        cell[0].set_title(captions[index], fontsize=9, pad=4, loc="left" if each == 2 else "center")
        if heat is not None:
            _overlay(cell[1], image, heat[index])
        for axes in cell:
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(visible=True, color=CLASS_STYLES[label]["color"], linewidth=2.5)
    return figure


def _overlay(axes: "Axes", image: NDArray[np.uint8], heat: NDArray[np.float32]) -> None:
    axes.imshow(image.mean(axis=-1), cmap="gray", vmin=0, vmax=255)
    axes.imshow(heat, cmap="inferno", vmin=0, vmax=1, alpha=0.65 * heat)
    if heat.min() < CONTOUR < heat.max():
        axes.contour(heat, [CONTOUR], colors="black", linewidths=2.5)
        axes.contour(heat, [CONTOUR], colors="white", linewidths=1)


def roc_figure(scores: Scores) -> "Figure":
    """Draw the ROC curve with its band, AUROC and operating point, or say why there is none."""
    figure, axes = _figure(5)
    axes.set_title(f"AUROC {estimate(scores['auroc'])}")
    if scores["roc"] is None:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "No ROC curve: too few images of a class.", ha="center")
        return figure
    roc, point = scores["roc"], scores["operating_point"]
    rates = roc["false_positive_rate"]
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":")
    axes.text(0.64, 0.56, "chance", color=GREY)
    axes.fill_between(rates, roc["low"], roc["high"], color=BLUE, alpha=0.25, linewidth=0)
    axes.plot(rates, roc["sensitivity"], color=BLUE, linewidth=2)
    sensitivity, specificity = point["sensitivity"], point["specificity"]
    if sensitivity["value"] is not None and specificity["value"] is not None:  # both classes are there
        dot = {"color": VERMILION, "markersize": 9, "markeredgecolor": "white"}
        axes.plot(1 - specificity["value"], sensitivity["value"], "o", **dot)
    words = f"""Dot: operating point, threshold {point["threshold"]:.3f}
sensitivity {estimate(sensitivity)}
specificity {estimate(specificity)}

AUROC of the colour baseline
{estimate(scores["baselines"][COLOURS]["auroc"])}

Band: pointwise 95% interval"""
    axes.text(1.06, 0.02, words, linespacing=1.5)
    axes.set(xlabel="1 - specificity (false positive rate)", ylabel="sensitivity (true positive rate)")
    axes.set(aspect=1, anchor="W")
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    return figure


def reliability_figure(calibration: BeforeAndAfter) -> "Figure":
    """Draw the observed rate of malignant images against the predicted one, with intervals, before and after."""
    figure, panels = _figure(4.5, 1, 2)
    for axes, when, of in zip(panels, ("before", "after"), (calibration["before"], calibration["after"]), strict=True):
        _reliability(axes, of)
        error = calibration_error(of)
        words = f"{when} scaling\nECE {error}\nBrier score {estimate(of['brier'])}"
        axes.set_title(words, fontsize=11, loc="left")
    panels[0].set_ylabel("observed rate of malignant images")
    panels[0].text(0.03, 0.93, "prediction too low", fontsize=9, va="top", color=GREY)
    panels[0].text(0.97, 0.05, "prediction too high", fontsize=9, ha="right", color=GREY)
    return figure


def _reliability(axes: "Axes", of: Calibration) -> None:
    predicted = [each["predicted"] for each in of["bins"]]
    observed = np.array([each["observed"] for each in of["bins"]], np.float64)
    low, high = np.array([each["interval"] or (each["observed"],) * 2 for each in of["bins"]], np.float64).T
    bars = np.clip([observed - low, high - observed], 0, None)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":")
    axes.errorbar(predicted, observed, bars, color=BLUE, linestyle="none", marker="o", capsize=3)
    axes.set(xlabel="predicted probability of malignancy", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect=1)


def decision_figure(curve: DecisionCurve, threshold: float) -> "Figure":
    """Draw the net benefit of the model, and of classifying all images or none as malignant."""
    figure, axes = _figure(4)
    lines = {
        "model": (curve["model"], BLUE, "-", 2.5),
        "all classified as malignant": (curve["all_malignant"], VERMILION, "--", 1.5),
        "none": (np.zeros(len(curve["threshold"])), GREY, ":", 1.5),
    }
    for name, (benefit, colour, line, width) in lines.items():
        axes.plot(curve["threshold"], benefit, color=colour, linestyle=line, linewidth=width, label=name)
    # Classifying all as malignant falls to -59; only benefits near and above zero are useful.
    top = max(0.01, *curve["model"], *curve["all_malignant"])
    axes.set(xlim=(0, 1), ylim=(-0.2 * top, 1.1 * top))
    axes.axvline(threshold, color="black", linestyle="--", linewidth=1)
    axes.annotate(
        f"operating point: threshold {threshold:.3f}",
        (threshold, 1.1 * top),
        xytext=(5 if threshold < 0.5 else -5, 0),
        textcoords="offset points",
        ha="left" if threshold < 0.5 else "right",
        va="top",
    )
    axes.set(xlabel="decision threshold", ylabel="net benefit (true positives per image)")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.15), ncols=3, frameon=False, fontsize=10)
    return figure


def confusion_figure(labels: NDArray[np.int64], probabilities: NDArray[np.float64], threshold: float) -> "Figure":
    """Draw the confusion matrix: counts, and their percentage of the true class."""
    counts = np.bincount(2 * labels + (probabilities >= threshold), minlength=4).reshape(2, 2)
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / np.where(totals > 0, totals, np.nan)
    figure, axes = _figure(3.4)
    axes.imshow(np.nan_to_num(shares), cmap="Blues", vmin=0, vmax=1.2, aspect="auto")
    for (truth, decision), share in np.ndenumerate(shares):
        words = f"no {CLASSES[truth]} image" if np.isnan(share) else f"{share:.1%} of {CLASSES[truth]}"
        style = {"ha": "center", "color": "white" if share > 0.85 else "black"}
        axes.text(decision, truth, f"{counts[truth, decision]:,}", fontsize=20, **style)
        axes.text(decision, truth + 0.25, words, **style)
    axes.set_xticks([0, 1], [f"classified as {name} (threshold {threshold:.3f})" for name in CLASSES])
    axes.set_yticks([0, 1], CLASSES)
    axes.tick_params(length=0, labelbottom=False, labeltop=True)
    axes.spines[:].set_visible(False)
    return figure


def score_histogram(labels: NDArray[np.int64], probabilities: NDArray[np.float64], threshold: float) -> "Figure":
    """Draw the distribution of the probabilities of each class, and the threshold."""
    figure, rows = _figure(4.4, 2, sharex=True)
    for label, axes in enumerate(rows):
        scores = probabilities[labels == label]
        axes.hist(scores, bins=np.linspace(0, 1, 26), edgecolor="white", **CLASS_STYLES[label])
        axes.axvline(threshold, color="black", linestyle="--")
        positives = f"{np.sum(scores >= threshold):,} classified as malignant (threshold {threshold:.3f})"
        axes.set_title(f"{CLASSES[label]}: {len(scores):,} images, {positives}", loc="left", fontsize=11)
        axes.set(ylabel="images", xlim=(0, 1))
    axes.set_xlabel("predicted probability of malignancy")
    return figure


def stress_figure(table: Sequence[StressRow]) -> "Figure":
    """Draw AUROC and sensitivity under each shift next to those of the unchanged images, from `stress.table`."""
    figure, panels = _figure(0.9 + 0.225 * len(table), 1, 2, sharey=True)
    rows = np.arange(len(table))
    metrics = {"AUROC": [row["auroc"] for row in table], "sensitivity": [row["sensitivity"] for row in table]}
    for axes, (title, of) in zip(panels, metrics.items(), strict=True):
        values = np.array(of, np.float64)  # None becomes NaN
        if math.isfinite(values[0]):
            # A range of at least 0.1, so that a fall by 0.001 does not look large.
            axes.set_xlim(min(np.nanmin(values), values[0] - 0.1) - 0.01, np.nanmax(values) + 0.01)
            axes.axvline(values[0], color="black", linestyle="--", linewidth=1)
            axes.hlines(rows, values[0], values, color=BLUE, linewidth=2)
        axes.plot(values, rows, "o", color=BLUE, markersize=6)
        for row, value in enumerate(values):
            words = number(None if math.isnan(value) else value)
            axes.text(1.02, row, words, transform=axes.get_yaxis_transform(), va="center", fontsize=9)
        axes.set(title=f"{title} (dashed: unchanged)", ylim=(len(table) - 0.5, -0.5))
        axes.tick_params(labelsize=9)
        axes.grid(axis="y", color="#dddddd")
        axes.set_axisbelow(True)
    panels[0].set_yticks(rows, [row["name"] for row in table], fontsize=9)
    return figure


def search_figure(leaderboard: "pd.DataFrame", histories: Mapping[str, Sequence[Epoch]]) -> "Figure":
    """Draw the validation AUROC of the first 16 trials: every epoch on the left, the best with interval on the right.

    A dotted line shows the AUROC of the colour baseline on the same images.
    """
    figure, (curves, results) = _figure(5, 1, 2)
    shown = leaderboard.head(DRAWN_TRIALS)
    for row, trial in enumerate(shown.to_dict("records")):
        colour, line, marker = TRIAL_STYLES[row] if row < len(TRIAL_STYLES) else (GREY, "-", ".")
        history, chosen = histories[trial["trial"]], row == 0
        epochs, aurocs = [epoch["epoch"] for epoch in history], [epoch["validation_auroc"] for epoch in history]
        style = {"color": colour, "linestyle": line, "linewidth": 3 if chosen else 1, "zorder": -row}
        curves.plot(epochs, aurocs, marker=marker, markersize=5, **style)
        auroc = trial["validation_auroc"]
        words = trial["status"] if math.isnan(auroc) else f"{auroc:.3f} chosen" if chosen else f"{auroc:.3f}"
        results.text(1.02, row, words, va="center", fontsize=9, transform=results.get_yaxis_transform())
        results.plot([trial["low"], trial["high"]], [row, row], color=colour, linewidth=3 if chosen else 1.5)
        results.plot(auroc, row, color=colour, marker=marker, markersize=8)
    colours = leaderboard[f"{COLOURS}_auroc"][0]
    curves.axhline(colours, color="black", linestyle=":")
    results.axvline(colours, color="black", linestyle=":")
    results.set_yticks(range(len(shown)), shown["trial"], fontsize=9)
    results.set(xlabel="best validation AUROC", ylim=(len(shown) - 0.5, -0.5))
    results.set_title(f"{len(shown)} of {len(leaderboard)} trials")
    results.grid(axis="y", color="#dddddd")
    results.set_axisbelow(True)
    curves.set(xlabel="epoch", ylabel="validation AUROC")
    curves.set_title(f"dotted: colour baseline, {colours:.3f}")
    curves.xaxis.get_major_locator().set_params(integer=True)
    return figure


def _figure(
    height: float, rows: int = 1, columns: int = 1, squeeze: bool = True, sharex: bool = False, sharey: bool = False
) -> tuple["Figure", Any]:  # Any as in matplotlib: one Axes or an array of Axes
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, height), layout="constrained")  # a card shows 100 pixels per inch
    axes = figure.subplots(rows, columns, squeeze=squeeze, sharex=sharex, sharey=sharey)
    for each in figure.axes:
        each.spines[["top", "right"]].set_visible(False)
    return figure, axes
