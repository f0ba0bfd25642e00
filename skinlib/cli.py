"""The commands beyond the flow: `skinlib COMMAND`, the same as `python -m skinlib COMMAND`."""

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from skinlib.config import ensure_home
from skinlib.errors import SkinlibError
from skinlib.progress import printed

if TYPE_CHECKING:
    from skinlib.data.listing import Listing
    from skinlib.data.packing import PackedDataset


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def commands() -> None:
    """Create sample images, upload and audit images, evaluate a registered model, check what a run needs."""


@commands.command()
@click.argument("directory", type=click.Path(path_type=Path))
def sample(directory: Path) -> None:
    """Write the SYNTHETIC sample images to DIRECTORY, in the layout that your own images need."""
    from skinlib.data.sample import generate

    generate(directory, on_progress=printed("synthetic images made"))


@commands.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("url")
@click.option("--delete", is_flag=True, help="Ask, then delete what is at URL but not in FOLDER.")
def upload(folder: Path, url: str, delete: bool) -> None:
    """Upload the files in FOLDER to URL (s3://bucket/prefix), except those that are already there."""
    from skinlib.data.storage import open_store
    from skinlib.data.upload import upload_folder
    from skinlib.reporting import text

    done = upload_folder(folder, url, printed("files compared"))
    click.echo(text.upload_report(done))
    if delete and done.absent and click.confirm(f"Delete these {len(done.absent):,} at {done.url}?"):
        open_store(done.url).delete_objects(done.absent)
        click.echo(f"Deleted {len(done.absent):,} files.")


@commands.command()
@click.argument("model")
@click.argument("url")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def evaluate(model: str, url: str, as_json: bool) -> None:
    """Evaluate a registered MODEL (models:/NAME@ALIAS or models:/NAME/VERSION) on the images at URL.

    URL is a folder or s3://bucket/prefix that contains benign|malignant, or train|test with these in each. Of the
    latter, only test is used.
    """
    from skinlib.audit import findings, shortcut
    from skinlib.data.listing import list_images
    from skinlib.evaluation import calibration, metrics, scores
    from skinlib.reporting import text
    from skinlib.tracking import registry

    # Before the model is loaded, so that a wrong folder is reported at once.
    listing = list_images(url, splits=("test",))
    served = registry.load(model)
    threshold, temperature = served.settings["threshold"], served.settings["temperature"]
    with _packed(listing, as_json) as (packed, n_rejected):
        labels, probabilities = packed.labels, served.predict(packed.images)
        found = findings.audit_images(packed, printed("images compared", as_json))
    report = scores.build_report(
        labels,
        probabilities,
        threshold,
        groups=found.groups,
        uncalibrated=calibration.calibrate(probabilities, 1 / temperature),
        shortcut_probabilities=shortcut.probabilities(found.colours, served.settings["shortcut"]),
    )
    distance = shortcut.distance(found.colours, served.settings["shortcut"])
    if as_json:
        values = metrics.binary_metrics(labels, probabilities, threshold)
        click.echo(json.dumps({**values, "report": report, "distance": distance}))
    else:
        click.echo(text.evaluation_report(model, listing.url, n_rejected, report, distance))


@commands.command()
@click.argument("url")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def audit(url: str, as_json: bool) -> None:
    """Search the images at URL for duplicates, leaks, label conflicts and a colour baseline that does too well.

    URL is a folder or s3://bucket/prefix that contains train|test, each with benign|malignant. Identical images in
    both classes are reported, and then are an error.
    """
    import numpy as np

    from skinlib.audit import findings, shortcut
    from skinlib.data.listing import list_images
    from skinlib.data.manifest import SPLITS
    from skinlib.evaluation.metrics import auroc
    from skinlib.reporting import text

    with _packed(list_images(url), as_json) as (packed, _):
        labels, splits = packed.labels, np.array(packed.manifest.splits)
        found = findings.audit_images(packed, printed("images compared", as_json))
    train, test = (np.flatnonzero(splits == split) for split in SPLITS)
    baseline = shortcut.fit(found.colours[train], labels[train])
    score = auroc(labels[test], shortcut.probabilities(found.colours[test], baseline))
    if as_json:
        click.echo(json.dumps({**found.summary(), "shortcut_auroc": score}))
    else:
        click.echo(text.audit_report(found, score))
    found.refuse_conflicts()


@contextmanager
def _packed(listing: "Listing", quiet: bool) -> Iterator[tuple["PackedDataset", int]]:
    """Yield the images of a listing, packed into a temporary folder, and the number of rejected files."""
    from skinlib.data.packing import open_packed, prepare
    from skinlib.data.storage import open_store

    with tempfile.TemporaryDirectory() as folder:
        cache = open_store(folder)
        manifest = prepare(listing, cache, on_progress=printed("images read", quiet))
        yield open_packed(cache, manifest.hash), len(manifest.rejected)


@commands.command()
@click.option("--compute", type=click.Path(path_type=Path), help="A compute config; without it, everything runs here.")
@click.option("--data", metavar="URL", help="The images; without it, the synthetic sample.")
def doctor(compute: Path | None, data: str | None) -> None:
    """Check everything that a run needs, from Python to the job queue, and say what to do about each failure."""
    from skinlib.execution import backends
    from skinlib.execution.doctor import examine

    backend = backends.backend_from(backends.read(compute) if compute else {"backend": "local"})
    failures = 0
    for finding in examine(backend, data):
        failures += not finding.ok
        click.echo(f"{'ok' if finding.ok else 'FAIL':5}  {finding.part:11}  {finding.words}")
    if failures:
        sys.exit(1)


def main() -> None:
    """Run a command; print an error that the user can act on as its sentence, without a traceback."""
    ensure_home()
    try:
        commands(prog_name="skinlib")
    except SkinlibError as error:
        sys.exit(f"Error: {error}")
