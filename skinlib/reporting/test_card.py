"""The card of the step `evaluate`: all that is known of the chosen model."""


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


CALLS = {(1, False): "missed", (0, True): "false alarm", (1, True): "found", (0, False): "cleared"}


GRAD_CAM = """Each image stands beside its Grad-CAM: the brighter, the more that part spoke for what the model called
the image; the line encloses what spoke at least half as much as the strongest part. *Missed* is malignant but called
benign, a *false alarm* is benign but called malignant; *found* and *cleared* are right. Of each kind the surest calls
are shown, so these are no typical images.

What this does not prove: the map is coarse (a cell is 32 pixels of what the network sees); it shows where the model
looked and not what it saw there; and heat on the lesion does not make the reason a medical one, since colour alone
would look the same. Heat beside the lesion, on hair, a ruler or a dark corner, is a warning. No heat at all means that
nothing in the last layers spoke for the call."""


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


# What a metric is called, where it stands in SCORES of `evaluation.report`, and what it means.
Metric: TypeAlias = tuple[str, tuple[str | int, ...], str]
