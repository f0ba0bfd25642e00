"""Printed reports, and the words and number formats that they share with the cards."""

import math
import re
from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any, Literal

from skinlib.audit.baselines import COLOURS, column
from skinlib.audit.findings import AuditSummary, Pairs
from skinlib.audit.shortcut import STATISTICS, ColourDistance
from skinlib.audit.traces import Standout
from skinlib.data.manifest import CLASSES
from skinlib.data.upload import Upload
from skinlib.evaluation.intervals import Estimate
from skinlib.evaluation.metrics import DecisionCurve
from skinlib.evaluation.scores import AgainstBaseline, OperatingPoint, Report
from skinlib.reporting.baseline_words import TITLES, strongest_trace, trace_words
from skinlib.reporting.numbers import estimate, number
from skinlib.reporting.report_tables import Section, differences, metric_rows, sources, subgroups

if TYPE_CHECKING:
    import pandas as pd

COLOUR_BASELINE = (
    "The colour baseline is a logistic regression on each image's mean and standard deviation of red, green and blue. "
    "It does not see the lesion."
)

FindingName = Literal["label_conflicts", "doubtful_labels", "leaks", "exact_duplicates", "same_lesions"]
# The findings of an audit, the most serious first: title and meaning.
FINDINGS: dict[FindingName, tuple[str, str]] = {
    "label_conflicts": (
        "Label conflicts",
        "Identical pixels in both classes. At least one of the two labels is wrong, and no model can learn both.",
    ),
    "doubtful_labels": (
        "Doubtful labels",
        "Images of one lesion in both classes. One label is probably wrong: check both images.",
    ),
    "leaks": (
        "Leakage",
        "A test image with a twin in training, which the model may have memorised. Test results are also given "
        "without these images.",
    ),
    "exact_duplicates": ("Exact duplicates", "Identical pixels. They count twice and add no information."),
    "same_lesions": (
        "Same lesion",
        "One lesion in two photographs, or one photograph turned, cropped or saved again. The split keeps them "
        "together, in training or in validation.",
    ),
}

# Distances in colour, in standard deviations of the training images.
_CLOSE, _FAR = 0.5, 1.0
_SHOWN_THRESHOLDS = (5, 10, 20, 50)  # percent, of the decision curve
_SUMMARY_METRICS = (
    "AUROC",
    "AUROC of the colour baseline",
    "gain over the colour baseline",
    "AUROC of the file traces alone",
    "AUROC of the source alone",
    "sensitivity",
    "specificity",
    "accuracy",
)


def estimate_from(value: float | None, low: float | None = None, high: float | None = None) -> Estimate:
    """Make a metric with its interval from cells of a leaderboard, where NaN and None are undefined."""
    known, *ends = (None if cell != cell else cell for cell in (value, low, high))
    interval = [end for end in ends if end is not None]
    return {"value": known, "interval": interval if len(interval) == 2 else None}


def named(model: str, folds: int) -> str:
    """Name a model by its trial, and say of how many networks it is the mean if it has several."""
    return (
        model if folds == 1 else f"{model}, the mean of {folds} networks, each trained on {folds - 1} of {folds} folds"
    )


def spread(trial: Mapping[str, Any]) -> str:
    """Format the AUROCs of a trial's folds."""
    if math.isnan(trial["fold_mean"]):
        return "-"
    ends = f"{number(trial['fold_lowest'])} to {number(trial['fold_highest'])}"
    return f"{number(trial['fold_mean'])}, deviation {number(trial['fold_deviation'])} ({ends})"


def against(trial: Mapping[str, Any], baseline: str) -> AgainstBaseline:
    """Read from a row of a leaderboard, or from `selection.against_baselines`, how a trial compares with a baseline."""
    key = column(baseline)
    gain = estimate_from(*(trial[f"above_{key}{end}"] for end in ("", "_low", "_high")))
    return {"auroc": estimate_from(trial[f"{key}_auroc"]), "difference": gain}


