"""What the stack's policies allow, with moto refusing every request that they do not allow.

moto compares actions and resources on S3. Of other services it compares actions only, so what operators do there is
recorded and compared with the policy by moto's evaluator. Neither knows what AWS decides without these policies.
"""

import inspect
import itertools
import json
from contextlib import contextmanager

import boto3
import botocore.client
import pytest
from botocore.exceptions import ClientError
from metaflow.plugins.aws.batch.batch_client import BatchClient
from metaflow.plugins.datastores.s3_storage import S3Storage
from moto.iam.access_control import IAMPolicy, PermissionResult

from skinlib.data.storage import PART_BYTES, open_store
from skinlib.data.upload import upload_folder
from skinlib.errors import ConfigError, StorageError
from skinlib.execution import doctor
from skinlib.execution.backends import Batch

ROLES = ("tasks", "operators")
# What `docker push` needs (AWS's guide "IAM permissions for pushing an image"), and the Batch console to show a log.
OUTSIDE = {
    "ecr:BatchCheckLayerAvailability",
    "ecr:BatchGetImage",
    "ecr:CompleteLayerUpload",
    "ecr:GetAuthorizationToken",
    "ecr:InitiateLayerUpload",
    "ecr:PutImage",
    "ecr:UploadLayerPart",
    "logs:GetLogEvents",
}


def documents(made):
    """The policies of the deployed stack, without references."""
    iam = boto3.client("iam")
    role = iam.get_role_policy(RoleName=made["JobRole"].split("/")[-1], PolicyName="data-and-datastore")
    operators = iam.get_policy_version(PolicyArn=made["OperatorPolicy"], VersionId="v1")["PolicyVersion"]
    return {"tasks": role["PolicyDocument"], "operators": operators["Document"]}


def listed(value):
    return value if isinstance(value, list) else [value]


def permissions(document):
    """Each pair of an action and a resource that a policy allows."""
    pairs = [itertools.product(listed(part["Action"]), listed(part["Resource"])) for part in document["Statement"]]
    return list(itertools.chain(*pairs))


