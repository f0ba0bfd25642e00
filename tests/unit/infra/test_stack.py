import json
import re

import boto3
import pytest
from cfnlint.decode import cfn_yaml

from infra import deploy
from skinlib.training.checkpoint import checkpoint_folder

RESOURCES = cfn_yaml.load(str(deploy.TEMPLATE))["Resources"]
BUCKETS = ["DataBucket", "DatastoreBucket"]


def statements(resource):
    properties = RESOURCES[resource]["Properties"]
    documents = [policy["PolicyDocument"] for policy in properties.get("Policies", [properties])]
    return [statement for document in documents for statement in document["Statement"]]


def listed(value):
    return value if isinstance(value, list) else [value]


@pytest.mark.parametrize("bucket_name", BUCKETS)
def test_a_bucket_is_private_encrypted_versioned_and_takes_tls_only(aws, deployed, bucket_name):
    bucket, s3 = deployed.outputs[bucket_name], boto3.client("s3")
    assert all(s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"].values())
    ownership = s3.get_bucket_ownership_controls(Bucket=bucket)["OwnershipControls"]["Rules"]
    assert ownership == [{"ObjectOwnership": "BucketOwnerEnforced"}]
    encryption = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"]
    assert encryption[0]["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"
    assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
    (statement,) = json.loads(s3.get_bucket_policy(Bucket=bucket)["Policy"])["Statement"]
    assert (statement["Effect"], statement["Principal"], statement["Action"]) == ("Deny", "*", "s3:*")
    assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    assert statement["Resource"] == [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]
    rules = {rule["ID"]: rule for rule in s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]}
    assert rules["unfinished-uploads"]["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 7}
    assert rules["old-versions"]["NoncurrentVersionExpiration"]["NoncurrentDays"] >= 30


def test_the_lifecycle_rule_covers_the_flows_checkpoints(aws, deployed):
    made = deployed.outputs
    rules = boto3.client("s3").get_bucket_lifecycle_configuration(Bucket=made["DatastoreBucket"])["Rules"]
    prefix = {rule["ID"]: rule["Filter"]["Prefix"] for rule in rules}["checkpoints"]
    assert f"s3://{made['DatastoreBucket']}/{prefix}" == f"{made['DatastoreRoot']}/{checkpoint_folder('')}"


def test_the_queue_asks_for_spot_first_and_costs_nothing_while_idle(aws, deployed):
    batch = boto3.client("batch")
    (queue,) = batch.describe_job_queues(jobQueues=[deployed.outputs["JobQueue"]])["jobQueues"]
    order = [item["computeEnvironment"] for item in queue["computeEnvironmentOrder"]]
    found = batch.describe_compute_environments(computeEnvironments=order)["computeEnvironments"]
    compute = {item["computeEnvironmentArn"]: item["computeResources"] for item in found}
    assert [compute[arn]["type"] for arn in order] == ["SPOT", "EC2"]
    assert [compute[arn]["allocationStrategy"] for arn in order] == [
        "SPOT_PRICE_CAPACITY_OPTIMIZED",
        "BEST_FIT_PROGRESSIVE",
    ]
    assert {resources["minvCpus"] for resources in compute.values()} == {0}
    assert boto3.client("ec2").describe_instances()["Reservations"] == []


def test_only_actions_that_aws_cannot_narrow_are_allowed_on_all_resources():
    policies = [
        name
        for name, resource in RESOURCES.items()
        if resource["Type"] in ("AWS::IAM::Role", "AWS::IAM::ManagedPolicy")
    ]
    everywhere = set()
    for name in policies:
        if name == "InstanceRole":
            continue  # AWS maintains this policy
        for statement in statements(name):
            actions = listed(statement["Action"])
            assert not any("*" in action for action in actions)
            if "*" in listed(statement["Resource"]):
                everywhere |= set(actions)
    assert {action for action in everywhere if not re.match(r"batch:(Describe|List)", action)} == {
        "ecr:GetAuthorizationToken"
    }


def test_a_run_can_hand_out_the_tasks_role_and_no_other():
    passing = [s for s in statements("OperatorPolicy") if "iam:PassRole" in listed(s["Action"])]
    assert [s["Resource"] for s in passing] == [{"Fn::GetAtt": ["JobRole", "Arn"]}]


def test_the_template_names_no_account_region_or_partition():
    text = deploy.TEMPLATE.read_text()
    assert not re.search(r"\d{12}|arn:aws|\b(us|eu|ap|sa|ca|me|af)-[a-z]+-\d", text)


@pytest.mark.parametrize("name", [*BUCKETS, "DataBucketPolicy", "DatastoreBucketPolicy"])
def test_no_stack_operation_deletes_a_bucket_or_its_policy(name):
    assert RESOURCES[name]["DeletionPolicy"] == RESOURCES[name]["UpdateReplacePolicy"] == "Retain"


def test_nothing_can_connect_to_an_instance_and_its_role_touches_no_data():
    assert "SecurityGroupIngress" not in RESOURCES["SecurityGroup"]["Properties"]
    assert not any(resource["Type"] == "AWS::EC2::SecurityGroupIngress" for resource in RESOURCES.values())
    options = RESOURCES["LaunchTemplate"]["Properties"]["LaunchTemplateData"]["MetadataOptions"]
    assert options["HttpTokens"] == "required"
    role = RESOURCES["InstanceRole"]["Properties"]
    assert [arn["Fn::Sub"].split("/")[-1] for arn in role["ManagedPolicyArns"]] == [
        "AmazonEC2ContainerServiceforEC2Role"
    ]
    assert "Policies" not in role
