"""The Metaflow cards of a run: what each step found, in words, tables and pictures.

A card function fills `current.card["id"]`. Everywhere here

    labels          int (N,), index into `CLASSES`, so that 1 is malignant
    probabilities   float (N,) of being malignant, 0 to 1
    images          uint8 (N, height, width, 3)
    histories       by trial key, the records of its epochs as in `TrialResult.history`
"""

import io
import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from metaflow.cards import Image, Markdown, ProgressBar, Table, VegaChart

from skinlib import figures
from skinlib.console import estimate, estimate_in, number
from skinlib.dataset import CLASSES
from skinlib.evaluation import SENSITIVITIES, SPECIFICITIES
from skinlib.figures import BLUE, VERMILION, Histories, History, Record

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

Card: TypeAlias = Any  # of which only append(component) and refresh() are used

SHOWN_FILES = 50  # and pairs of files
REFRESH_SECONDS = 5.0  # each refresh starts a Python process
LIVE_CURVES = {"AUROC": ["validation_auroc"], "loss": ["validation_loss", "train_loss"]}
SYNTHETIC = "**These images are synthetic.** Results on them show that the pipeline works and nothing else."
AUDIT = {
    "label_conflicts": (
        "Contradicting labels",
        "The same pixels in both classes: at least one of the two labels is wrong, and no model can learn both.",
    ),
    "doubtful_labels": (
        "Doubtful labels",
        "Nearly the same picture in both classes: probably one lesion with a wrong label; look at both.",
    ),
    "leaks": (
        "Leaks",
        "A test image with a twin in training: the model may know it by heart. Test results are also given without.",
    ),
    "exact_duplicates": ("Exact duplicates", "The same pixels twice: they count double and teach nothing new."),
    "near_duplicates": (
        "Near-duplicates",
        "One lesion photographed twice, or one photograph turned, cropped or saved again: kept on one side of the "
        "line between training and validation.",
    ),
}
SHORTCUT = (
    "A logistic regression on nothing but each image's mean and deviation of red, green and blue: it has seen no lesion"
)
# What a metric is called, where it stands in SCORES of `evaluation.report`, and what it means.
Metric: TypeAlias = tuple[str, tuple[str | int, ...], str]
RANKING: list[Metric] = [
    ("AUROC", ("auroc",), "chance that a malignant image scores above a benign one"),
    ("AUROC of colour alone", ("shortcut", "auroc"), "the same without having seen a lesion"),
    ("difference", ("shortcut", "difference"), "between the two on the same images (DeLong)"),
    ("average precision", ("average_precision",), "precision, averaged over all sensitivities"),
    *(
        (
            f"{measured} at {at:.0%} {given}",
            (f"{measured}_at_{given}", i),
            f"share of {theirs} images called so, when {at:.0%} of {others} ones are",
        )
        for measured, theirs, given, others, levels in (
            ("specificity", "benign", "sensitivity", "malignant", SENSITIVITIES),
            ("sensitivity", "malignant", "specificity", "benign", SPECIFICITIES),
        )
        for i, at in enumerate(levels)
    ),
]
OPERATING_POINT: list[Metric] = [
    ("sensitivity", ("operating_point", "sensitivity"), "share of malignant images called malignant"),
    ("specificity", ("operating_point", "specificity"), "share of benign images called benign"),
    ("accuracy", ("operating_point", "accuracy"), "share of all images called rightly"),
]
CALIBRATION: list[Metric] = [
    (f"{name} {when} scaling", ("calibration", when, key), meaning)
    for when in ("before", "after")
    for name, key, meaning in (
        ("Brier score", "brier", "mean squared error of the probability; 0 is perfect"),
        ("ECE", "ece", "mean distance of predicted and observed shares, in 15 bins"),
        ("ECE by chance", "ece_noise", "95% of perfectly calibrated models would show less"),
    )
]
CALLS = {(1, False): "missed", (0, True): "false alarm", (1, True): "found", (0, False): "cleared"}
GRAD_CAM = """Each image stands beside its Grad-CAM: the brighter, the more that part spoke for what the model called
the image; the line encloses what spoke at least half as much as the strongest part. *Missed* is malignant but called
benign, a *false alarm* is benign but called malignant; *found* and *cleared* are right. Of each kind the surest calls
are shown, so these are no typical images.

What this does not prove: the map is coarse (a cell is 32 pixels of what the network sees); it shows where the model
looked and not what it saw there; and heat on the lesion does not make the reason a medical one, since colour alone
would look the same. Heat beside the lesion, on hair, a ruler or a dark corner, is a warning. No heat at all means that
nothing in the last layers spoke for the call."""


