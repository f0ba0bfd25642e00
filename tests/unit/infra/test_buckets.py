import boto3
import pytest
from botocore.exceptions import ClientError

from infra import buckets
from tests.unit.infra.conftest import objects


def test_more_versions_than_a_request_deletes_are_deleted(name, monkeypatch):
    monkeypatch.setattr(buckets, "DELETED_AT_ONCE", 3)
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket=name)
    s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    for _ in range(7):
        s3.put_object(Bucket=name, Key="checkpoint", Body=b"")
    buckets.delete(name, with_content=True)
    assert name not in str(s3.list_buckets()["Buckets"])
    buckets.delete(name, with_content=True)  # as when a failed attempt is repeated


def test_a_bucket_that_holds_data_is_not_deleted_unless_told(name):
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket=name)
    s3.put_object(Bucket=name, Key="just uploaded", Body=b"")
    with pytest.raises(ClientError, match="BucketNotEmpty"):
        buckets.delete(name, with_content=False)
    assert objects(name) == ["just uploaded"]
