"""Deploy infra/stack.yaml to AWS with the data and a Metaflow profile, or take all of it down.

python -m infra.deploy up [--data FOLDER]      # make infra
python -m infra.deploy down [--delete-data]    # make infra-down
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import boto3
import click

from infra import cloudformation
from infra.cloudformation import DeploymentError, Stack, explained
from skinlib import console, dataset, sample
from skinlib.errors import SkinlibError

TEMPLATE = Path(__file__).with_name("stack.yaml")
IMAGE_TAG = "latest"  # the one tag of the repository that may move
DELETED_AT_ONCE = 1000  # as many objects as one request of S3's takes


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def commands() -> None:
    """Everything that the flow needs on AWS: buckets, GPU queue, image repository, roles."""


@commands.command()
@click.option("--stack", "name", default="skin-lesion", show_default=True, help="name of the stack and the profile")
@click.option("--data", default="sample", show_default=True, help="folder to upload; `sample` is synthetic")
@click.option("--parameter", "pairs", multiple=True, metavar="KEY=VALUE", help="of the template; kept from then on")
@click.option("--template", type=click.Path(path_type=Path, exists=True), default=TEMPLATE, hidden=True)
@click.option("--yes", is_flag=True, help="apply the changes without asking")
def up(name: str, data: str, pairs: tuple[str, ...], template: Path, yes: bool) -> None:
    """Show what would change on AWS, apply it, upload the data and write the Metaflow profile."""
    parameters = dict(_split(pair) for pair in pairs)
    folder = Path(sample.locate(data, console.progress("synthetic images made"))).expanduser().resolve()
    dataset.list_images(str(folder))  # what is wrong with the folder shows before anything is made
    with explained():
        client = boto3.client("cloudformation")
        stack = _deploy(client, name, template.read_text(), parameters, yes)
    if stack is None:
        click.echo("Nothing was changed.")
        return
    url = f"s3://{stack.outputs['DataBucket']}/{'sample' if data == 'sample' else folder.name}"
    counts = dataset.upload_folder(folder, url, console.progress("files compared"))
    click.echo(f"{counts['uploaded']:,} files uploaded to {url}, {counts['unchanged']:,} were the same there.")
    path = profile_path(name)
    click.echo(write_profile(path, profile(stack.outputs)))
    with explained():
        if not _has_image(stack.outputs["RepositoryUri"]):
            uri = stack.outputs["RepositoryUri"]
            click.echo(
                f"\nThe tasks' image is still missing; build and push it:\n"
                f"  aws ecr get-login-password | docker login --username AWS --password-stdin {uri.split('/')[0]}\n"
                f"  make image IMAGE={uri}:{IMAGE_TAG} PUSH=1"
            )
    server = "" if os.environ.get("MLFLOW_TRACKING_URI") else "MLFLOW_TRACKING_URI=https://YOUR-MLFLOW-SERVER "
    click.echo(
        f"\nNext:\n  {server}METAFLOW_PROFILE={name} python flows/train.py --datastore s3 "
        f"--config compute configs/compute/batch.json run --data {url}"
    )


@commands.command()
@click.option("--stack", "name", default="skin-lesion", show_default=True)
@click.option("--delete-data", is_flag=True, help="delete what the buckets hold, all versions of it")
@click.option("--yes", is_flag=True, help="do not ask")
def down(name: str, delete_data: bool, yes: bool) -> None:
    """Delete the stack with its buckets, images and profile; refused while a bucket holds data."""
    with explained():
        client = boto3.client("cloudformation")
        stack = cloudformation.find(client, name)
        if stack is None:
            click.echo(f"There is no stack {name} in {client.meta.region_name}; nothing to delete.")
            return
        buckets = cloudformation.resources(client, stack, "AWS::S3::Bucket")
        contents = {bucket: content(bucket) for bucket in buckets}
        full = {bucket: (count, size) for bucket, (count, size) in contents.items() if count}
        if full and not delete_data:
            bucket, (count, size) = max(full.items(), key=lambda item: item[1][1])
            raise DeploymentError(
                f"The bucket {bucket} holds {count:,} objects ({_bytes(size)}, old versions counted), and nothing was "
                "deleted; copy what you need, then `make infra-down DELETE_DATA=1` deletes all of it."
            )
        click.echo(f"This deletes the stack {name} in {client.meta.region_name} for good, with running jobs, and:")
        for bucket, (count, size) in contents.items():
            click.echo(f"  bucket      {bucket}: {count:,} objects, {_bytes(size)}, old versions counted")
        for repository in cloudformation.resources(client, stack, "AWS::ECR::Repository"):
            click.echo(f"  repository  {repository}: {_count_images(repository):,} images")
        if not yes and not click.confirm("Delete it?"):
            click.echo("Nothing was deleted.")
            return
        # The buckets first: as long as there is a stack, this can be repeated.
        for bucket in buckets:
            delete_bucket(bucket, with_content=delete_data)
        cloudformation.delete(client, name, _show)
    path = profile_path(name)
    if path.exists():
        path.unlink()
        click.echo(f"Deleted the profile {path}.")
    click.echo(f"The stack {name} is gone.")


def _deploy(client: Any, name: str, template: str, parameters: dict[str, str], yes: bool) -> Stack | None:
    """Bring the stack to what the template says; None if the user declines."""
    stack = cloudformation.find(client, name)
    if stack and stack.status in cloudformation.DEAD:
        click.echo(f"The stack {name} is {stack.status}: it can only be deleted, and made anew.")
        if not yes and not click.confirm("Delete what is left of it and go on?"):
            return None
        cloudformation.delete(client, name, _show)
    elif stack and stack.status.endswith("_IN_PROGRESS") and stack.status != "REVIEW_IN_PROGRESS":
        raise DeploymentError(f"The stack {name} is just being changed ({stack.status}); wait until that is done.")
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


def profile(outputs: dict[str, str]) -> dict[str, str]:
    """Return Metaflow's configuration for a stack with these outputs."""
    return {
        "METAFLOW_DEFAULT_DATASTORE": "s3",
        "METAFLOW_DATASTORE_SYSROOT_S3": outputs["DatastoreRoot"],
        "METAFLOW_DATATOOLS_S3ROOT": f"{outputs['DatastoreRoot']}/data",
        "METAFLOW_BATCH_JOB_QUEUE": outputs["JobQueue"],
        "METAFLOW_ECS_S3_ACCESS_IAM_ROLE": outputs["JobRole"],
        "METAFLOW_BATCH_CONTAINER_IMAGE": f"{outputs['RepositoryUri']}:{IMAGE_TAG}",
    }