def ingest_card(
    card: Card,
    summary: Record,
    audit: Record,
    images: np.ndarray,
    labels: np.ndarray,
    shortcut_auroc: float | None,
    synthetic: bool,
) -> None:
    """Show what the data consist of and what is wrong with them.

    Args:
        card: to fill.
        summary: from `Manifest.summary`.
        audit: from `Audit.to_dict`: lists of pairs of keys by the names in `AUDIT`, `n_groups`, `statistics`.
        images: some examples, up to 24.
        labels: theirs.
        shortcut_auroc: what colour alone reaches on the validation images, None if undefined.
        synthetic: whether the images are the generated sample.
    """
    counts, rejected = summary["counts"], summary["rejected"]
    card.append(Markdown(f"# Data: {summary['n_images']:,} images\n\n{SYNTHETIC if synthetic else ''}"))
    rows = [[split, *(of[name] for name in CLASSES), sum(of.values())] for split, of in counts.items()]
    card.append(_table(rows, ["split", *CLASSES, "all"]))
    card.append(_picture(figures.counts_figure(counts)))
    card.append(Markdown("## Examples"))
    card.append(_picture(figures.image_grid(images, labels, [CLASSES[label] for label in labels]), "jpeg"))
    words = f"{SHORTCUT}. What a model has learnt of lesions is at most what it reaches above this."
    card.append(Markdown(f"## Colour alone: AUROC {number(shortcut_auroc)} on the validation images\n\n{words}"))
    classes = {
        f"{split}, {name}": of for split, by_class in audit["statistics"].items() for name, of in by_class.items()
    }
    names = next(iter(classes.values()))
    rows = [[name, *(number(of[name]) for of in classes.values())] for name in names]
    card.append(_table(rows, ["mean over the images, of 1", *classes]))
    words = f"The images form {audit['n_groups']:,} groups; a group is joined by duplicates, and probably one lesion."
    card.append(Markdown(f"## Audit\n\n{words}"))
    rows = [[title, len(audit[name]), meaning] for name, (title, meaning) in AUDIT.items()]
    card.append(_table(rows, ["finding", "pairs", "meaning"]))
    for name, (title, _) in AUDIT.items():
        _files(card, title, audit[name], ["one image", "the other"], "audit")
    if not rejected:
        card.append(Markdown("Nothing was rejected."))
    _files(card, "Rejected", [(file["key"], file["reason"]) for file in rejected], ["file", "reason"], "manifest")
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

    def finish(self, status: str, reason: str, above_shortcut: Record) -> None:
        """Show how the trial ended and how it stands to colour alone, and refresh at once.

        Args:
            status: as in `TrialResult`.
            reason: as there.
            above_shortcut: from `selection.against_shortcut`.
        """
        words = reason.replace("<", "< ")  # or the card would take what follows for HTML
        note = _versus_shortcut(*_compared(above_shortcut)) if "above_shortcut" in above_shortcut else ""
        parts = [f"# Training: {status}", words, self._summary, note]
        self._heading.update("\n\n".join(part for part in parts if part))
        self._refresh()

    def _refresh(self) -> None:
        self._card.refresh()
        self._refreshed = time.monotonic()


