"""Pictures of data and results.

A function takes data and returns a `matplotlib.figure.Figure` that belongs to no global state: 8 inches wide, at most
5 high, since a card shrinks what is higher, and no letter below 9 points. Nothing is said by colour alone; colours are
those of Okabe and Ito (https://jfly.uni-koeln.de/color/). Everywhere here

    labels          int (N,), index into `CLASSES`, so that 1 is malignant
    probabilities   float (N,) of being malignant, 0 to 1
    threshold       a probability at or above it is called malignant
    images          uint8 (N, height, width, 3)
    scores          SCORES of `evaluation.report`
    histories       by trial key, the records of its epochs as in `TrialResult.history`
    leaderboard     a row a trial: the chosen one first, failed ones last with NaN for what they lack
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from skinlib.console import estimate, number
from skinlib.dataset import CLASSES

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Record: TypeAlias = Mapping[str, Any]
History: TypeAlias = Sequence[Record]
Histories: TypeAlias = Mapping[str, History]

BLUE, VERMILION, GREY = "#0072B2", "#D55E00", "#767676"
CLASS_STYLES = ({"color": BLUE}, {"color": VERMILION, "hatch": "///"})
# Colour, line and marker of the best trials; the others are grey, since nobody can tell more lines apart.
TRIAL_STYLES = ((BLUE, "-", "o"), (VERMILION, "--", "s"), ("#009E73", "-.", "^"), ("#CC79A7", ":", "D"))
DRAWN_TRIALS = 16  # more rows are not legible in 5 inches
GRID_COLUMNS = 8
HEAT_COLUMNS = 4
CONTOUR = 0.5  # of the strongest heat


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
    """Draw up to 24 images, captioned and framed by class."""
    rows = math.ceil(len(images) / GRID_COLUMNS)
    figure, grid = _figure(rows * 1.18, rows, GRID_COLUMNS, squeeze=False)
    for axes in grid.flat[len(images) :]:
        axes.set_axis_off()
    for axes, image, label, caption in zip(grid.flat, images, labels, captions, strict=False):
        axes.imshow(image)
        _frame(axes, label)
        axes.set_title(caption, fontsize=9, pad=4)
    return figure


def heat_grid(images: np.ndarray, heat: np.ndarray, labels: np.ndarray, captions: Sequence[str]) -> "Figure":
    """Draw up to 16 images, each beside its Grad-CAM, captioned and framed by class.

    Args:
        images: uint8 (k, H, W, 3).
        heat: float (k, H, W) in 0..1, from `saliency.grad_cam`; brighter is more, and a line encloses what exceeds 0.5.
        labels: int (k,).
        captions: k of up to 24 letters.
    """
    rows = math.ceil(len(images) / HEAT_COLUMNS)
    figure, grid = _figure(rows * 1.2, rows, 2 * HEAT_COLUMNS, squeeze=False)
    pairs = grid.reshape(-1, 2)
    for axes in pairs[len(images) :].flat:
        axes.set_axis_off()
    for (plain, overlaid), image, hot, label, caption in zip(pairs, images, heat, labels, captions, strict=False):
        plain.imshow(image)
        overlaid.imshow(image.mean(axis=-1), cmap="gray", vmin=0, vmax=255)
        overlaid.imshow(hot, cmap="inferno", vmin=0, vmax=1, alpha=0.65 * hot)
        if hot.min() < CONTOUR < hot.max():
            overlaid.contour(hot, [CONTOUR], colors="black", linewidths=2.5)
            overlaid.contour(hot, [CONTOUR], colors="white", linewidths=1)
        for axes in (plain, overlaid):
            _frame(axes, label)
        plain.set_title(caption, fontsize=9, pad=4, loc="left")
    return figure


def roc_figure(scores: Record) -> "Figure":
    """Draw the ROC curve with its band, its area and the operating point, or say why there is none."""
    figure, axes = _figure(5)
    axes.set_title(f"AUROC {estimate(scores['auroc'])}")
    if scores["roc"] is None:
        axes.set_axis_off()
        axes.text(0.5, 0.5, f"No ROC curve: {_why_no_roc(scores['n'], scores['n_malignant'])}.", ha="center")
        return figure
    roc, point = scores["roc"], scores["operating_point"]
    rates = roc["false_positive_rate"]
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":")
    axes.text(0.64, 0.56, "chance", color=GREY)
    axes.fill_between(rates, roc["low"], roc["high"], color=BLUE, alpha=0.25, linewidth=0)
    axes.plot(rates, roc["sensitivity"], color=BLUE, linewidth=2)
    reached = point["specificity"]["value"], point["sensitivity"]["value"]
    axes.plot(1 - reached[0], reached[1], "o", color=VERMILION, markersize=9, markeredgecolor="white")
    words = [
        f"Dot: operating point, threshold {point['threshold']:.3f}",
        f"sensitivity {estimate(point['sensitivity'])}",
        f"specificity {estimate(point['specificity'])}",
    ]
    if scores["shortcut"] is not None:
        words += ["", "AUROC of colour alone", estimate(scores["shortcut"]["auroc"])]
    words += ["", "Band: 95%, for each point by itself"]
    axes.text(1.06, 0.02, "\n".join(words), linespacing=1.5)
    axes.set(xlabel="1 - specificity (false alarms)", ylabel="sensitivity (malignant found)", aspect=1, anchor="W")
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    return figure


def reliability_figure(calibration: Record) -> "Figure":
    """Draw observed against predicted shares of malignant, with Wilson's intervals, before and after scaling.

    Args:
        calibration: SCORES["calibration"] of `evaluation.report`; "before" may be None and is then left out.
    """
    shown = {when: calibration[when] for when in ("before", "after") if calibration[when] is not None}
    figure, grid = _figure(4.5, 1, len(shown), squeeze=False)
    for axes, (when, of) in zip(grid.flat, shown.items(), strict=True):
        predicted, observed = ([each[name] for each in of["bins"]] for name in ("predicted", "observed"))
        low, high = np.array([each["interval"] or [each["observed"]] * 2 for each in of["bins"]]).T
        bars = np.clip([observed - low, high - observed], 0, None)
        axes.plot([0, 1], [0, 1], color=GREY, linestyle=":")
        axes.errorbar(predicted, observed, bars, color=BLUE, linestyle="none", marker="o", capsize=3)
        chance = "" if of["ece_noise"] is None else f" (to {number(of['ece_noise'])} by chance)"
        words = f"{when} scaling\nECE {number(of['ece'])}{chance}\nBrier score {estimate(of['brier'])}"
        axes.set_title(words, fontsize=11, loc="left")
        axes.set(xlabel="predicted probability of malignant", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect=1)
    grid[0, 0].set_ylabel("observed share of malignant")
    grid[0, 0].text(0.03, 0.93, "observed more often\nthan predicted", fontsize=9, va="top", color=GREY)
    grid[0, 0].text(0.97, 0.05, "less often", fontsize=9, ha="right", color=GREY)
    return figure


def decision_figure(curve: Record, threshold: float) -> "Figure":
    """Draw the net benefit of acting on the model, on all images or on none, as in SCORES["decision_curve"]."""
    figure, axes = _figure(4)
    lines = {
        "model": (curve["model"], BLUE, "-", 2.5),
        "all called malignant": (curve["all_malignant"], VERMILION, "--", 1.5),
        "none called malignant": (np.zeros(len(curve["threshold"])), GREY, ":", 1.5),
    }
    for name, (benefit, colour, line, width) in lines.items():
        axes.plot(curve["threshold"], benefit, color=colour, linestyle=line, linewidth=width, label=name)
    # Taking all for malignant falls without end: what lies far below zero is of no use to anybody.
    top = max(0.01, *curve["model"], *curve["all_malignant"])
    axes.set(xlim=(0, 1), ylim=(-0.2 * top, 1.1 * top))
    axes.axvline(threshold, color="black", linestyle="--", linewidth=1)
    axes.annotate(
        f"operating point {threshold:.3f}",
        (threshold, 1.1 * top),
        xytext=(5 if threshold < 0.5 else -5, 0),
        textcoords="offset points",
        ha="left" if threshold < 0.5 else "right",
        va="top",
    )
    axes.set(xlabel="probability at which one would act", ylabel="net benefit, true positives per image")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.15), ncols=3, frameon=False, fontsize=10)
    return figure


def confusion_figure(labels: np.ndarray, probabilities: np.ndarray, threshold: float) -> "Figure":
    """Draw the confusion matrix: counts, and their shares of the true class."""
    counts = np.bincount(2 * labels + (probabilities >= threshold), minlength=4).reshape(2, 2)
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / np.where(totals > 0, totals, np.nan)
    figure, axes = _figure(3.4)
    axes.imshow(np.nan_to_num(shares), cmap="Blues", vmin=0, vmax=1.2, aspect="auto")
    for (truth, called), share in np.ndenumerate(shares):
        words = f"no {CLASSES[truth]} image" if np.isnan(share) else f"{share:.1%} of {CLASSES[truth]}"
        style = {"ha": "center", "color": "white" if share > 0.85 else "black"}
        axes.text(called, truth, f"{counts[truth, called]:,}", fontsize=20, **style)
        axes.text(called, truth + 0.25, words, **style)
    axes.set_xticks([0, 1], [f"called {name} at threshold {threshold:.3f}" for name in CLASSES])
    axes.set_yticks([0, 1], CLASSES)
    axes.tick_params(length=0, labelbottom=False, labeltop=True)
    axes.spines[:].set_visible(False)
    return figure


def score_histogram(labels: np.ndarray, probabilities: np.ndarray, threshold: float) -> "Figure":
    """Draw how the probabilities of each class lie around the threshold."""
    figure, rows = _figure(4.4, 2, sharex=True)
    for label, axes in enumerate(rows):
        scores = probabilities[labels == label]
        axes.hist(scores, bins=np.linspace(0, 1, 26), edgecolor="white", **CLASS_STYLES[label])
        axes.axvline(threshold, color="black", linestyle="--")
        called = f"{np.sum(scores >= threshold):,} called malignant at threshold {threshold:.3f}"
        axes.set_title(f"{CLASSES[label]}: {len(scores):,} images, {called}", loc="left", fontsize=11)
        axes.set(ylabel="images", xlim=(0, 1))
    axes.set_xlabel("predicted probability of malignant")
    return figure


def stress_figure(table: Sequence[Record]) -> "Figure":
    """Draw AUROC and sensitivity under each shift, beside the first row's, as from `stress.table`."""
    figure, panels = _figure(0.9 + 0.225 * len(table), 1, 2, sharey=True)
    rows = np.arange(len(table))
    for axes, name, title in zip(panels, ("auroc", "sensitivity"), ("AUROC", "sensitivity"), strict=True):
        values = np.array([math.nan if row[name] is None else row[name] for row in table])
        if math.isfinite(values[0]):
            # So much is always in view, since a fall by 0.001 must not look like one by 0.1.
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


