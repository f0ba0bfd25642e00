"""What a stack's buckets hold, and how to delete them with all versions of their objects."""

from dataclasses import dataclass

import boto3

from infra.aws import Client, DeploymentError

DELETED_AT_ONCE = 1000  # the maximum of one S3 request


@dataclass(frozen=True)
class Content:
    """What a bucket holds: all versions of its objects, including delete markers, and their bytes."""

    objects: int
    size: int

    def __str__(self) -> str:
        return f"{self.objects:,} objects ({_decimal(self.size)}, including old versions)"


def content(bucket: str) -> Content:
    """Return what a bucket holds: nothing if an earlier attempt has deleted it."""
    client = boto3.client("s3")
    objects = size = 0
    try:
        for page in client.get_paginator("list_object_versions").paginate(Bucket=bucket):
            versions = page.get("Versions", [])
            objects += len(versions) + len(page.get("DeleteMarkers", []))
            size += sum(version["Size"] for version in versions)
    except client.exceptions.NoSuchBucket:
        pass
    return Content(objects, size)


def delete(bucket: str, *, with_content: bool) -> None:
    """Delete a bucket; do nothing if it does not exist.

    Raises:
        ClientError: The bucket is not empty, and `with_content` is false.
        DeploymentError: An object cannot be deleted.
    """
    client = boto3.client("s3")
    try:
        while with_content and (versions := _first_versions(client, bucket)):
            _delete_versions(client, bucket, versions)
        client.delete_bucket(Bucket=bucket)
    except client.exceptions.NoSuchBucket:
        pass


def _first_versions(client: Client, bucket: str) -> list[dict[str, str]]:
    """Return as many versions as one request deletes, fewer if the bucket holds fewer."""
    answer = client.list_object_versions(Bucket=bucket, MaxKeys=DELETED_AT_ONCE)
    versions = answer.get("Versions", []) + answer.get("DeleteMarkers", [])
    return [{"Key": version["Key"], "VersionId": version["VersionId"]} for version in versions]


def _delete_versions(client: Client, bucket: str, versions: list[dict[str, str]]) -> None:
    answer = client.delete_objects(Bucket=bucket, Delete={"Objects": versions, "Quiet": True})
    if errors := answer.get("Errors"):
        first = errors[0]
        raise DeploymentError(
            f"s3://{bucket}/{first['Key']} and {len(errors) - 1} more cannot be deleted "
            f"({first.get('Message', first['Code'])}); correct that and try again."
        )


def _decimal(size: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} TB"