def select_card(card: Card, leaderboard: "pd.DataFrame", histories: Histories, reason: str) -> None:
    """Show the search: why the first row of a leaderboard was chosen, a picture, all trials, and why some failed.

    Args:
        card: to fill.
        leaderboard: from `selection.leaderboard`, the chosen trial first; NaN stands for what a failed trial lacks.
        histories: of every trial.
        reason: a sentence that says why the first was chosen.
    """
    failed = leaderboard.loc[leaderboard["status"] != "finished", ["trial", "status", "reason"]]
    chosen = leaderboard.iloc[0]
    card.append(Markdown(f"# Search: {len(leaderboard)} trials, {len(failed)} failed\n\n{reason}"))
    compared = "Validation images chose it, so expect a little less on others."
    card.append(Markdown(f"{_versus_shortcut(*_compared(chosen))} {SHORTCUT}. {compared}"))
    card.append(_picture(figures.search_figure(leaderboard, histories)))
    trials = leaderboard.to_dict("records")
    names = [f"{chosen['trial']} (chosen)", *leaderboard["trial"][1:]]
    hyperparameters = list(leaderboard.columns[list(leaderboard.columns).index("seconds") + 1 :])
    varied = [name for name in hyperparameters if leaderboard[name].nunique(dropna=False) > 1]
    rows = [[name, *_comparison(trial)] for name, trial in zip(names, trials, strict=True)]
    heads = ["validation AUROC", "behind best (std. error)", "above colour alone", "multiply-adds"]
    card.append(_table(rows, ["trial", *heads]))
    card.append(Markdown("## How they were trained"))
    shown = [*varied, "best_epoch", "epochs_trained", "seconds"]
    rows = [[name, *(trial[column] for column in shown)] for name, trial in zip(names, trials, strict=True)]
    card.append(_table(rows, ["trial", *map(_words, shown)]))
    if same := [[_words(name), chosen[name]] for name in hyperparameters if name not in varied]:
        card.append(Markdown("## The same in every trial"))
        card.append(_table(same, ["hyperparameter", "value"]))
    if len(failed):
        card.append(Markdown("## Failed trials"))
        card.append(_table(failed.to_numpy(), list(failed)))


def evaluate_card(
    card: Card,
    report: Record,
    labels: np.ndarray,
    probabilities: np.ndarray,
    *,
    stress: Sequence[Record],
    examples: np.ndarray,
    images: np.ndarray,
    heat: np.ndarray,
    title: str,
    model_card: str,
    synthetic: bool,
) -> None:
    """Show all that is known of a model on the test images.

    Args:
        card: to fill.
        report: from `evaluation.report`.
        labels: of all test images.
        probabilities: of all test images, as they are served.
        stress: from `stress.table`.
        examples: int (k,), which of the test images are shown, up to 16, as from `saliency.examples`.
        images: uint8 (k, 224, 224, 3), those.
        heat: float32 (k, 224, 224), theirs from `saliency.grad_cam`.
        title: of the model, such as its trial's key.
        model_card: in Markdown.
        synthetic: whether the images are the generated sample.
    """
    scores, threshold = report["all"], report["threshold"]
    point = scores["operating_point"]
    columns = {"all test images": scores}
    if report["without_twins"] is not None:
        columns["without twins in training"] = report["without_twins"]

    card.append(Markdown(f"# Test: {title}\n\n{SYNTHETIC if synthetic else ''}"))
    card.append(Markdown(_headline(report)))
    _metrics(card, columns, RANKING)
    card.append(_picture(figures.roc_figure(scores)))

    missed, alarms = point["false_negatives"], point["false_positives"]
    words = f"At {threshold:.3f} or above an image is called malignant. The threshold was chosen on validation images."
    mistakes = f"{missed:,} of {scores['n_malignant']:,} malignant test images were missed; {alarms:,} of "
    mistakes += f"{scores['n'] - scores['n_malignant']:,} benign ones were false alarms."
    card.append(Markdown(f"## Operating point: {threshold:.3f}\n\n{words} {mistakes}"))
    _metrics(card, columns, OPERATING_POINT)
    card.append(_picture(figures.confusion_figure(labels, probabilities, threshold)))
    card.append(_picture(figures.score_histogram(labels, probabilities, threshold)))

    words = "What a call is worth depends on how common malignant lesions are among those who are looked at."
    card.append(Markdown(f"## Predictive values\n\n{words}"))
    called = {
        "ppv": "PPV: share of those called malignant that are",
        "npv": "NPV: share of those called benign that are",
    }
    for name, meaning in called.items():
        by_column = [of["operating_point"]["predictive_values"] for of in columns.values()]
        values = [
            [f"{row[0]['prevalence']:.0%}", *(estimate(of[name]) for of in row)] for row in zip(*by_column, strict=True)
        ]
        card.append(_table(values, [f"{meaning}, if so many are malignant", *columns]))
    words = """Net benefit counts true positives per image, less false alarms at the price that goes with the \
probability at which one would act. A model is of use where its line is the highest. It holds for as many malignant \
images as there are here, far more than in practice."""
    card.append(Markdown(f"## Decision curve\n\n{words}"))
    card.append(_picture(figures.decision_figure(scores["decision_curve"], threshold)))

    words = "Of the images that were given a probability of 0.8, about 80% should be malignant."
    if scores["calibration"]["before"] is not None:
        words += " The temperature that scales them was fitted on validation images."
    card.append(Markdown(f"## Calibration\n\n{words}"))
    _metrics(card, columns, CALIBRATION)
    card.append(_picture(figures.reliability_figure(scores["calibration"])))

    words = "The same test images as another camera, clinic or hand would have made them."
    card.append(Markdown(f"## Under stress\n\n{words}"))
    card.append(_picture(figures.stress_figure(stress)))
    names = ("auroc", "auroc_change", "sensitivity", "specificity", "probability_change")
    rows = [[row["name"], *(number(row[name]) for name in names)] for row in stress]
    heads = ["images", "AUROC", "its change", "sensitivity", "specificity", "mean change of the probability"]
    card.append(_table(rows, heads))

    card.append(Markdown(f"## Where it looked\n\n{GRAD_CAM}"))
    if len(examples):
        truths, shown = labels[examples], probabilities[examples]
        called_malignant = shown >= threshold
        captions = [
            f"{CALLS[int(truth), bool(call)]}, scored {probability:.2f}"
            for truth, call, probability in zip(truths, called_malignant, shown, strict=True)
        ]
        card.append(_picture(figures.heat_grid(images, heat, truths, captions), "jpeg"))
    card.append(Markdown(model_card))


