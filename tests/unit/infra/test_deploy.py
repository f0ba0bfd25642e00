import json
import re
import subprocess
import sys
import uuid
from pathlib import Path
from types import SimpleNamespace

import boto3
import pytest
from botocore.exceptions import ClientError
from cfnlint.decode import cfn_yaml
from click.testing import CliRunner

from infra import cloudformation, deploy
from infra.cloudformation import Change, DeploymentError
from skinlib import sample

ROOT = Path(__file__).parents[2]
TEMPLATE = cfn_yaml.load(str(deploy.TEMPLATE))
RESOURCES = TEMPLATE["Resources"]
BUCKETS = ["DataBucket", "DatastoreBucket"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images") / "lesions"
    sample.generate(folder, n_train=4, n_test=4)
    return folder


@pytest.fixture
def name(aws, monkeypatch, tmp_path):
    """The name of a stack that is not there yet; its profile goes to a folder of its own."""
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    monkeypatch.setenv("METAFLOW_HOME", str(tmp_path / "metaflow"))
    return f"test-{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="module")
def deployed(aws_server, folder, tmp_path_factory):
    """The outputs of a stack that no test changes, and what its deployment printed."""
    with pytest.MonkeyPatch.context() as patch:
        aws_server.use(patch)
        patch.setattr(boto3, "DEFAULT_SESSION", None)
        patch.setenv("METAFLOW_HOME", str(tmp_path_factory.mktemp("metaflow")))
        text = run("up", "--data", folder, answer="y\n")
        profile = json.loads(deploy.profile_path("skin-lesion").read_text())
        return SimpleNamespace(outputs=outputs("skin-lesion"), text=text, profile=profile)


def run(*arguments, answer=None):
    """Run a command in this process, and return what it prints; its error is raised."""
    result = CliRunner().invoke(deploy.commands, [str(part) for part in arguments], input=answer)
    if result.exception:
        raise result.exception
    return result.output


def outputs(name):
    return cloudformation.find(boto3.client("cloudformation"), name).outputs


def objects(bucket):
    return [item["Key"] for item in boto3.client("s3").list_objects_v2(Bucket=bucket).get("Contents", [])]


def test_one_command_makes_everything_and_says_what_comes_next(aws, folder, deployed):
    text, made = deployed.text, deployed.outputs
    assert text.index("add  JobQueue") < text.index("Apply them?")
    assert set(made) == set(TEMPLATE["Outputs"])
    assert sorted(objects(made["DataBucket"])) == sorted(
        f"lesions/{path.relative_to(folder)}" for path in folder.rglob("*.*")
    )
    assert f"make image IMAGE={made['RepositoryUri']}:latest PUSH=1" in text
    assert "METAFLOW_PROFILE=skin-lesion python flows/train.py" in text
    assert text.rstrip().endswith(f"run --data s3://{made['DataBucket']}/lesions")


def test_metaflow_reads_the_profile(deployed, monkeypatch, tmp_path):
    made = deployed.outputs
    assert deployed.profile == {
        "METAFLOW_DEFAULT_DATASTORE": "s3",
        "METAFLOW_DATASTORE_SYSROOT_S3": f"s3://{made['DatastoreBucket']}/metaflow",
        "METAFLOW_DATATOOLS_S3ROOT": f"s3://{made['DatastoreBucket']}/metaflow/data",
        "METAFLOW_BATCH_JOB_QUEUE": made["JobQueue"],
        "METAFLOW_ECS_S3_ACCESS_IAM_ROLE": made["JobRole"],
        "METAFLOW_BATCH_CONTAINER_IMAGE": f"{made['RepositoryUri']}:latest",
    }
    monkeypatch.setenv("METAFLOW_HOME", str(tmp_path))
    monkeypatch.setenv("METAFLOW_PROFILE", "mine")
    deploy.write_profile(deploy.profile_path("mine"), deployed.profile)
    names = [name.removeprefix("METAFLOW_") for name in deployed.profile]
    code = f"from metaflow import metaflow_config as c; print(*(getattr(c, name) for name in {names}))"
    read = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert read.stdout.split() == list(deployed.profile.values())


def test_a_second_deployment_changes_and_uploads_nothing(name, folder):
    run("up", "--stack", name, "--data", folder, "--yes")
    before = outputs(name)
    text = run("up", "--stack", name, "--data", folder)
    assert f"The stack {name} is up to date." in text
    assert "0 files uploaded" in text
    assert f"config_{name}.json is up to date" in text
    assert outputs(name) == before


def test_a_change_is_shown_and_applied_only_when_agreed_to(name, folder, tmp_path):
    run("up", "--stack", name, "--data", folder, "--yes")
    bucket = outputs(name)["DatastoreBucket"]
    changed = tmp_path / "changed.yaml"
    changed.write_text(deploy.TEMPLATE.read_text().replace("ExpirationInDays: 30", "ExpirationInDays: 5"))

    def days():
        rules = boto3.client("s3").get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
        return {rule["ID"]: rule for rule in rules}["checkpoints"]["Expiration"]["Days"]

    declined = run("up", "--stack", name, "--data", folder, "--template", changed, answer="n\n")
    assert re.search(r"modify +DatastoreBucket +AWS::S3::Bucket", declined)
    assert " DataBucket " not in declined
    assert declined.endswith("Nothing was changed.\n")
    assert days() == 30
    run("up", "--stack", name, "--data", folder, "--template", changed, answer="y\n")
    assert days() == 5


def test_a_first_deployment_that_is_declined_leaves_nothing(name, folder):
    assert run("up", "--stack", name, "--data", folder, answer="n\n").endswith("Nothing was changed.\n")
    assert cloudformation.find(boto3.client("cloudformation"), name) is None
    assert not [bucket for bucket in boto3.client("s3").list_buckets()["Buckets"] if name in bucket["Name"]]


def test_a_parameter_is_kept_from_then_on_and_an_unknown_one_is_named(name, folder):
    run("up", "--stack", name, "--data", folder, "--yes", "--parameter", "MaxSpotVcpus=128")
    run("up", "--stack", name, "--data", folder, "--yes")
    found = boto3.client("batch").describe_compute_environments()["computeEnvironments"]
    resources = [item["computeResources"] for item in found if name in item["computeEnvironmentName"]]
    limits = {item["type"]: item["maxvCpus"] for item in resources}
    assert limits == {"SPOT": 128, "EC2": 16}
    with pytest.raises(DeploymentError, match="no parameter MaxVcpus; choose from DiskGigabytes, InstanceTypes"):
        run("up", "--stack", name, "--data", folder, "--parameter", "MaxVcpus=128")


def test_wrong_data_shows_before_anything_is_made(name, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(Exception, match="empty"):
        run("up", "--stack", name, "--data", tmp_path / "empty", "--yes")
    assert cloudformation.find(boto3.client("cloudformation"), name) is None


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


def test_the_flows_checkpoints_lie_where_the_lifecycle_rule_looks(aws, deployed):
    made = deployed.outputs
    rules = boto3.client("s3").get_bucket_lifecycle_configuration(Bucket=made["DatastoreBucket"])["Rules"]
    prefix = {rule["ID"]: rule["Filter"]["Prefix"] for rule in rules}["checkpoints"]
    assert 'return f"skinlib/checkpoints/{run_key}"' in (ROOT / "flows/train.py").read_text()
    assert f"s3://{made['DatastoreBucket']}/{prefix}" == f"{made['DatastoreRoot']}/skinlib/checkpoints/"


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


def test_buckets_with_data_are_deleted_only_when_told(name, folder, tmp_path):
    run("up", "--stack", name, "--data", folder, "--yes")
    made, s3 = outputs(name), boto3.client("s3")
    key = objects(made["DataBucket"])[0]
    s3.put_object(Bucket=made["DataBucket"], Key=key, Body=b"a second version")
    s3.delete_object(Bucket=made["DataBucket"], Key=key)
    with pytest.raises(DeploymentError, match=r"holds 11 objects \(.+, and nothing was deleted; .* DELETE_DATA=1"):
        run("down", "--stack", name, "--yes")
    assert run("down", "--stack", name, "--delete-data", answer="n\n").endswith("Nothing was deleted.\n")
    assert outputs(name) == made
    text = run("down", "--stack", name, "--delete-data", answer="y\n")
    assert f"{made['DataBucket']}: 11 objects" in text
    left = s3.list_buckets()["Buckets"] + boto3.client("ecr").describe_repositories()["repositories"]
    left += boto3.client("batch").describe_job_queues()["jobQueues"]
    assert name not in str(left)
    assert list((tmp_path / "metaflow").iterdir()) == []
    assert f"There is no stack {name} in us-east-1" in run("down", "--stack", name)


def test_more_versions_than_a_request_deletes_are_deleted(name, monkeypatch):
    monkeypatch.setattr(deploy, "DELETED_AT_ONCE", 3)
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket=name)
    s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    for _ in range(7):
        s3.put_object(Bucket=name, Key="checkpoint", Body=b"")
    deploy.delete_bucket(name, with_content=True)
    assert name not in str(s3.list_buckets()["Buckets"])
    deploy.delete_bucket(name, with_content=True)  # as after a first attempt that failed later


def test_what_came_into_a_bucket_after_one_looked_is_not_deleted_unasked(name):
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket=name)
    s3.put_object(Bucket=name, Key="just uploaded", Body=b"")
    with pytest.raises(ClientError, match="BucketNotEmpty"):
        deploy.delete_bucket(name, with_content=False)
    assert objects(name) == ["just uploaded"]


