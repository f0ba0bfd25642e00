"""Start and stop the platform on this machine: `python -m infra.local.services start|stop|status`.

Everything is in one folder, `.platform` or what PLATFORM_HOME names: data, logs, generated credentials, and the state
with which a later command finds the processes.
"""

import os
import sys
from pathlib import Path

import click

from infra.local import lifecycle
from infra.local.access import DATA_BUCKET


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--home", envvar="PLATFORM_HOME", default=".platform", type=click.Path(path_type=Path, resolve_path=True))
@click.pass_context
def commands(context: click.Context, home: Path) -> None:
    """Run S3, MLflow, Metaflow metadata, AWS Batch and Kubernetes on this machine, without containers or accounts."""
    context.obj = home


@commands.command()
@click.pass_obj
def start(home: Path) -> None:
    """Start what does not run, wait until everything is healthy, and show how to use it."""
    try:
        if not lifecycle.start(home, click.echo):
            click.echo("The platform is already running; nothing was changed.")
            _show(home)
    except lifecycle.PlatformError as error:
        raise click.ClickException(str(error)) from error
    folder = os.path.relpath(home)
    click.echo(f"""
Use it:
  source {folder}/env
  python flows/train.py --config compute configs/compute/kubernetes.json run

Upload images to s3://{DATA_BUCKET}. Jobs and their logs are in {folder}/batch and {folder}/kubernetes.
`make platform-status` checks the platform, `make platform-stop` stops it and keeps the data.""")


@commands.command()
@click.pass_obj
def stop(home: Path) -> None:
    """Stop every server; data, ports and credentials stay."""
    was_running = lifecycle.stop(home)
    click.echo("The platform has stopped; its data stays." if was_running else "The platform was not running.")


@commands.command()
@click.pass_obj
def status(home: Path) -> None:
    """Show the health, address, process and log of each server; exit with 1 unless all are healthy."""
    if not _show(home):
        sys.exit(1)


def _show(home: Path) -> bool:
    found = lifecycle.status(home)
    for server, process, healthy in found:
        how = "healthy" if healthy else "not healthy" if process else "not running"
        pid = f"pid {process.pid}" if process else "-"
        log = os.path.relpath(lifecycle.log_file(home, server))
        click.echo(f"{server.title:22} {how:12} {server.address:24} {pid:12} {log}")
    if not found:
        click.echo("There is no platform here; start it with `make platform`.")
    return bool(found) and all(healthy for _, _, healthy in found)


if __name__ == "__main__":
    commands()