def _headline(report: Record) -> str:
    scores = report["all"]
    images = f"{scores['n']:,} test images, {scores['n_malignant']:,} of them malignant"
    parts = [f"**AUROC {estimate(scores['auroc'])}** on {images}; in brackets 95% intervals."]
    if (shortcut := scores["shortcut"]) is not None:
        parts.append(f"{_versus_shortcut(shortcut['auroc'], shortcut['difference'])} {SHORTCUT}.")
    n = report["n_twins"]
    if n is None:
        parts.append("Nobody looked for near-duplicates of test images in training.")
    elif n == 0:
        parts.append("No test image has a near-duplicate in training.")
    else:
        parts.append(f"{n:,} test images have a twin, a near-duplicate, in training and may flatter the model.")
    return "\n\n".join(parts)


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


def _comparison(trial: Record) -> list[str]:
    """Say how a trial did and what it costs, from its row of a leaderboard."""
    behind, error, millions = trial["behind_best"], trial["standard_error"], f"{trial['multiply_adds'] / 1e6:,.0f} M"
    if math.isnan(behind):
        return ["-", "-", "-", millions]
    auroc = estimate_in(trial, "validation_auroc", "low", "high")
    distance = f"{number(behind)} ({number(error)})" if behind else "best"
    return [_unbroken(words) for words in (estimate(auroc), distance, estimate(_compared(trial)[1]), millions)]


def _metrics(card: Card, columns: Mapping[str, Record], metrics: Sequence[Metric]) -> None:
    """Show metrics of some SCORES, each by its heading, and leave out what none of these has."""
    rows = [[name, *(_read(of, path) for of in columns.values()), meaning] for name, path, meaning in metrics]
    card.append(_table([row for row in rows if row[1] is not None], ["metric", *columns, "meaning"]))


def _read(of: Any, path: Sequence[str | int]) -> str | None:
    for key in path[:-1]:
        of = of[key]
        if of is None:
            return None
    value = of[path[-1]]
    return _unbroken(estimate(value) if isinstance(value, dict) else number(value))


def _unbroken(words: str) -> str:
    return words.replace(" ", "\N{NO-BREAK SPACE}")


def _files(card: Card, title: str, rows: Sequence[Sequence[str]], headers: Sequence[str], whole: str) -> None:
    """Show the first files, or pairs of them, and how many more are in the artifact `whole`."""
    if not rows:
        return
    card.append(Markdown(f"## {title}: {len(rows):,}"))
    card.append(_table(rows[:SHOWN_FILES], headers))
    if len(rows) > SHOWN_FILES:
        card.append(Markdown(f"The other {len(rows) - SHOWN_FILES:,} are in the {whole}."))


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