def test_a_failed_deployment_names_the_resource_and_the_next_one_offers_to_begin_anew(name, folder):
    with pytest.raises(DeploymentError) as caught:
        run("up", "--stack", name, "--data", folder, "--yes", "--parameter", "InstanceTypes=g5.huge")
    assert "ROLLBACK_COMPLETE: SpotEnvironment (AWS::Batch::ComputeEnvironment) failed because" in str(caught.value)
    assert "g5.huge does not exist; correct that and run `make infra` again" in str(caught.value)
    assert run("up", "--stack", name, "--data", folder, answer="n\n").endswith("Nothing was changed.\n")
    assert "Next:" in run("up", "--stack", name, "--data", folder, answer="y\ny\n")


def test_the_first_failure_counts_not_what_was_cancelled_for_it():
    def event(name, status, reason):
        return {
            "LogicalResourceId": name,
            "ResourceType": "AWS::Batch::JobQueue",
            "ResourceStatus": status,
            "ResourceStatusReason": reason,
        }

    events = [
        event("A", "CREATE_COMPLETE", "fine"),
        event("B", "CREATE_FAILED", "Resource creation cancelled"),
        event("C", "CREATE_FAILED", "no such\nrole."),
        event("D", "CREATE_FAILED", "later"),
    ]
    assert cloudformation.why_it_failed(events) == "C (AWS::Batch::JobQueue) failed because no such role"
    assert "gives no reason" in cloudformation.why_it_failed(events[:1])


