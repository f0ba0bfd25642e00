"""Moto's server, with what its CloudFormation (5.2.5) lacks.

- Buckets get all properties of the template, not only encryption, and their policies.
- Bucket policies are stored but not enforced: moto ignores conditions and would refuse every request.
- The policies of roles are kept as text, which the check of permissions reads; it checks each key of `DeleteObjects`.
- Batch finds its service-linked role by itself, and repositories get names that ECR accepts.
- The default of a list parameter is split, as a given value is.
- The stack of a change set has outputs, is deleted with its resources, and rolls back if a resource fails.

python -m tests.servers.moto_server -H 127.0.0.1 -p PORT
"""

import json
import re
import sys
from typing import Any

import boto3
from moto.batch.models import ComputeEnvironment, JobQueue, batch_backends
from moto.cloudformation import parsing
from moto.cloudformation.models import CloudFormationBackend, Event
from moto.core.common_models import CloudFormationModel
from moto.ec2.models.route_tables import RouteTable
from moto.ecr.models import Repository
from moto.iam.access_control import PermissionResult
from moto.iam.models import Role, iam_backends
from moto.s3.models import FakeBucket
from moto.s3.responses import S3Response
from moto.server import main

PORT = sys.argv[-1]
BATCH_ROLE = "AWSServiceRoleForBatch"


def s3() -> Any:
    """A client of this server."""
    return boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{PORT}",
        region_name="us-east-1",
        aws_access_key_id="moto",
        aws_secret_access_key="moto",
    )


def configure(bucket: str, properties: dict[str, Any]) -> None:
    """Apply the CloudFormation properties of a bucket through S3."""
    client = s3()
    if "PublicAccessBlockConfiguration" in properties:
        block = properties["PublicAccessBlockConfiguration"]
        client.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=block)
    if "OwnershipControls" in properties:
        client.put_bucket_ownership_controls(Bucket=bucket, OwnershipControls=properties["OwnershipControls"])
    if "VersioningConfiguration" in properties:
        client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration=properties["VersioningConfiguration"])
    if "LifecycleConfiguration" in properties:
        rules = [lifecycle_rule(dict(rule)) for rule in properties["LifecycleConfiguration"]["Rules"]]
        client.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": rules})


def lifecycle_rule(rule: dict[str, Any]) -> dict[str, Any]:
    """Translate a lifecycle rule from CloudFormation to S3."""
    rule["ID"] = rule.pop("Id")
    rule["Filter"] = {"Prefix": rule.pop("Prefix", "")}
    if "ExpirationInDays" in rule:
        rule["Expiration"] = {"Days": rule.pop("ExpirationInDays")}
    if "ExpiredObjectDeleteMarker" in rule:
        rule["Expiration"] = {"ExpiredObjectDeleteMarker": rule.pop("ExpiredObjectDeleteMarker")}
    return rule


class BucketPolicy(CloudFormationModel):
    """AWS::S3::BucketPolicy."""

    __module__ = "tests.servers.moto_server"  # moto expects a name with dots

    def __init__(self, bucket: str) -> None:
        self.physical_resource_id = bucket

    @staticmethod
    def cloudformation_name_type() -> str:
        return ""

    @staticmethod
    def cloudformation_type() -> str:
        return "AWS::S3::BucketPolicy"

    @classmethod
    def create_from_cloudformation_json(  # type: ignore[no-untyped-def]
        cls, resource_name: str, cloudformation_json: Any, *_, **__
    ) -> "BucketPolicy":
        properties = cloudformation_json["Properties"]
        s3().put_bucket_policy(Bucket=properties["Bucket"], Policy=json.dumps(properties["PolicyDocument"]))
        return cls(properties["Bucket"])


create_bucket = FakeBucket.create_from_cloudformation_json
update_bucket = FakeBucket.update_from_cloudformation_json
create_repository = Repository.create_from_cloudformation_json
load_parameters = parsing.ResourceMap.load_parameters
create_resource = parsing.parse_and_create_resource
create_environment = ComputeEnvironment.create_from_cloudformation_json
execute_change_set = CloudFormationBackend.execute_change_set
put_policy = Role.put_policy
authorize = S3Response._authenticate_and_authorize_s3_action


def create_whole_bucket(resource_name: str, cloudformation_json: Any, *arguments: Any, **names: Any) -> FakeBucket:
    bucket = create_bucket(resource_name, cloudformation_json, *arguments, **names)
    configure(bucket.name, cloudformation_json["Properties"])
    return bucket