@contextmanager
def acting(aws, document):
    """Act as a role with this policy, and let moto check every request."""
    iam, role = boto3.client("iam"), "acting"
    arn = iam.create_role(RoleName=role, AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    iam.put_role_policy(RoleName=role, PolicyName="policy", PolicyDocument=json.dumps(document))
    found = boto3.client("sts").assume_role(RoleArn=arn, RoleSessionName="test")["Credentials"]
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(boto3, "DEFAULT_SESSION", None)
            patch.setenv("AWS_ACCESS_KEY_ID", found["AccessKeyId"])
            patch.setenv("AWS_SECRET_ACCESS_KEY", found["SecretAccessKey"])
            patch.setenv("AWS_SESSION_TOKEN", found["SessionToken"])
            aws.post("reset-auth", b"0")
            yield
    finally:
        aws.post("reset-auth", b"inf")
        iam.delete_role_policy(RoleName=role, PolicyName="policy")
        iam.delete_role(RoleName=role)


def read_images(made):
    data = open_store(f"s3://{made['DataBucket']}/lesions")
    assert data.read(data.list()[0].key)


def use(url):
    """Everything that a run and `skinlib predict` do below a URL."""
    store = open_store(url, create=True)
    store.write("kept/part", bytes(PART_BYTES + 1))  # in two parts
    assert store.exists("kept/part")
    assert not store.exists("kept/other")
    assert store.delete("kept") == 1
    doctor._check_writing(url, None)  # also aborts an upload, as one that fails


def work(role, made, folder):
    """What a role is for, on S3."""
    if role == "operators":
        upload_folder(folder, f"s3://{made['DataBucket']}/again")
        use(f"s3://{made['DataBucket']}/clinic")
    read_images(made)
    use(f"{made['DatastoreRoot']}/skinlib")
    storage = S3Storage(made["DatastoreRoot"])
    storage.save_bytes([("Flow/1/artifact", b"content")])
    assert storage.is_file(["Flow/1/artifact", "Flow/1/other"]) == [True, False]
    with storage.load_bytes(["Flow/1/artifact"]) as loaded:
        assert [key for key, path, _ in loaded if path] == ["Flow/1/artifact"]


@pytest.mark.parametrize("role", ROLES)
def test_a_policy_allows_the_work_on_s3(aws, deployed, folder, role):
    with acting(aws, documents(deployed.outputs)[role]):
        work(role, deployed.outputs, folder)


def test_the_work_needs_every_permission_of_tasks_and_operators_have_the_same_for_both_buckets(aws, deployed, folder):
    made, found = deployed.outputs, documents(deployed.outputs)
    allowed = permissions(found["tasks"])
    for left_out in allowed:
        rest = [pair for pair in allowed if pair != left_out]
        statements = [{"Effect": "Allow", "Action": action, "Resource": resource} for action, resource in rest]
        fewer = {**found["tasks"], "Statement": statements}
        with acting(aws, fewer), pytest.raises((StorageError, ConfigError)):
            work("tasks", made, folder)
    buckets = [f"arn:aws:s3:::{made[name]}" for name in ("DataBucket", "DatastoreBucket")]
    both = {(action, bucket + "/*" * ("Bucket" not in action)) for action, _ in allowed for bucket in buckets}
    assert {pair for pair in permissions(found["operators"]) if pair[0].startswith("s3:")} == both


def refusals(made):
    """Requests that no role may make, and more that tasks may not make."""
    data, datastore = {"Bucket": made["DataBucket"]}, {"Bucket": made["DatastoreBucket"]}
    image, elsewhere = {**data, "Key": "lesions/image"}, {**datastore, "Key": "other/run"}
    everyone = [
        ("s3", "list_buckets", {}),
        ("s3", "create_bucket", {"Bucket": "new"}),
        ("s3", "list_objects_v2", {"Bucket": "of-someone-else"}),
        ("s3", "get_object", {"Bucket": "of-someone-else", "Key": "secret"}),
        ("s3", "put_object", {"Bucket": "of-someone-else", "Key": "secret"}),
        ("iam", "create_role", {"RoleName": "new", "AssumeRolePolicyDocument": "{}"}),
        ("iam", "attach_role_policy", {"RoleName": "acting", "PolicyArn": made["OperatorPolicy"]}),
        ("sts", "assume_role", {"RoleArn": made["JobRole"], "RoleSessionName": "test"}),
        ("ec2", "describe_instances", {}),
        ("secretsmanager", "list_secrets", {}),
        ("secretsmanager", "get_secret_value", {"SecretId": "mlflow"}),
        ("ssm", "get_parameters_by_path", {"Path": "/"}),
        ("cloudformation", "describe_stacks", {}),
    ]
    for bucket in (data, datastore):
        everyone += [
            ("s3", "delete_bucket", bucket),
            ("s3", "delete_bucket_policy", bucket),
            ("s3", "put_bucket_versioning", {**bucket, "VersioningConfiguration": {"Status": "Suspended"}}),
            ("s3", "list_object_versions", bucket),
            ("s3", "delete_object", {**bucket, "Key": "metaflow/image", "VersionId": "1"}),
        ]
    tasks = [
        ("s3", "put_object", image),
        ("s3", "delete_object", image),
        ("s3", "create_multipart_upload", image),
        ("s3", "copy_object", {**image, "CopySource": {**datastore, "Key": "metaflow/run"}}),
        ("s3", "put_object", elsewhere),
        ("s3", "get_object", elsewhere),
        ("s3", "delete_object", elsewhere),
        # The variables and logs of other runs' jobs.
        ("batch", "describe_jobs", {"jobs": ["1"]}),
        ("batch", "describe_job_definitions", {}),
        ("batch", "list_jobs", {"jobQueue": made["JobQueue"]}),
        ("logs", "get_log_events", {"logGroupName": "/aws/batch/job", "logStreamName": "1"}),
        ("batch", "submit_job", {"jobName": "1", "jobQueue": made["JobQueue"], "jobDefinition": "1"}),
        ("ecr", "get_authorization_token", {}),
    ]
    return {"operators": everyone, "tasks": everyone + tasks}


@pytest.mark.parametrize("role", ROLES)
def test_a_policy_allows_nothing_else(aws, deployed, role):
    with acting(aws, documents(deployed.outputs)[role]):
        for service, operation, arguments in refusals(deployed.outputs)[role]:
            with pytest.raises(ClientError) as caught:
                getattr(boto3.client(service), operation)(**arguments)
            assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403, (operation, arguments)


@pytest.fixture
def requested(monkeypatch):
    """The requests to AWS: actions with their arguments."""
    requests, call = [], botocore.client.BaseClient._make_api_call

    def recorded(self, name, arguments):
        requests.append((f"{self.meta.service_model.signing_name}:{name}", arguments))
        return call(self, name, arguments)

    monkeypatch.setattr(botocore.client.BaseClient, "_make_api_call", recorded)
    return requests


def test_operators_can_start_follow_and_end_jobs_and_nothing_more(aws, deployed, requested, monkeypatch):
    made, document = deployed.outputs, documents(deployed.outputs)["operators"]
    requested.clear()
    doctor._queue(Batch(backend="batch", queue=made["JobQueue"]))
    with pytest.raises(ConfigError, match="make image"):
        doctor._image(Batch(backend="batch", image=deployed.profile["METAFLOW_BATCH_CONTAINER_IMAGE"]))
    client, settings = BatchClient(), {"image": "image", "iam_role": made["JobRole"], "job_queue": made["JobQueue"]}
    job = client.job().job_name("run").image("image").iam_role(made["JobRole"]).job_queue(made["JobQueue"])
    arguments = dict.fromkeys(inspect.signature(job.job_def).parameters) | settings | {"memory": "4096"}
    running = job.job_def(**arguments).cpu(1).memory(4096).command(["true"]).execute()
    list(client.unfinished_jobs())
    monkeypatch.setattr(type(running), "is_done", False)  # without Docker, moto's jobs end at once
    running.kill()

    used = {action for action, _ in requested}
    granted = {action for action, _ in permissions(document) if not action.startswith("s3:")}
    assert granted == used | OUTSIDE | {"iam:PassRole"}
    evaluated = IAMPolicy(json.dumps(document))

    def allowed(action, resource, **context):
        return evaluated.is_action_permitted(action, resource, None, context) == PermissionResult.PERMITTED

    [submitted] = [arguments for action, arguments in requested if action == "batch:SubmitJob"]
    for resource in (submitted["jobQueue"], submitted["jobDefinition"]):
        assert allowed("batch:SubmitJob", resource)
        assert not allowed("batch:SubmitJob", resource.replace("metaflow_", "other_").replace("queue/", "queue/other-"))
    assert allowed("batch:TerminateJob", f"arn:aws:batch:us-east-1:123456789012:job/{running.id}")
    passed = {"iam:PassedToService": "ecs-tasks.amazonaws.com"}
    assert allowed("iam:PassRole", made["JobRole"], **passed)
    assert not allowed("iam:PassRole", made["JobRole"], **{"iam:PassedToService": "ec2.amazonaws.com"})
    assert not allowed("iam:PassRole", made["JobRole"].replace("JobRole", "InstanceRole"), **passed)


def test_the_role_of_the_instances_which_tasks_can_reach_reads_no_data_no_secret_and_no_log(aws, deployed):
    policy = "arn:aws:iam::aws:policy/service-role/AmazonEC2ContainerServiceforEC2Role"  # as in the template
    iam = boto3.client("iam")
    version = iam.get_policy(PolicyArn=policy)["Policy"]["DefaultVersionId"]
    document = iam.get_policy_version(PolicyArn=policy, VersionId=version)["PolicyVersion"]["Document"]
    actions = {action for action, _ in permissions(document)}
    assert {action.split(":")[0] for action in actions} == {"ec2", "ecr", "ecs", "logs"}
    assert {action for action in actions if action.startswith("logs:")} == {"logs:CreateLogStream", "logs:PutLogEvents"}
