import re
import subprocess
import sys
from pathlib import Path

import boto3
import pytest
from cfnlint.decode import cfn_yaml

from infra import cloudformation, deploy
from infra.aws import DeploymentError
from tests.unit.infra.conftest import objects, outputs, run

ROOT = Path(__file__).parents[3]


def test_one_command_creates_everything_and_prints_the_next_step(aws, folder, deployed):
    text, made = deployed.text, deployed.outputs
    assert text.index("add  JobQueue") < text.index("Apply them?")
    assert set(made) == set(cfn_yaml.load(str(deploy.TEMPLATE))["Outputs"])
    assert sorted(objects(made["DataBucket"])) == sorted(
        f"lesions/{path.relative_to(folder)}" for path in folder.rglob("*.*")
    )
    assert f"make image IMAGE={made['RepositoryUri']}:latest PUSH=1" in text
    assert "METAFLOW_PROFILE=skin-lesion python flows/train.py" in text
    assert text.rstrip().endswith(f"run --data s3://{made['DataBucket']}/lesions")


def test_a_second_deployment_changes_and_uploads_nothing(name, folder):
    run("up", "--stack", name, "--data", folder, "--yes")
    before = outputs(name)
    text = run("up", "--stack", name, "--data", folder)
    assert f"The stack {name} is up to date." in text
    assert "Uploaded 0 files" in text
    assert f"config_{name}.json is up to date" in text
    assert outputs(name) == before


def test_a_change_is_shown_and_applied_only_after_consent(name, folder, tmp_path):
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


def test_later_deployments_keep_a_parameter_and_an_unknown_one_is_an_error(name, folder):
    run("up", "--stack", name, "--data", folder, "--yes", "--parameter", "MaxSpotVcpus=128")
    run("up", "--stack", name, "--data", folder, "--yes")
    found = boto3.client("batch").describe_compute_environments()["computeEnvironments"]
    resources = [item["computeResources"] for item in found if name in item["computeEnvironmentName"]]
    limits = {item["type"]: item["maxvCpus"] for item in resources}
    assert limits == {"SPOT": 128, "EC2": 16}
    with pytest.raises(DeploymentError, match="no parameter MaxVcpus; choose from DiskGigabytes, InstanceTypes"):
        run("up", "--stack", name, "--data", folder, "--parameter", "MaxVcpus=128")


def test_wrong_data_is_an_error_before_anything_is_created(name, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(Exception, match="empty"):
        run("up", "--stack", name, "--data", tmp_path / "empty", "--yes")
    assert cloudformation.find(boto3.client("cloudformation"), name) is None


def test_buckets_with_data_are_deleted_only_when_told(name, folder, tmp_path):
    run("up", "--stack", name, "--data", folder, "--yes")
    made, s3 = outputs(name), boto3.client("s3")
    key = objects(made["DataBucket"])[0]
    s3.put_object(Bucket=made["DataBucket"], Key=key, Body=b"a second version")
    s3.delete_object(Bucket=made["DataBucket"], Key=key)
    with pytest.raises(DeploymentError, match=r"holds 12 objects \(.+\), so nothing was deleted; .* DELETE_DATA=1"):
        run("down", "--stack", name, "--yes")
    assert run("down", "--stack", name, "--delete-data", answer="n\n").endswith("Nothing was deleted.\n")
    assert outputs(name) == made
    text = run("down", "--stack", name, "--delete-data", answer="y\n")
    assert f"{made['DataBucket']}: 12 objects" in text
    left = s3.list_buckets()["Buckets"] + boto3.client("ecr").describe_repositories()["repositories"]
    left += boto3.client("batch").describe_job_queues()["jobQueues"]
    assert name not in str(left)
    assert list((tmp_path / "metaflow").iterdir()) == []
    assert f"There is no stack {name} in us-east-1" in run("down", "--stack", name)


def test_a_failed_deployment_names_the_resource_and_the_next_one_offers_to_start_over(name, folder):
    with pytest.raises(DeploymentError) as caught:
        run("up", "--stack", name, "--data", folder, "--yes", "--parameter", "InstanceTypes=g5.huge")
    assert "ROLLBACK_COMPLETE: SpotEnvironment (AWS::Batch::ComputeEnvironment) failed because" in str(caught.value)
    assert "g5.huge does not exist; correct that and run `make infra` again" in str(caught.value)
    assert run("up", "--stack", name, "--data", folder, answer="n\n").endswith("Nothing was changed.\n")
    assert "Next:" in run("up", "--stack", name, "--data", folder, answer="y\ny\n")


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        (["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"], "There are no AWS credentials; set AWS_PROFILE, or"),
        (["AWS_DEFAULT_REGION"], "There is no AWS region; set AWS_DEFAULT_REGION"),
    ],
)
@pytest.mark.parametrize("verb", ["up", "down"])
def test_a_missing_setting_is_one_sentence_without_a_traceback(aws, folder, monkeypatch, verb, missing, sentence):
    for name in missing:
        monkeypatch.delenv(name)
    command = [sys.executable, "-m", "infra.deploy", verb] + (["--data", str(folder)] if verb == "up" else [])
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.startswith(f"Error: {sentence}")
    assert len(result.stderr.splitlines()) == 1


def test_rejected_credentials_are_an_error_that_says_so(aws, name, folder):
    aws.post("reset-auth", b"0")
    try:
        with pytest.raises(DeploymentError, match="AWS rejected the credentials; sign in again, or set AWS_PROFILE"):
            run("up", "--stack", name, "--data", folder, "--yes")
    finally:
        aws.post("reset-auth", b"inf")