def profile_path(name: str) -> Path:
    """Return the file that METAFLOW_PROFILE=NAME reads."""
    home = os.environ.get("METAFLOW_HOME") or "~/.metaflowconfig"
    return Path(home).expanduser() / f"config_{name}.json"


def write_profile(path: Path, settings: dict[str, str]) -> str:
    """Write the settings into the profile in one step; what else stands in it (a service's URL, say) stays.

    Returns:
        What was done, in a sentence.

    Raises:
        DeploymentError: The file is there and is not a JSON object, or cannot be written.
    """
    try:
        before = json.loads(path.read_text()) if path.exists() else None
        if before is not None and not isinstance(before, dict):
            raise ValueError("it holds no JSON object")
        after = {**(before or {}), **settings}
        if after == before:
            return f"The profile {path} is up to date."
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
            file.write(json.dumps(after, indent=4) + "\n")
        os.replace(file.name, path)
    except (OSError, ValueError) as error:
        raise DeploymentError(f"The profile {path} cannot be written ({error}); mend or delete that file.") from error
    if before is None:
        return f"Wrote the profile {path}."
    changed = sorted(key for key in settings if key in before and before[key] != settings[key])
    return f"Updated the profile {path}" + (f"; replaced {', '.join(changed)}." if changed else ".")


def content(bucket: str) -> tuple[int, int]:
    """Return how many versions of objects a bucket holds, marks of deletion included, and their bytes."""
    client = boto3.client("s3")
    count = size = 0
    try:
        for page in client.get_paginator("list_object_versions").paginate(Bucket=bucket):
            versions = page.get("Versions", [])
            count += len(versions) + len(page.get("DeleteMarkers", []))
            size += sum(version["Size"] for version in versions)
    except client.exceptions.NoSuchBucket:
        pass  # an earlier attempt has deleted it
    return count, size


def delete_bucket(bucket: str, *, with_content: bool) -> None:
    """Delete a bucket; one that is gone already is no error, one that holds something is, unless `with_content`."""
    client = boto3.client("s3")
    try:
        while with_content and (page := _first_versions(client, bucket)):
            _delete_objects(client, bucket, page)
        client.delete_bucket(Bucket=bucket)
    except client.exceptions.NoSuchBucket:
        pass


def _first_versions(client: Any, bucket: str) -> list[dict[str, str]]:
    """Return a page of what there is, not more than a request deletes."""
    answer = client.list_object_versions(Bucket=bucket, MaxKeys=DELETED_AT_ONCE)
    versions = answer.get("Versions", []) + answer.get("DeleteMarkers", [])
    return [{"Key": version["Key"], "VersionId": version["VersionId"]} for version in versions]


def _delete_objects(client: Any, bucket: str, batch: list[dict[str, str]]) -> None:
    answer = client.delete_objects(Bucket=bucket, Delete={"Objects": batch, "Quiet": True})
    if errors := answer.get("Errors"):
        first = errors[0]
        raise DeploymentError(
            f"s3://{bucket}/{first['Key']} and {len(errors) - 1} more cannot be deleted "
            f"({first.get('Message', first['Code'])}); correct that and try again."
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
    try:
        client.describe_images(repositoryName=repository_uri.split("/", 1)[1], imageIds=[{"imageTag": IMAGE_TAG}])
    except client.exceptions.ImageNotFoundException:
        return False
    return True


def _show(event: dict[str, Any]) -> None:
    """Print an event that ends something."""
    if not event["ResourceStatus"].endswith("_IN_PROGRESS"):
        print(f"  {event['ResourceStatus']:28} {event['LogicalResourceId']}", flush=True)


def _split(pair: str) -> tuple[str, str]:
    key, separator, value = pair.partition("=")
    if not separator:
        raise DeploymentError(f"--parameter {pair} has no value; write KEY=VALUE.")
    return key, value


def _bytes(size: int) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size //= 1000
    return f"{size:,} TB"


def main() -> None:
    """Run a command; an error that the user can act on is its sentence, without a traceback."""
    try:
        commands(prog_name="python -m infra.deploy")
    except SkinlibError as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
