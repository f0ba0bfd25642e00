"""The card of the step `ingest`: what the data consist of and what is wrong with them."""


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


def _files(card: Card, title: str, rows: Sequence[Sequence[str]], headers: Sequence[str], whole: str) -> None:
    """Show the first files, or pairs of them, and how many more are in the artifact `whole`."""
    if not rows:
        return
    card.append(Markdown(f"## {title}: {len(rows):,}"))
    card.append(_table(rows[:SHOWN_FILES], headers))
    if len(rows) > SHOWN_FILES:
        card.append(Markdown(f"The other {len(rows) - SHOWN_FILES:,} are in the {whole}."))


SHOWN_FILES = 50  # and pairs of files


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
