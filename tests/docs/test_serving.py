"""The examples of docs/serving.md, and the Kubernetes config."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import boto3
import numpy as np
import pytest
import yaml
from PIL import Image

from skinlib.networks.network import build
from skinlib.serving import server
from skinlib.serving.export import export_graph
from skinlib.serving.graph import Graph
from tests.docs.commands import ROOT, blocks
from tests.servers.aws import AwsServer
from tests.unit import results

EXAMPLES = {block.language: block.text for block in blocks(ROOT / "docs/serving.md")}
KUBERNETES = ROOT / "configs/serving/kubernetes.yaml"
NPM = shutil.which("npm")


def test_sagemaker_gets_an_endpoint_with_the_image(aws_server: AwsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    aws_server.use(monkeypatch)
    exec(EXAMPLES["python"])
    client = boto3.client("sagemaker")
    endpoint = client.describe_endpoint(EndpointName="skin-lesion")
    assert endpoint["EndpointStatus"] == "InService"
    config = client.describe_endpoint_config(EndpointConfigName=endpoint["EndpointConfigName"])
    model = client.describe_model(ModelName=config["ProductionVariants"][0]["ModelName"])
    assert model["PrimaryContainer"]["Image"].endswith("/skin-lesion-serving:1")


def node_modules() -> Path | None:
    """Where npm has the packages of the example, if it has."""
    if NPM is None:
        return None
    root = Path(subprocess.run([NPM, "root", "--global"], capture_output=True, text=True, check=True).stdout.strip())
    return root if (root / "onnxruntime-node").exists() and (root / "sharp").exists() else None


@pytest.mark.skipif(
    node_modules() is None, reason="needs `npm install --global --ignore-scripts onnxruntime-node sharp`"
)
def test_the_graph_gives_the_same_answer_in_node(tmp_path: Path) -> None:
    network = build("resnet10").eval()
    weights = {name: value.numpy() for name, value in network.state_dict().items()}
    graph = export_graph(weights, results.CLASSIFIER, results.photographs(60), results.FOLDS, np.zeros(60, bool))
    (tmp_path / "model.onnx").write_bytes(graph)
    picture = results.photographs(1)
    Image.fromarray(picture[0]).save(tmp_path / "lesion.png")
    (tmp_path / "example.mjs").write_text(EXAMPLES["javascript"])
    (tmp_path / "node_modules").symlink_to(node_modules() or "")
    command = ["node", "example.mjs", "model.onnx", "lesion.png"]
    ran = subprocess.run(command, cwd=tmp_path, env=dict(os.environ), capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    expected = Graph(graph).score(picture)
    answer = [float(word) for word in ran.stdout.split()]
    np.testing.assert_allclose(answer, [expected.probability[0], expected.unfamiliarity[0]], rtol=1e-4)


def test_the_kubernetes_config_is_valid() -> None:
    validate = Path(sys.executable).with_name("kubernetes-validate")
    checked = subprocess.run([validate, "--strict", KUBERNETES], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_kubernetes_asks_the_port_on_which_the_image_answers_and_runs_it_as_its_user() -> None:
    deployment, service = yaml.safe_load_all(KUBERNETES.read_text())
    pod = deployment["spec"]["template"]["spec"]
    [container] = pod["containers"]
    dockerfile = (ROOT / ".devcontainer/Dockerfile").read_text().split(" AS serving\n")[1]
    assert container["ports"] == [{"name": "http", "containerPort": server.PORT}]
    assert f"EXPOSE {server.PORT}\n" in dockerfile
    assert f"http://127.0.0.1:{server.PORT}/ping" in dockerfile
    assert f"USER {pod['securityContext']['runAsUser']}:" in dockerfile
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]
