"""What is printed: progress while something runs, and what came out of it."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

_SECONDS_BETWEEN_LINES = 3.0
# Standard deviations of the training images, by which the images of another place differ in colour.
_CLOSE, _FAR = 0.5, 1.0
_SHOWN_THRESHOLDS = (5, 10, 20, 50)  # percent, of the decision curve


def progress(what: str, quiet: bool = False) -> Callable[[int, int], None]:
    """Return a function of (done, total) that prints a line now and then, and always the last one, unless `quiet`."""
    last = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal last
        if not quiet and (done == total or time.monotonic() - last >= _SECONDS_BETWEEN_LINES):
            last = time.monotonic()
            print(f"{what}: {done:,} of {total:,}", flush=True)

    return show


def number(value: float | None, form: str = ".3f") -> str:
    """A metric as it is printed; `undefined` where it has no value."""
    return "undefined" if value is None else format(value, form)


def estimate(of: Mapping[str, Any] | None) -> str:
    """A metric with its interval, as `evaluation.report` gives them."""
    if of is None:
        return number(None)
    if of["interval"] is None:
        return number(of["value"])
    return f"{number(of['value'])} ({' to '.join(map(number, of['interval']))})"


def estimate_in(row: Mapping[str, Any], value: str, low: str, high: str) -> dict[str, Any]:
    """A metric with its interval from three columns of a leaderboard's row, where NaN stands for what is undefined."""
    known, *ends = (None if row[name] != row[name] else row[name] for name in (value, low, high))
    return {"value": known, "interval": None if None in ends else ends}


def calibration_error(of: Mapping[str, Any]) -> str:
    """The expected calibration error, as `calibration.reliability` gives it, beside what chance alone would show."""
    noise = of["ece_noise"]
    return number(of["ece"]) + ("" if noise is None else f" (to {number(noise)} by chance)")


def evaluation_report(
    model: str, url: str, n_rejected: int, report: Mapping[str, Any], distance: Sequence[Mapping[str, Any]]
) -> str:
    """Lay out how a registered model does on other images.

    Args:
        model: as the user named it.
        url: of the images.
        n_rejected: how many of its files could not be read.
        report: from `evaluation.report`, with `uncalibrated`.
        distance: from `shortcut.distance`.

    Returns:
        Text of at most 100 columns, unless the names are longer.
    """
    scores = report["all"]
    point, reliability = scores["operating_point"], scores["calibration"]
    groups = f", {scores['n_groups']:,} groups of look-alikes" if scores["n_groups"] < scores["n"] else ""
    ranking = [["AUROC", estimate(scores["auroc"])], ["average precision", estimate(scores["average_precision"])]]
    if scores["shortcut"]:
        ranking.insert(1, ["AUROC of colour alone", estimate(scores["shortcut"]["auroc"])])
        ranking.insert(2, ["gain over colour alone", estimate(scores["shortcut"]["difference"])])
    for given, measured in (("sensitivity", "specificity"), ("specificity", "sensitivity")):
        for of in scores[f"{measured}_at_{given}"]:
            ranking.append([f"{measured} at {of[given]:.0%} {given}", estimate(of)])
    calls = [
        ["", "called malignant", "called benign"],
        ["malignant", point["true_positives"], point["false_negatives"]],
        ["benign", point["false_positives"], point["true_negatives"]],
    ]
    shares = [[name, estimate(point[name])] for name in ("sensitivity", "specificity", "accuracy")]
    values = [["malignant lesions", "called malignant", "called benign"]] + [
        [f"{of['prevalence']:.0%}", estimate(of["ppv"]), estimate(of["npv"])] for of in point["predictive_values"]
    ]
    curve = scores["decision_curve"]
    benefit = [["acting from a probability of", "on the model", "on all images"]] + [
        [number(at), number(model), number(everything)]
        for at, model, everything in zip(curve["threshold"], curve["model"], curve["all_malignant"], strict=True)
        if round(100 * at) in _SHOWN_THRESHOLDS
    ]
    scaling = [reliability["before"], reliability["after"]]
    probabilities = [
        ["", "before scaling", "as served"],
        ["Brier score", *(estimate(of["brier"]) for of in scaling)],
        ["calibration error", *(calibration_error(of) for of in scaling)],
    ]
    colours = [["", "here", "training", "apart"]] + [
        [row["statistic"], number(row["here"]), number(row["training"]), number(row["deviations"], "+.2f")]
        for row in distance
    ]
    parts = [
        f"{model} on {url}\n{scores['n']:,} images, {scores['n_malignant']:,} malignant{groups}; with 95% intervals",
        f"Files that could not be read and are left out: {n_rejected:,}" if n_rejected else "",
        likeness(distance),
        f"Ranking\n{_table(ranking)}",
        f"Calls, malignant from a probability of {number(report['threshold'])} on\n{_table(calls)}",
        _table(shares),
        f"Share of right calls, by how many lesions are malignant\n{_table(values)}",
        "Net benefit: true positives per image, less false alarms at the price of where one would act\n"
        f"{_table(benefit)}",
        f"Probabilities\n{_table(probabilities)}",
        f"Colours, and how far they are apart in standard deviations of the training images\n{_table(colours)}",
    ]
    return "\n" + "\n\n".join(filter(None, parts)) + "\n"


