"""The commands beside the flow: `python -m skinlib VERB`."""

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from skinlib import console
from skinlib.errors import SkinlibError

if TYPE_CHECKING:
    from skinlib.dataset import Listing, PackedDataset


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def commands() -> None:
    """Make sample images, bring images to a bucket, audit them, score a registered model, check what a run needs."""


@commands.command()
@click.argument("directory", type=click.Path(path_type=Path))
def sample(directory: Path) -> None:
    """Write the SYNTHETIC sample images into DIRECTORY, in the layout that your own should have."""
    from skinlib import sample

    sample.generate(directory, on_progress=console.progress("synthetic images made"))


@commands.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("url")
def upload(folder: Path, url: str) -> None:
    """Put what lies in FOLDER to URL (s3://bucket/prefix), leaving out what is there already."""
    from skinlib import dataset

    counts = dataset.upload_folder(folder, url, console.progress("files compared"))
    click.echo(f"{counts['uploaded']:,} files uploaded to {url}, {counts['unchanged']:,} were the same there.")


@commands.command()
@click.argument("model")
@click.argument("url")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def evaluate(model: str, url: str, as_json: bool) -> None:
    """Score a registered MODEL (models:/NAME@ALIAS, models:/NAME/VERSION) on the images below URL.

    URL is a folder or s3://bucket/prefix that holds benign|malignant, or train|test with these: then test alone counts.
    """
    from skinlib import audit, calibration, dataset, evaluation, registry, shortcut

    # Listed before the model is loaded: a wrong folder shows at once.
    listing = dataset.list_images(url, splits=("test",))
    served = registry.load(model)
    threshold, temperature = served.config["threshold"], served.config["temperature"]
    with _packed(listing, as_json) as (packed, n_rejected):
        labels, probabilities = packed.labels, served.predict(packed.images)
        audited = audit.audit(packed, console.progress("images compared", as_json))
    report = evaluation.report(
        labels,
        probabilities,
        threshold,
        groups=audited.groups,
        uncalibrated=calibration.calibrate(probabilities, 1 / temperature),
        shortcut_probabilities=shortcut.probabilities(audited.colours, served.config["shortcut"]),
    )
    distance = shortcut.distance(audited.colours, served.config["shortcut"])
    if as_json:
        metrics = evaluation.binary_metrics(labels, probabilities, threshold)
        click.echo(json.dumps(metrics | {"report": report, "distance": distance}))
    else:
        click.echo(console.evaluation_report(model, listing.url, n_rejected, report, distance))


@commands.command("audit")
@click.argument("url")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def audit_images(url: str, as_json: bool) -> None:
    """Look for duplicates, leaks, label conflicts and tell-tale colours in the images below URL.

    URL is a folder or s3://bucket/prefix that holds train|test, each with benign|malignant. Identical images in both
    classes are an error, after the report.
    """
    import numpy as np

    from skinlib import audit, dataset, evaluation, shortcut

    with _packed(dataset.list_images(url), as_json) as (packed, _):
        labels, splits = packed.labels, np.array(packed.manifest.splits)
        found = audit.audit(packed, console.progress("images compared", as_json))
    train, test = (np.flatnonzero(splits == split) for split in dataset.SPLITS)
    colour_alone = shortcut.fit(found.colours[train], labels[train])
    auroc = evaluation.auroc(labels[test], shortcut.probabilities(found.colours[test], colour_alone))
    click.echo(json.dumps(found.to_dict() | {"shortcut_auroc": auroc}) if as_json else found.to_text(auroc))
    found.refuse_conflicts()


@contextmanager
def _packed(listing: "Listing", quiet: bool) -> Iterator[tuple["PackedDataset", int]]:
    """Give the images of a listing, packed into a folder that goes again, and the number of rejected files."""
    from skinlib import dataset
    from skinlib.storage import open_store

    with tempfile.TemporaryDirectory() as folder:
        cache = open_store(folder)
        manifest = dataset.prepare(listing, cache, on_progress=console.progress("images read", quiet))
        yield dataset.open_packed(cache, manifest.hash), len(manifest.rejected)


@commands.command()
@click.option("--compute", type=click.Path(path_type=Path), help="A compute config; without it all runs here.")
@click.option("--data", metavar="URL", help="The images; without it the sample.")
def doctor(compute: Path | None, data: str | None) -> None:
    """Check all that a run needs, from Python to the job queue, and say what to do where something is amiss."""
    from skinlib import backends
    from skinlib.doctor import examine

    backend = backends.backend_from(backends.read(compute) if compute else {"backend": "local"})
    amiss = 0
    for finding in examine(backend, data):
        amiss += not finding.ok
        click.echo(f"{'ok' if finding.ok else 'AMISS':5}  {finding.part:11}  {finding.words}")
    if amiss:
        sys.exit(1)


def main() -> None:
    """Run a command; an error that the user can act on is its sentence, without a traceback."""
    try:
        commands(prog_name="python -m skinlib")
    except SkinlibError as error:
        sys.exit(f"Error: {error}")
