"""The flow as a workflow definition for Argo Workflows, created offline with a real S3 server."""

import json
import re
from typing import Any

import pytest
from hera.workflows.models import WorkflowTemplate

from tests.flow.conftest import ROOT, Place
from tests.servers.s3 import S3Server

COMPUTE = {
    "backend": "kubernetes",
    "image": "registry.example.org/skin-lesion:1",
    "namespace": "ml",
    "gpu": 1,
    "gpu_type": "NVIDIA-L4",
    "memory": 14_000,
    "environment": {"MLFLOW_TRACKING_URI": "https://mlflow.example.org"},
}
STEPS = ["start", "ingest", "train", "select", "evaluate", "register", "end"]


def create(place: Place, *options: str) -> dict[str, Any]:
    """Create the definition and return it."""
    path = place.folder / "compute.json"
    path.write_text(json.dumps(COMPUTE))
    flow = [str(ROOT / "flows/train.py"), "--quiet", "--datastore", "s3", "--config", "compute", str(path), *options]
    code, output = place.call(*flow, "argo-workflows", "create", "--only-json")
    assert code == 0, output
    return json.loads(output[output.index("{") :])


@pytest.fixture(scope="module")
def place(tmp_path_factory, s3_server: S3Server) -> Place:
    s3_server.client.create_bucket(Bucket="argo")
    return Place(
        tmp_path_factory.mktemp("argo"),
        s3_server.environment()
        | {
            "METAFLOW_DATASTORE_SYSROOT_S3": "s3://argo/metaflow",
            "METAFLOW_S3_ENDPOINT_URL": s3_server.endpoint_url,
            "METAFLOW_KUBERNETES_NAMESPACE": "ml",
        },
    )


@pytest.fixture(scope="module")
def workflow(place):
    return create(place)


@pytest.fixture(scope="module")
def containers(workflow):
    """Return the container of each step's template, by step."""
    found = {template["name"]: template for template in workflow["spec"]["templates"] if "container" in template}
    return {step: found[step]["container"] for step in STEPS}


def test_only_training_requests_the_gpu(containers):
    limits = {step: container["resources"]["limits"] for step, container in containers.items()}
    assert [step for step, of in limits.items() if "nvidia.com/gpu" in of] == ["train"]


def test_the_gpu_has_the_type_of_the_config(workflow):
    selectors = {template["name"]: template.get("nodeSelector") for template in workflow["spec"]["templates"]}
    assert selectors["train"] == {"nvidia.com/gpu.product": "NVIDIA-L4"}
    assert not selectors["ingest"]


def test_every_step_has_the_image_and_the_environment(containers):
    for container in containers.values():
        variables = {variable["name"]: variable.get("value") for variable in container["env"]}
        assert container["image"] == COMPUTE["image"]
        assert variables["MLFLOW_TRACKING_URI"] == "https://mlflow.example.org"


def test_every_template_has_a_name_that_argo_accepts(workflow):
    names = [template["name"] for template in workflow["spec"]["templates"]] + list(workflow["spec"].get("hooks", {}))
    assert "error-mark-failed" in names
    assert [name for name in names if not re.fullmatch(r"[a-zA-Z0-9][-a-zA-Z0-9]*", name)] == []


def test_every_step_knows_the_deployed_commit(containers):
    commits = {
        variable.get("value") for c in containers.values() for variable in c["env"] if "COMMIT" in variable["name"]
    }
    assert len(commits) == 1
    assert re.match("[0-9a-f]{40}", commits.pop())


def test_no_credential_is_in_the_definition(workflow, s3_server):
    assert s3_server.secret_key not in json.dumps(workflow)


def test_the_definition_matches_argo_s_own_schema(workflow):
    # These models are generated from Argo's schema, and drop unknown fields, as the server does.
    read = WorkflowTemplate.model_validate(workflow)
    assert without_nulls(read.model_dump(by_alias=True, exclude_unset=True, mode="json")) == without_nulls(workflow)


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_nulls(part) for key, part in value.items() if part is not None}
    return [without_nulls(part) for part in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ([], "skinlesion.user.tester.skinlesionflow"),
        (["--branch", "staging"], "skinlesion.test.staging.skinlesionflow"),
        (["--production"], "skinlesion.prod.skinlesionflow"),
    ],
    ids=["personal", "staging", "production"],
)
def test_each_branch_of_the_project_has_its_own_workflow(place, workflow, options, name):
    definition = create(place, *options) if options else workflow
    assert definition["metadata"]["name"] == name


def test_a_namespace_other_than_the_profile_s_is_refused_in_a_sentence(place):
    path = place.folder / "elsewhere.json"
    path.write_text(json.dumps(COMPUTE | {"namespace": "elsewhere"}))
    flow = [str(ROOT / "flows/train.py"), "--datastore", "s3", "--config", "compute", str(path)]
    code, output = place.call(*flow, "argo-workflows", "create", "--only-json")
    assert code != 0
    assert "set METAFLOW_KUBERNETES_NAMESPACE=elsewhere" in output
    assert "Traceback" not in output