def update_whole_bucket(original_resource: FakeBucket, cloudformation_json: Any, **names: Any) -> FakeBucket:
    bucket = update_bucket(original_resource=original_resource, cloudformation_json=cloudformation_json, **names)
    configure(bucket.name, cloudformation_json["Properties"])
    return bucket


def create_environment_with_role(
    resource_name: str, cloudformation_json: Any, account_id: str, region_name: str, **names: Any
) -> ComputeEnvironment:
    iam = iam_backends[account_id]["aws"]
    roles = [role for role in iam.roles.values() if role.name == BATCH_ROLE]
    role = roles[0] if roles else iam.create_role(BATCH_ROLE, "{}", "/aws-service-role/", "", "", [], 3600)
    cloudformation_json["Properties"]["ServiceRole"] = role.arn
    return create_environment(resource_name, cloudformation_json, account_id, region_name, **names)


def create_named_repository(resource_name: str, *arguments: Any, **names: Any) -> Repository:
    return create_repository(resource_name.lower(), *arguments, **names)


def put_policy_as_text(self: Role, policy_name: str, policy: Any) -> None:
    put_policy(self, policy_name, policy if isinstance(policy, str) else json.dumps(policy))


def authorize_every_key(self: S3Response, bucket_name: str | None = None, key_name: str | None = None) -> None:
    several = self.data.get("Action") == "DeleteObject" and not key_name
    for key in re.findall("<Key>(.*?)</Key>", self.body.decode()) if several else [key_name]:
        authorize(self, bucket_name, key)


def load_parameters_and_split(self: parsing.ResourceMap) -> None:
    load_parameters(self)
    for name, parameter in self._template.get("Parameters", {}).items():
        if parameter["Type"] == "CommaDelimitedList":
            value = self.resolved_parameters[name]
            self.resolved_parameters[name] = value if isinstance(value, str) else ",".join(value)
            self._parsed_resources[name] = self.resolved_parameters[name].split(",")


def create_or_say_which(logical_id: str, resource_json: Any, *arguments: Any, **names: Any) -> Any:
    try:
        return create_resource(logical_id, resource_json, *arguments, **names)
    except Exception as error:
        if not hasattr(error, "resource"):  # otherwise a resource that this one needs has failed
            error.resource = (logical_id, resource_json["Type"])
        raise


def execute_or_roll_back(self: CloudFormationBackend, change_set_name: str, stack_name: str | None = None) -> None:
    stack = self.get_stack(stack_name)
    try:
        execute_change_set(self, change_set_name, stack_name)
        stack._parse_template()
        stack.output_map = stack._create_output_map()
    except Exception as error:
        name, kind = error.resource
        for event in [
            (name, "", kind, "CREATE_FAILED", getattr(error, "message", str(error)), None),
            (stack.name, stack.stack_id, "AWS::CloudFormation::Stack", "ROLLBACK_COMPLETE", None, None),
        ]:
            stack.events.append(Event(stack.stack_id, stack.name, *event))
        stack.status = "ROLLBACK_COMPLETE"


def delete_route_table(self: RouteTable, account_id: str, region_name: str) -> None:
    self.ec2_backend.route_tables.pop(self.id)


def delete_queue(self: JobQueue, account_id: str, region_name: str) -> None:
    batch_backends[account_id][region_name].delete_job_queue(self.arn)


def delete_environment(self: ComputeEnvironment, account_id: str, region_name: str) -> None:
    batch_backends[account_id][region_name].delete_compute_environment(self.arn)


RouteTable.delete = delete_route_table
JobQueue.delete = delete_queue
ComputeEnvironment.delete = delete_environment
FakeBucket.create_from_cloudformation_json = create_whole_bucket
FakeBucket.update_from_cloudformation_json = update_whole_bucket
FakeBucket.get_permission = lambda self, action, resource: PermissionResult.NEUTRAL
S3Response._authenticate_and_authorize_s3_action = authorize_every_key
Role.put_policy = put_policy_as_text
Repository.create_from_cloudformation_json = create_named_repository
ComputeEnvironment.create_from_cloudformation_json = create_environment_with_role
CloudFormationBackend.execute_change_set = execute_or_roll_back
parsing.ResourceMap.load_parameters = load_parameters_and_split
parsing.parse_and_create_resource = create_or_say_which

if __name__ == "__main__":
    main()
