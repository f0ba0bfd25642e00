"""Deploy infra/stack.yaml to AWS with the data and a Metaflow profile, or delete all of it.

python -m infra.deploy up [--data FOLDER]      # make infra
python -m infra.deploy down [--delete-data]    # make infra-down
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import boto3
import click

from infra import buckets, cloudformation, profile
from infra.aws import Client, DeploymentError, explained
from infra.cloudformation import Event, Stack
from skinlib.data import sample
from skinlib.data.listing import list_images
from skinlib.data.upload import upload_folder
from skinlib.errors import SkinlibError
from skinlib.progress import printed
from skinlib.reporting import text

TEMPLATE = Path(__file__).with_name("stack.yaml")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def commands() -> None:
    """Create or delete what the flow needs on AWS: buckets, GPU queue, image repository and roles."""


@commands.command()
@click.option("--stack", "name", default="skin-lesion", show_default=True, help="name of the stack and the profile")
@click.option("--data", default="sample", show_default=True, help="folder to upload; `sample` is synthetic")
@click.option("--parameter", "pairs", multiple=True, metavar="KEY=VALUE", help="template parameter; later runs keep it")
@click.option("--template", type=click.Path(path_type=Path, exists=True), default=TEMPLATE, hidden=True)
@click.option("--yes", is_flag=True, help="apply the changes without asking")
def up(name: str, data: str, pairs: tuple[str, ...], template: Path, yes: bool) -> None:
    """Show what would change on AWS, apply it, upload the data and write the Metaflow profile."""
    parameters = dict(_split(pair) for pair in pairs)
    folder = Path(sample.locate(data, printed("synthetic images made"))).expanduser().resolve()
    list_images(str(folder))  # finds wrong folders before anything is created
    with explained():
        client = boto3.client("cloudformation")
        stack = _deploy(client, name, template.read_text(), parameters, yes)
    if stack is None:
        click.echo("Nothing was changed.")
        return
    url = f"s3://{stack.outputs['DataBucket']}/{'sample' if data == 'sample' else folder.name}"
    click.echo(text.upload_report(upload_folder(folder, url, printed("files compared"))))
    click.echo(profile.write(profile.path_of(name), profile.settings_for(stack.outputs)))
    _show_next_steps(name, url, stack.outputs["RepositoryUri"])


@commands.command()
@click.option("--stack", "name", default="skin-lesion", show_default=True, help="name of the stack and the profile")
@click.option("--delete-data", is_flag=True, help="delete everything in the buckets, including old versions")
@click.option("--yes", is_flag=True, help="delete without asking")
def down(name: str, delete_data: bool, yes: bool) -> None:
    """Delete the stack with its buckets, images and profile; refuse while a bucket holds data."""
    with explained():
        client = boto3.client("cloudformation")
        stack = cloudformation.find(client, name)
        if stack is None:
            click.echo(f"There is no stack {name} in {client.meta.region_name}; nothing to delete.")
            return
        names = cloudformation.resources(client, stack, "AWS::S3::Bucket")
        contents = {bucket: buckets.content(bucket) for bucket in names}
        if not delete_data:
            _check_empty(contents)
        click.echo(
            f"This permanently deletes the stack {name} in {client.meta.region_name}, stops its jobs, and deletes:"
        )
        for bucket, content in contents.items():
            click.echo(f"  bucket      {bucket}: {content}")
        for repository in cloudformation.resources(client, stack, "AWS::ECR::Repository"):
            click.echo(f"  repository  {repository}: {_count_images(repository):,} images")
        if not yes and not click.confirm("Delete it?"):
            click.echo("Nothing was deleted.")
            return
        # Buckets first: this command can be repeated as long as there is a stack.
        for bucket in contents:
            buckets.delete(bucket, with_content=delete_data)
        cloudformation.delete(client, name, _show)
    path = profile.path_of(name)
    if path.exists():
        path.unlink()
        click.echo(f"Deleted the profile {path}.")
    click.echo(f"Deleted the stack {name}.")


def _deploy(client: Client, name: str, template: str, parameters: Mapping[str, str], yes: bool) -> Stack | None:
    """Bring the stack to the state that the template describes; return None if the user declines."""
    stack = cloudformation.find(client, name)
    if stack and stack.status in cloudformation.DEAD:
        click.echo(f"The stack {name} is {stack.status}, so it must be deleted and created again.")
        if not yes and not click.confirm("Delete what is left of it and continue?"):
            return None
        cloudformation.delete(client, name, _show)
    elif stack and stack.status.endswith("_IN_PROGRESS") and stack.status != "REVIEW_IN_PROGRESS":
        raise DeploymentError(f"The stack {name} is changing ({stack.status}); wait until it has finished.")
    proposal = cloudformation.propose(client, name, template, parameters)
    if proposal is None:
        click.echo(f"The stack {name} is up to date.")
        return cloudformation.find(client, name)
    click.echo(f"Changes to the stack {name} in {client.meta.region_name}:\n{cloudformation.table(proposal.changes)}")
    agreed = False
    try:
        agreed = yes or click.confirm("Apply them?")
    finally:
        if not agreed:
            cloudformation.discard(client, name, proposal)
    return cloudformation.apply(client, name, proposal, _show) if agreed else None


def _show_next_steps(name: str, url: str, repository_uri: str) -> None:
    """Print how to push the image of the tasks, unless the repository has it, and how to start a run."""
    with explained():
        has_image = _has_image(repository_uri)
    if not has_image:
        registry = repository_uri.split("/")[0]
        click.echo(
            f"\nThe image for the tasks is still missing; build and push it:\n"
            f"  aws ecr get-login-password | docker login --username AWS --password-stdin {registry}\n"
            f"  make image IMAGE={repository_uri}:{profile.IMAGE_TAG} PUSH=1"
        )
    server = "" if os.environ.get("MLFLOW_TRACKING_URI") else "MLFLOW_TRACKING_URI=https://YOUR-MLFLOW-SERVER "
    click.echo(
        f"\nNext:\n  {server}METAFLOW_PROFILE={name} python flows/train.py --datastore s3 "
        f"--config compute configs/compute/batch.json run --data {url}"
    )


def _check_empty(contents: Mapping[str, buckets.Content]) -> None:
    """Raise a DeploymentError that names the largest bucket, if any bucket holds objects."""
    full = [bucket for bucket, content in contents.items() if content.objects]
    if full:
        largest = max(full, key=lambda bucket: contents[bucket].size)
        raise DeploymentError(
            f"The bucket {largest} holds {contents[largest]}, so nothing was deleted; copy what you need, then run "
            "`make infra-down DELETE_DATA=1` to delete everything."
        )


def _count_images(repository: str) -> int:
    client = boto3.client("ecr")
    try:
        pages = client.get_paginator("list_images").paginate(repositoryName=repository)
        return len({image["imageDigest"] for page in pages for image in page["imageIds"]})
    except client.exceptions.RepositoryNotFoundException:
        return 0


def _has_image(repository_uri: str) -> bool:
    client = boto3.client("ecr")
    repository, images = repository_uri.split("/", 1)[1], [{"imageTag": profile.IMAGE_TAG}]
    try:
        client.describe_images(repositoryName=repository, imageIds=images)
    except client.exceptions.ImageNotFoundException:
        return False
    return True


def _show(event: Event) -> None:
    """Print an event if it ends an operation on a resource."""
    if not event["ResourceStatus"].endswith("_IN_PROGRESS"):
        print(f"  {event['ResourceStatus']:28} {event['LogicalResourceId']}", flush=True)


def _split(pair: str) -> tuple[str, str]:
    key, separator, value = pair.partition("=")
    if not separator:
        raise DeploymentError(f"--parameter {pair} has no value; write KEY=VALUE.")
    return key, value


def main() -> None:
    """Run a command; print an error that the user can correct as one sentence, without a traceback."""
    try:
        commands(prog_name="python -m infra.deploy")
    except SkinlibError as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