def search_figure(leaderboard: "pd.DataFrame", histories: Histories) -> "Figure":
    """Draw the validation AUROC of the first 16 trials: of every epoch at the left, the best at the right.

    The best stands with its interval, and the AUROC that colour alone reaches on the same images as a line.
    """
    figure, (curves, results) = _figure(5, 1, 2)
    shown = leaderboard.head(DRAWN_TRIALS)
    for row, trial in enumerate(shown.to_dict("records")):
        colour, line, marker = TRIAL_STYLES[row] if row < len(TRIAL_STYLES) else (GREY, "-", ".")
        history, chosen = histories[trial["trial"]], row == 0
        epochs, aurocs = ([epoch[name] for epoch in history] for name in ("epoch", "validation_auroc"))
        style = {"color": colour, "linestyle": line, "linewidth": 3 if chosen else 1, "zorder": -row}
        curves.plot(epochs, aurocs, marker=marker, markersize=5, **style)
        auroc = trial["validation_auroc"]
        words = trial["status"] if math.isnan(auroc) else f"{auroc:.3f} chosen" if chosen else f"{auroc:.3f}"
        results.text(1.02, row, words, va="center", fontsize=9, transform=results.get_yaxis_transform())
        results.plot([trial["low"], trial["high"]], [row, row], color=colour, linewidth=3 if chosen else 1.5)
        results.plot(auroc, row, color=colour, marker=marker, markersize=8)
    shortcut = leaderboard["shortcut_auroc"][0]
    curves.axhline(shortcut, color="black", linestyle=":")
    results.axvline(shortcut, color="black", linestyle=":")
    results.set_yticks(range(len(shown)), shown["trial"], fontsize=9)
    results.set(xlabel="best validation AUROC", ylim=(len(shown) - 0.5, -0.5))
    results.set_title(f"{len(shown)} of {len(leaderboard)} trials")
    results.grid(axis="y", color="#dddddd")
    results.set_axisbelow(True)
    curves.set(xlabel="epoch", ylabel="validation AUROC")
    curves.set_title(f"dotted: colour alone, {shortcut:.3f}")
    curves.xaxis.get_major_locator().set_params(integer=True)
    return figure


def _figure(height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple["Figure", Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, height), layout="constrained")  # inches of 100 pixels as shown
    axes = figure.subplots(rows, columns, **options)
    for each in figure.axes:
        each.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _frame(axes: "Axes", label: int) -> None:
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(visible=True, color=CLASS_STYLES[label]["color"], linewidth=2.5)


def _why_no_roc(n: int, n_malignant: int) -> str:
    for name, count in zip(CLASSES, (n - n_malignant, n_malignant), strict=True):
        if count == n:
            return f"all images are {name}"
    rare = CLASSES[int(n_malignant < n - n_malignant)]
    return f"{rare} images are so few ({min(n_malignant, n - n_malignant):,}) that its band is undefined"