def evaluation_report(model: str, url: str, n_rejected: int, report: Report, distance: Sequence[ColourDistance]) -> str:
    """Lay out how a registered model performs on the images at a URL, in at most 100 columns, unless names are longer.

    `n_rejected` is the number of files there that could not be read.
    """
    scores = report["all"]
    groups = f", {scores['n_groups']:,} groups of the same lesion" if scores["n_groups"] < scores["n"] else ""
    rows = metric_rows(scores)

    def section(name: Section) -> str:
        return table([[row.name, row.words] for row in rows if row.section == name])

    colours = [["", "here", "training", "distance"]] + [
        [row["statistic"], number(row["here"]), number(row["training"]), number(row["deviations"], "+.2f")]
        for row in distance
    ]
    parts = [
        f"{model} on {url}\n{scores['n']:,} images, {scores['n_malignant']:,} malignant{groups}; with 95% intervals",
        f"Unreadable files, left out: {n_rejected:,}" if n_rejected else "",
        likeness(distance),
        f"Ranking\n{section('Ranking')}",
        f"Operating point: threshold {number(report['threshold'])}\n{_confusion(scores['operating_point'])}",
        section("Operating point"),
        f"By source\n{table(sources(report))}" if report["sources"] else "",
        f"Subgroups\n{fill(differences(report), 100)}\n{table(subgroups(report))}" if report["subgroups"] else "",
        f"Predictive values, by prevalence of malignant lesions\n{section('Predictive values')}",
        f"Net benefit (true positives per image, minus weighted false positives)\n{_benefit(scores['decision_curve'])}",
        "Calibration (ECE: expected calibration error), before and after temperature scaling\n"
        f"{section('Calibration')}",
        f"Colours, with the distance in standard deviations of the training images\n{table(colours)}",
    ]
    return "\n" + "\n\n".join(filter(None, parts)) + "\n"


def likeness(distance: Sequence[ColourDistance]) -> str:
    """Say in two lines whether images look like the training images, from `shortcut.distance`."""
    known = {row["statistic"]: row["deviations"] for row in distance if row["deviations"] is not None}
    if not known:
        return "The distance to the training images is undefined: their colours do not vary."
    widest = max(known, key=lambda name: abs(known[name]))
    size = abs(known[widest])
    difference = f"{widest} is {size:.2f} standard deviations {'higher' if known[widest] > 0 else 'lower'}"
    if size < _CLOSE:
        return f"The colours are close to those of the training images\n(largest difference: {difference})."
    if size <= _FAR:
        return (
            "The colours differ somewhat from those of the training images\n"
            f"({difference}): interpret the results with care."
        )
    return (
        f"The colours are far from those of the training images\n({difference}): results from there may not carry over."
    )


def upload_report(upload: Upload) -> str:
    """Say what an upload did, and what is at the URL but not in the folder."""
    lines = [f"Uploaded {upload.uploaded:,} files to {upload.url}; {upload.unchanged:,} were already there."]
    if upload.absent:
        n, first = len(upload.absent), upload.absent[0]
        lines.append(f"Files there that are not in the folder: {n:,}, such as {first}. A run would use them.")
        lines.append("To delete them: skinlib upload FOLDER URL --delete")
    return "\n".join(lines)


def audit_report(
    audit: AuditSummary,
    unusable: Mapping[str, Sequence[str]],
    baselines: Mapping[str, float | None],
    standouts: Sequence[Standout],
    limit: int = 20,
) -> str:
    """Lay out what an audit found, with up to `limit` pairs for each finding.

    `unusable` has the keys of rejected files by reason. `baselines` has AUROCs by name, trained on train and evaluated
    on test; None, or absent, if undefined.
    """
    counts = [["", *CLASSES]]
    counts += [[split, *(f"{of[name]:,}" for name in CLASSES)] for split, of in audit["counts"].items()]
    n_images = sum(sum(of.values()) for of in audit["counts"].values())
    by_split = audit["statistics"].items()
    classes = {f"{split} {name}": of for split, by_class in by_split for name, of in by_class.items()}
    colours = [["", *classes]] + [[name, *(number(of[name]) for of in classes.values())] for name in STATISTICS]
    total = sum(map(len, unusable.values()))
    reasons = [f"  {len(keys):,}  {reason}, such as {', '.join(keys[:3])}" for reason, keys in unusable.items()]
    parts = [
        "\n".join([f"Unusable files, left out: {total:,}", *reasons]),
        f"{n_images:,} images in {audit['n_groups']:,} groups of the same lesion\n{table(counts)}",
        *(_finding(title, audit[name], limit) for name, (title, _) in FINDINGS.items()),
        f"Colours (0 to 1), averaged over the images\n{table(colours)}",
        f"Colour baseline, trained on train: AUROC {number(baselines.get(COLOURS))} on test (0.5 is chance)\n"
        "It sees colour statistics only. Only the gain over this baseline can come from the lesions.",
        _without_lesions(baselines, standouts),
    ]
    return "\n\n".join(parts)