def likeness(distance: Sequence[Mapping[str, Any]]) -> str:
    """Say in a sentence, on two lines, whether images look like those of the training, by `shortcut.distance`."""
    known = [row for row in distance if row["deviations"] is not None]
    if not known:
        return "How far the images are from those of the training is undefined: those are all of one colour."
    widest = max(known, key=lambda row: abs(row["deviations"]))
    deviations = widest["deviations"]
    direction = "higher" if deviations > 0 else "lower"
    most = f"{widest['statistic']} is {abs(deviations):.2f} standard deviations {direction}"
    if abs(deviations) < _CLOSE:
        return f"By their colours the images are close to those of the training\n(no more than {most})."
    if abs(deviations) <= _FAR:
        return (
            "By their colours the images are some way from those of the training\n"
            f"({most}): read the figures with that in mind."
        )
    return (
        "By their colours the images are far from those of the training\n"
        f"({most}): figures from there may not carry over."
    )


def _table(rows: Sequence[Sequence[Any]]) -> str:
    """Columns as wide as they need to be: the first to the left, the others to the right."""
    text = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*text, strict=True)]
    return "\n".join(
        "  " + "  ".join([row[0].ljust(widths[0]), *(map(str.rjust, row[1:], widths[1:]))]).rstrip() for row in text
    )


def summary(
    leaderboard: "pd.DataFrame",
    test_report: Mapping[str, Any],
    registered: Mapping[str, str],
    tracking_uri: str,
    synthetic: bool,
) -> str:
    """Say at the end of a run what came out and what can be done with it."""
    look = f"mlflow ui --backend-store-uri {tracking_uri}" if tracking_uri.startswith("sqlite") else tracking_uri
    best = leaderboard["trial"][0]
    trials = [["trial", "status", "validation AUROC", "above colour alone", "epochs", "seconds"]]
    for row in leaderboard.to_dict("records"):
        auroc = estimate(estimate_in(row, "validation_auroc", "low", "high"))
        above = estimate(estimate_in(row, "above_shortcut", "above_shortcut_low", "above_shortcut_high"))
        trials.append([row["trial"], row["status"], auroc, above, row["epochs_trained"], f"{row['seconds']:.0f}"])
    scores, without_twins = test_report["all"], test_report["without_twins"]
    metrics = {"AUROC": scores["auroc"]}
    if without_twins:
        metrics["  without images that have a twin in training"] = without_twins["auroc"]
    if scores["shortcut"]:
        metrics["  of colour alone"] = scores["shortcut"]["auroc"]
        metrics["  gain over colour alone"] = scores["shortcut"]["difference"]
    metrics |= {name: scores["operating_point"][name] for name in ("accuracy", "sensitivity", "specificity")}
    called = f"called so from {number(test_report['threshold'])} on"
    with_intervals = _table([[name, estimate(of)] for name, of in metrics.items()])
    warning = "\nThe images are SYNTHETIC: the model is for trying out only.\n" if synthetic else ""
    return f"""
{_table(trials)}

Best trial: {best}
Test set: {scores["n"]} images, {scores["n_malignant"]} malignant, {called}; with 95 % intervals
{with_intervals}
{warning}
Registered: {registered["name"]} version {registered["version"]}, alias {registered["alias"]}

Next:
  data, training, leaderboard and test:  make cards
  runs and models:  {look}
  score other images:  python -m skinlib evaluate models:/{registered["name"]}@{registered["alias"]} FOLDER
"""