def test_what_is_replaced_or_removed_stands_out():
    text = cloudformation.table(
        [
            Change("Modify", "Queue", "AWS::Batch::JobQueue", "True"),
            Change("Modify", "Vpc", "AWS::EC2::VPC", "False"),
            Change("Remove", "Role", "AWS::IAM::Role", ""),
        ]
    )
    remarks = {line.split()[1]: line.split("  ")[-1] for line in text.splitlines()[1:]}
    assert remarks["Queue"] == "IS REPLACED"
    assert remarks["Role"] == "IS REMOVED"
    assert "REPLACED" not in remarks["Vpc"]


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        (["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"], "There are no AWS credentials; set AWS_PROFILE, or"),
        (["AWS_DEFAULT_REGION"], "No AWS region is chosen; set AWS_DEFAULT_REGION"),
    ],
)
@pytest.mark.parametrize("verb", ["up", "down"])
def test_what_is_missing_is_one_sentence_without_a_traceback(aws, folder, monkeypatch, verb, missing, sentence):
    for name in missing:
        monkeypatch.delenv(name)
    command = [sys.executable, "-m", "infra.deploy", verb] + (["--data", str(folder)] if verb == "up" else [])
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.startswith(f"Error: {sentence}")
    assert len(result.stderr.splitlines()) == 1


def test_refused_credentials_are_named(aws, name, folder):
    aws.post("reset-auth", b"0")
    try:
        with pytest.raises(DeploymentError, match="AWS does not accept the credentials; check AWS_PROFILE"):
            run("up", "--stack", name, "--data", folder, "--yes")
    finally:
        aws.post("reset-auth", b"inf")


def test_a_profile_keeps_what_else_stands_in_it(tmp_path):
    path = tmp_path / "new" / "config_x.json"
    assert deploy.write_profile(path, {"METAFLOW_A": "1"}) == f"Wrote the profile {path}."
    path.write_text(json.dumps({"METAFLOW_A": "0", "METAFLOW_SERVICE_URL": "http://x"}))
    assert deploy.write_profile(path, {"METAFLOW_A": "1"}).endswith("replaced METAFLOW_A.")
    assert json.loads(path.read_text()) == {"METAFLOW_A": "1", "METAFLOW_SERVICE_URL": "http://x"}
    assert list(path.parent.iterdir()) == [path]
    path.write_text("{")
    with pytest.raises(DeploymentError, match="mend or delete that file"):
        deploy.write_profile(path, {"METAFLOW_A": "1"})


def statements(resource):
    properties = RESOURCES[resource]["Properties"]
    documents = [policy["PolicyDocument"] for policy in properties.get("Policies", [properties])]
    return [statement for document in documents for statement in document["Statement"]]


def listed(value):
    return value if isinstance(value, list) else [value]


def test_a_task_reads_the_data_and_writes_the_datastore_alone():
    buckets = [{"Fn::GetAtt": [name, "Arn"]} for name in BUCKETS]
    allowed = {
        "s3:ListBucket": buckets,
        "s3:GetBucketLocation": buckets,
        "s3:GetObject": [{"Fn::Sub": "${DataBucket.Arn}/*"}, {"Fn::Sub": "${DatastoreBucket.Arn}/*"}],
        "s3:PutObject": [{"Fn::Sub": "${DatastoreBucket.Arn}/*"}],
        "s3:DeleteObject": [{"Fn::Sub": "${DatastoreBucket.Arn}/*"}],
        "s3:AbortMultipartUpload": [{"Fn::Sub": "${DatastoreBucket.Arn}/*"}],
    }
    found = {}
    for statement in statements("JobRole"):
        assert statement["Effect"] == "Allow"
        for action in listed(statement["Action"]):
            found.setdefault(action, []).extend(listed(statement["Resource"]))
    assert found == allowed
    assert "ManagedPolicyArns" not in RESOURCES["JobRole"]["Properties"]


def test_only_what_aws_cannot_narrow_is_allowed_on_everything():
    policies = [
        name
        for name, resource in RESOURCES.items()
        if resource["Type"] in ("AWS::IAM::Role", "AWS::IAM::ManagedPolicy")
    ]
    everywhere = set()
    for name in policies:
        if name == "InstanceRole":
            continue  # a policy of AWS's own
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
