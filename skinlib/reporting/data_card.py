"""The card of the step `ingest`: what the data set contains and what is wrong with it."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from skinlib.audit.baselines import COLOURS
from skinlib.audit.findings import AuditSummary
from skinlib.audit.traces import Standout
from skinlib.data.manifest import CLASSES, ManifestSummary
from skinlib.data.packing import PackedDataset
from skinlib.reporting import figures
from skinlib.reporting.baseline_words import BASELINES, strongest_trace, trace_words
from skinlib.reporting.components import SYNTHETIC, Card, markdown, picture, table
from skinlib.reporting.numbers import number
from skinlib.reporting.text import COLOUR_BASELINE, FINDINGS

SHOWN_FILES = 50  # files, or pairs of files
SHOWN_EXAMPLES = 24
SHOWN_PAIRS = 12  # in pictures


def show(
    card: Card,
    summary: ManifestSummary,
    audit: AuditSummary,
    packed: PackedDataset,
    train: NDArray[np.int64],
    baselines: Mapping[str, float | None],
    standouts: Sequence[Standout],
    synthetic: bool,
) -> None:
    """Show what the data set contains and what is wrong with it.

    `train`, int64 (k,), are the indices of the training images; the card shows some of them. `baselines` are the AUROCs
    on the validation images by name, None if undefined.
    """
    counts = summary["counts"]
    card.append(markdown(f"# Data: {summary['n_images']:,} images\n\n{SYNTHETIC if synthetic else ''}"))
    rows = [[split, *(of[name] for name in CLASSES), sum(of.values())] for split, of in counts.items()]
    card.append(table([["split", *CLASSES, "all"], *rows]))
    if columns := summary["metadata"]:
        card.append(markdown("## Metadata"))
        described = [[name, of["known"], of["distinct"]] for name, of in columns.items()]
        card.append(table([["column of metadata.csv", "images with a value", "different values"], *described]))
    card.append(markdown("## Examples"))
    examples = train[:: max(1, len(train) // SHOWN_EXAMPLES)][:SHOWN_EXAMPLES]
    labels = packed.labels[examples]
    grid = figures.image_grid(packed.images[examples], labels, [CLASSES[label] for label in labels])
    card.append(picture(grid, "jpeg"))
    _colours(card, audit, baselines[COLOURS])
    _without_lesions(card, baselines, standouts)
    _findings(card, audit, packed)
    rejected = [(file["key"], file["reason"]) for file in summary["rejected"]]
    if not rejected:
        card.append(markdown("Nothing was rejected."))
    _files(card, "Rejected files", rejected, ["file", "reason"], "manifest")
    card.append(markdown(f"Manifest hash `{summary['hash']}`: the same for the same images, wherever they are stored."))


def _colours(card: Card, audit: AuditSummary, auroc: float | None) -> None:
    heading = f"## Colour baseline: AUROC {number(auroc)} on the validation images"
    words = f"{COLOUR_BASELINE} Only the gain over this baseline can come from the lesions."
    card.append(markdown(f"{heading}\n\n{words}"))
    statistics = audit["statistics"]
    classes = {f"{split}, {name}": of for split, by_class in statistics.items() for name, of in by_class.items()}
    names = next(iter(classes.values()))
    rows = [[name, *(number(of[name]) for of in classes.values())] for name in names]
    card.append(table([["average over the images (0 to 1)", *classes], *rows]))


def _without_lesions(card: Card, baselines: Mapping[str, float | None], standouts: Sequence[Standout]) -> None:
    card.append(markdown("## Other baselines that see no lesion"))
    rows = [[name, number(auroc), BASELINES[name]] for name, auroc in baselines.items() if name != COLOURS]
    card.append(table([["baseline", "AUROC on the validation images", "what it is"], *rows]))
    lines = [f"**{strongest_trace(standouts)}**", *(trace_words(each) for each in standouts[1:])]
    card.append(markdown("\n\n".join(lines)))


def _findings(card: Card, audit: AuditSummary, packed: PackedDataset) -> None:
    words = (
        f"The images form {audit['n_groups']:,} groups. A group is joined by duplicates and probably shows one lesion."
    )
    card.append(markdown(f"## Audit\n\n{words}"))
    rows = [[title, len(audit[name]), meaning] for name, (title, meaning) in FINDINGS.items()]
    card.append(table([["finding", "pairs", "meaning"], *rows]))
    if audit["same_lesions"]:
        _pairs(card, audit["same_lesions"], packed)
    for name, (title, _) in FINDINGS.items():
        _files(card, title, audit[name], ["first image", "second image"], "audit")


def _pairs(card: Card, pairs: Sequence[tuple[str, str]], packed: PackedDataset) -> None:
    """Show some of the pairs, evenly spaced, the images of each side by side."""
    card.append(markdown("### Examples of the same lesion: the images of a pair are side by side"))
    chosen = pairs[:: max(1, len(pairs) // SHOWN_PAIRS)][:SHOWN_PAIRS]
    places = {key: index for index, key in enumerate(packed.manifest.keys)}
    index = np.array([places[key] for pair in chosen for key in pair])
    captions = [f"{number}: {key.partition('/')[0]}" for number, pair in enumerate(chosen, 1) for key in pair]
    card.append(picture(figures.image_grid(packed.images[index], packed.labels[index], captions), "jpeg"))


def _files(card: Card, title: str, rows: Sequence[Sequence[str]], headers: Sequence[str], artifact: str) -> None:
    """Show the first files, or pairs of them, and how many more are in an artifact."""
    if not rows:
        return
    card.append(markdown(f"## {title}: {len(rows):,}"))
    card.append(table([headers, *rows[:SHOWN_FILES]]))
    if len(rows) > SHOWN_FILES:
        card.append(markdown(f"The other {len(rows) - SHOWN_FILES:,} are in the artifact `{artifact}`."))
