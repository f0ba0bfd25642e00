"""A synthetic data set, a deployed stack, and commands run as a user does."""

import json
import uuid
from types import SimpleNamespace

import boto3
import pytest
from click.testing import CliRunner

from infra import cloudformation, deploy, profile
from skinlib.data import sample


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images") / "lesions"
    sample.generate(folder, n_train=4, n_test=4)
    return folder


@pytest.fixture
def name(aws, monkeypatch, tmp_path):
    """The name of a stack that does not exist yet; its profile goes to a temporary folder."""
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    monkeypatch.setenv("METAFLOW_HOME", str(tmp_path / "metaflow"))
    return f"test-{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="session")
def deployed(aws_server, folder, tmp_path_factory):
    """The outputs and profile of a stack that no test changes, and what its deployment printed."""
    with pytest.MonkeyPatch.context() as patch:
        aws_server.use(patch)
        patch.setattr(boto3, "DEFAULT_SESSION", None)
        patch.setenv("METAFLOW_HOME", str(tmp_path_factory.mktemp("metaflow")))
        text = run("up", "--data", folder, answer="y\n")
        settings = json.loads(profile.path_of("skin-lesion").read_text())
        return SimpleNamespace(outputs=outputs("skin-lesion"), text=text, profile=settings)


def run(*arguments, answer=None):
    """Run a command in this process and return what it prints; raise its error."""
    result = CliRunner().invoke(deploy.commands, [str(part) for part in arguments], input=answer)
    if result.exception:
        raise result.exception
    return result.output


def outputs(name):
    return cloudformation.find(boto3.client("cloudformation"), name).outputs


def objects(bucket):
    return [item["Key"] for item in boto3.client("s3").list_objects_v2(Bucket=bucket).get("Contents", [])]