def run_summary(
    leaderboard: "pd.DataFrame",
    report: Report,
    verdict: str,
    registered: Mapping[str, object],
    promotion: Mapping[str, object],
    tracking_uri: str,
) -> str:
    """Say at the end of a run, from its artifacts, what it gave and what to do next."""
    look = f"mlflow ui --backend-store-uri {tracking_uri}" if tracking_uri.startswith("sqlite") else tracking_uri
    rows = leaderboard.to_dict("records")
    folds = rows[0].get("folds", 1)
    heads = ["out-of-fold AUROC", "AUROC of the folds"] if folds > 1 else ["validation AUROC"]
    trials = [["trial", "status", *heads, "gain over the colour baseline", "epochs", "seconds"]]
    for row in rows:
        auroc = estimate(estimate_from(row["validation_auroc"], row["low"], row["high"]))
        gain = estimate(against(row, COLOURS)["difference"])
        aurocs = [auroc, spread(row)] if folds > 1 else [auroc]
        trials.append([row["trial"], row["status"], *aurocs, gain, str(row["epochs_trained"]), f"{row['seconds']:.0f}"])
    scores, without_twins = report["all"], report["without_twins"]
    values = {row.name: row.words for row in metric_rows(scores)}
    metrics = [[name, values[name]] for name in _SUMMARY_METRICS if name in values]
    if without_twins is not None:
        metrics.insert(1, ["AUROC without twins in training", estimate(without_twins["auroc"])])
    threshold = number(report["threshold"])
    return f"""
{fill(verdict, 100)}

{table(trials)}

Best trial: {named(leaderboard["trial"][0], folds)}
Test set: {scores["n"]:,} images, {scores["n_malignant"]:,} malignant, threshold {threshold}; with 95% intervals
{table(metrics)}

Registered: {registered["name"]} version {registered["version"]}, alias {promotion["alias"]}
  {promotion["reason"]}

Next:
  see the cards (data, training, leaderboard, test):  make cards
  browse runs and models:  {look}
  evaluate on other images:  skinlib evaluate models:/{registered["name"]}@{promotion["alias"]} FOLDER
"""


def _without_lesions(baselines: Mapping[str, float | None], found: Sequence[Standout]) -> str:
    rows = [[f"AUROC of the {TITLES[name]}", number(auroc)] for name, auroc in baselines.items() if name != COLOURS]
    scores = ["Other baselines that see no lesion, trained on train, evaluated on test", table(rows)] if rows else []
    traces = ["Traces that tell the classes apart, the strongest first", *(f"  {trace_words(each)}" for each in found)]
    return "\n".join([*scores, *(traces if found else [strongest_trace(found)])])


def _confusion(point: OperatingPoint) -> str:
    counts = {
        "malignant": (point["true_positives"], point["false_negatives"]),
        "benign": (point["false_positives"], point["true_negatives"]),
    }
    heads = ["", "classified as malignant", "classified as benign"]
    return table([heads, *([name, *(f"{n:,}" for n in row)] for name, row in counts.items())])


def _benefit(curve: DecisionCurve) -> str:
    rows = zip(curve["threshold"], curve["model"], curve["all_malignant"], strict=True)
    shown = [[number(cell) for cell in row] for row in rows if round(100 * row[0]) in _SHOWN_THRESHOLDS]
    return table([["threshold", "model", "all classified as malignant"], *shown])


def _finding(title: str, pairs: Pairs, limit: int) -> str:
    count = "1 pair" if len(pairs) == 1 else f"{len(pairs):,} pairs" if pairs else "none"
    lines = [f"{title}: {count}", *(f"  {a}  {b}" for a, b in pairs[:limit])]
    if len(pairs) > limit:
        lines.append(f"  and {len(pairs) - limit:,} more; --json lists all")
    return "\n".join(lines)


def without_markup(markdown: str) -> str:
    """Let the names in Markdown, such as those of sources, bring no HTML, links and pictures along."""
    return re.sub(r"<(?=[a-z/!?])", "&lt;", markdown, flags=re.IGNORECASE).replace("](", "] (")


def table(rows: Sequence[Sequence[str]]) -> str:
    """Align the first column to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  " + "  ".join([row[0].ljust(widths[0]), *(map(str.rjust, row[1:], widths[1:]))]).rstrip() for row in rows
    )
