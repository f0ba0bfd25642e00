"""The commands beyond the flow: `skinlib COMMAND`, the same as `python -m skinlib COMMAND`."""

import getpass
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
    from skinlib.data.storage import Store


_GROUP_BY = click.option("--group-by", default="", help="Columns of metadata.csv; default lesion_id,patient_id.")
_SOURCE_COLUMN = click.option("--source-column", default="", help="A column of metadata.csv; default source.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def commands() -> None:
    """Create sample images, upload and audit images, evaluate and use registered models, check what a run needs."""


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
@_GROUP_BY
@_SOURCE_COLUMN
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def evaluate(model: str, url: str, group_by: str, source_column: str, as_json: bool) -> None:
    """Evaluate a registered MODEL (models:/NAME@ALIAS or models:/NAME/VERSION) on the images at URL.

    URL is a folder or s3://bucket/prefix that contains benign|malignant, or train|test with these in each. Of the
    latter, only test is used.
    """
    from skinlib.audit import findings, lesions, shortcut
    from skinlib.data import metadata
    from skinlib.data.listing import list_images
    from skinlib.evaluation import assessment, metrics
    from skinlib.reporting import text
    from skinlib.tracking import registry

    # Before the model is loaded, so that a wrong folder is reported at once.
    listing = list_images(url, splits=("test",))
    groups = metadata.group_columns(listing.metadata.names, group_by)
    source = metadata.source_column(listing.metadata.names, source_column)
    served = registry.load(model)
    with _packed(listing, as_json) as (packed, rejected, cache):
        answers = served.predict(packed.images)
        pairs = lesions.search(packed, cache, printed("images compared", as_json))
        found = findings.audit_images(packed, pairs, groups)
    report = assessment.report_on(packed, found, answers, served.settings, source)
    distance = shortcut.distance(found.colours, served.settings["shortcut"])
    if as_json:
        values = metrics.binary_metrics(packed.labels, answers["probability"].to_numpy(), served.settings["threshold"])
        click.echo(json.dumps({**values, "report": report, "distance": distance}))
    else:
        click.echo(text.evaluation_report(model, listing.url, len(rejected), report, distance))


@commands.command()
@click.argument("model")
@click.argument("url")
@click.option("--output", required=True, metavar="FILE_OR_URL", help="The table to write: .parquet or .csv.")
@click.option("--fail-on-drift", is_flag=True, help="Exit with status 3 if the images differ from the training images.")
def predict(model: str, url: str, output: str, fail_on_drift: bool) -> None:
    """Score all images below URL (a folder or s3://bucket/prefix) with a registered MODEL.

    Class folders are not needed. A file that is no usable image gets a row with the reason. After an interruption, the
    same command continues.
    """
    from skinlib.reporting.prediction import prediction_report
    from skinlib.serving import scoring
    from skinlib.tracking import registry

    target = scoring.open_output(output)  # before the model is loaded, so that a wrong output is reported at once
    summary = scoring.predict(registry.load(model), url, target, printed("files scored"))
    click.echo(prediction_report(model, summary))
    if fail_on_drift and summary.drifted:
        sys.exit(3)


@commands.command()
@click.argument("model")
@click.option("--port", type=click.IntRange(0, 65535), default=8501, show_default=True, help="0 is any free one.")
def demo(model: str, port: int) -> None:
    """Classify photographs with a registered MODEL on a page in the browser.

    Only this machine can reach the page. Photographs are not stored.
    """
    from skinlib.serving import page
    from skinlib.tracking import registry

    # Before the model is loaded, so that a used port is reported at once.
    with page.listen(port) as listening:
        app = page.create(registry.load(model))
        click.echo(f"Open http://{page.HOST}:{listening.getsockname()[1]} (Ctrl-C stops the server)")
        page.serve(app, listening)


@commands.command()
@click.argument("url")
@_GROUP_BY
@_SOURCE_COLUMN
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def audit(url: str, group_by: str, source_column: str, as_json: bool) -> None:
    """Search the images at URL for duplicates, leaks, label conflicts and baselines that do too well without lesions.

    URL is a folder or s3://bucket/prefix that contains train|test, each with benign|malignant. Unusable files are
    counted by reason. Identical images in both classes are reported, and then are an error.
    """
    import numpy as np

    from skinlib.audit import baselines, findings, lesions, traces
    from skinlib.data import metadata
    from skinlib.data.listing import list_images
    from skinlib.data.manifest import SPLITS
    from skinlib.evaluation.metrics import auroc
    from skinlib.reporting import text

    listing = list_images(url)
    groups = metadata.group_columns(listing.metadata.names, group_by)
    sources = metadata.source_column(listing.metadata.names, source_column)
    scores = {}
    with _packed(listing, as_json, max_rejected=1) as (packed, rejected, cache):
        labels, splits = packed.labels, np.array(packed.manifest.splits)
        pairs = lesions.search(packed, cache, printed("images compared", as_json))
        found = findings.audit_images(packed, pairs, groups)
        train, test = (np.flatnonzero(splits == split) for split in SPLITS)
        if len(set(labels[train])) == 2:
            pixels = traces.pixel_traces(packed.images)
            predicted = baselines.predictions(train, test, packed, found.colours, pixels, sources)
            scores = {name: auroc(labels[test], of) for name, of in predicted.items()}
        standouts = traces.standouts(packed.manifest, train, sources)
    unusable = findings.by_reason(rejected)
    if as_json:
        more = {"baselines": scores, "traces": standouts, "unusable": unusable}
        click.echo(json.dumps({**found.summary, **more}))
    else:
        click.echo(text.audit_report(found.summary, unusable, scores, standouts))
    found.refuse_conflicts()


@commands.command()
@click.argument("name", required=False)
def models(name: str | None) -> None:
    """List the versions of the registered model NAME, or of all models: alias, result, and why."""
    from skinlib.reporting.text import table
    from skinlib.tracking import promotion

    rows = [["model", "version", "alias", "created (UTC)", "test AUROC", "data", "run"]]
    listed = promotion.versions(name)
    for each in listed:
        created = f"{each.created:%Y-%m-%d %H:%M}"
        rows.append([each.name, each.number, each.aliases, created, each.auroc, each.data, each.run])
    for line, why in zip(table(rows).split("\n"), ["why", *(each.reason for each in listed)], strict=True):
        click.echo(f"{line}  {why}".rstrip())


@commands.command()
@click.argument("name")
@click.argument("version")
def promote(name: str, version: str) -> None:
    """Make VERSION of the registered model NAME its champion."""
    from skinlib.tracking import promotion

    before = promotion.promote(name, version, getpass.getuser())
    click.echo(f"{name} version {version} is the champion now{f', instead of version {before}' if before else ''}.")


@commands.command()
@click.argument("name")
def rollback(name: str) -> None:
    """Make the version of the registered model NAME champion again that was it before."""
    from skinlib.tracking import promotion

    standing, before = promotion.rollback(name, getpass.getuser())
    click.echo(f"{name} version {before} is the champion again, instead of version {standing}.")


@contextmanager
def _packed(
    listing: "Listing", quiet: bool, max_rejected: float = 0.01
) -> Iterator[tuple["PackedDataset", tuple[tuple[str, str], ...], "Store"]]:
    """Yield the images of a listing, packed into a temporary folder, the rejected files, and the folder."""
    from skinlib.data.packing import open_packed, prepare
    from skinlib.data.storage import open_store

    with tempfile.TemporaryDirectory() as folder:
        cache = open_store(folder)
        manifest = prepare(listing, cache, max_rejected, printed("images read", quiet))
        yield open_packed(cache, manifest.hash), manifest.rejected, cache


@commands.command()
@click.option("--delete-unused", type=click.FloatRange(min=0), metavar="DAYS", help="Delete what no run used for DAYS.")
def cache(delete_unused: float | None) -> None:
    """List what runs have left in their datastore for later ones: packed images, checkpoints, weights.

    A new run makes again what it needs of it. A failed run without its checkpoints starts its unfinished trials anew.
    """
    from skinlib.data import cache as kept
    from skinlib.execution.datastore import default_store
    from skinlib.reporting.text import table

    store = default_store()
    found = kept.entries(store)
    shown = found if delete_unused is None else kept.unused(found, delete_unused)
    rows = [["kind", "name", "MB", "last used (UTC)"]]
    rows += [[each.kind, each.name, f"{each.size / 1e6:,.1f}", f"{each.used:%Y-%m-%d %H:%M}"] for each in shown]
    click.echo(table(rows))
    size = f"{sum(each.size for each in shown) / 1e6:,.1f} MB"
    click.echo(f"{len(shown):,} of {len(found):,} entries, {size}, in {store.url}")
    if delete_unused is not None and shown and click.confirm("Delete these?"):
        kept.delete(store, shown)
        click.echo(f"Deleted {size}.")


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
