import json
import subprocess
import sys

import pytest

from infra import profile
from infra.aws import DeploymentError


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
    profile.write(profile.path_of("mine"), deployed.profile)
    names = [name.removeprefix("METAFLOW_") for name in deployed.profile]
    code = f"from metaflow import metaflow_config as c; print(*(getattr(c, name) for name in {names}))"
    read = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert read.stdout.split() == list(deployed.profile.values())


def test_a_profile_keeps_its_other_settings(tmp_path):
    path = tmp_path / "new" / "config_x.json"
    assert profile.write(path, {"METAFLOW_A": "1"}) == f"Wrote the profile {path}."
    path.write_text(json.dumps({"METAFLOW_A": "0", "METAFLOW_SERVICE_URL": "http://x"}))
    assert profile.write(path, {"METAFLOW_A": "1"}).endswith("replaced METAFLOW_A.")
    assert json.loads(path.read_text()) == {"METAFLOW_A": "1", "METAFLOW_SERVICE_URL": "http://x"}
    assert list(path.parent.iterdir()) == [path]
    path.write_text("{")
    with pytest.raises(DeploymentError, match="correct or delete it"):
        profile.write(path, {"METAFLOW_A": "1"})
