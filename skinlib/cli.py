"""The commands beside the flow: `python -m skinlib VERB`."""

import json
import sys
import tempfile
from pathlib import Path

import click

from skinlib import console
from skinlib.errors import SkinlibError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def commands() -> None:
    """Make sample images, bring images to a bucket, score a registered model on them."""


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
    import numpy as np

    from skinlib import dataset, evaluation, registry
    from skinlib.storage import open_store

    # Listed before the model is loaded: a wrong folder shows at once.
    listing = dataset.list_images(url, splits=("test",))
    predict = registry.load(model)
    show = (lambda done, total: None) if as_json else console.progress("images read")
    with tempfile.TemporaryDirectory() as folder:
        cache = open_store(folder)
        packed = dataset.open_packed(cache, dataset.prepare(listing, cache, on_progress=show).hash)
        probabilities = predict(np.asarray(packed.images))
        metrics = evaluation.binary_metrics(packed.labels, probabilities)
    if as_json:
        click.echo(json.dumps(metrics))
    else:
        for name, value in metrics.items():
            click.echo(f"{name:>12}  {value if isinstance(value, int) else console.number(value)}")


def main() -> None:
    """Run a command; an error that the user can act on is its sentence, without a traceback."""
    try:
        commands(prog_name="python -m skinlib")
    except SkinlibError as error:
        sys.exit(f"Error: {error}")
