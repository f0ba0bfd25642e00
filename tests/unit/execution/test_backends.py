"""Compute configs: what they accept, what they refuse and how, and what they request from Metaflow."""

import json
from pathlib import Path

import pytest

from skinlib.errors import ConfigError
from skinlib.execution import backends

CONFIGS = sorted((Path(__file__).parents[3] / "configs/compute").glob("*.json"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_configs_of_the_repository_are_valid(path):
    assert backends.backend_from(json.loads(path.read_text())).backend == path.stem


def test_there_is_a_config_for_every_backend():
    assert [path.stem for path in CONFIGS] == ["batch", "kubernetes", "local"]


def test_batch_requests_what_the_config_says_and_leaves_the_rest_to_the_profile():
    backend = backends.backend_from({"backend": "batch", "queue": "gpus", "cpu": 8, "memory": 30_000, "gpu": 2})
    assert backend.gpu_attributes() == {"queue": "gpus", "cpu": 8, "memory": 30_000, "gpu": 2}
    assert backend.attributes() == {"queue": "gpus"}


def test_kubernetes_selects_gpu_type_and_spot_by_the_labels_of_the_nodes():
    backend = backends.backend_from(
        {
            "backend": "kubernetes",
            "image": "registry/image:1",
            "namespace": "ml",
            "gpu_type": "NVIDIA-L4",
            "spot": True,
            "node_selector": {"zone": "a"},
            "shared_memory": 2000,
        }
    )
    assert backend.gpu_attributes()["node_selector"] == {
        "zone": "a",
        "nvidia.com/gpu.product": "NVIDIA-L4",
        "karpenter.sh/capacity-type": "spot",
    }
    assert backend.gpu_attributes()["shared_memory"] == 2000
    assert backend.attributes() == {"image": "registry/image:1", "namespace": "ml"}


def test_kubernetes_without_gpu_type_spot_and_selector_selects_no_nodes():
    assert "node_selector" not in backends.backend_from({"backend": "kubernetes"}).gpu_attributes()


def test_without_a_gpu_none_is_requested():
    assert "gpu" not in backends.backend_from({"backend": "batch", "gpu": 0}).gpu_attributes()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, ["backend must be local or batch or kubernetes"]),
        ({"backend": "slurm"}, ["backend must be local or batch or kubernetes"]),
        ({"backend": "local", "gpu": 1}, ["gpu is unknown", "known keys are timeout_minutes, backend"]),
        ({"backend": "batch", "memroy": 1}, ["memroy is unknown", "did you mean memory"]),
        ({"backend": "batch", "spot": True}, ["spot is unknown"]),
        ({"backend": "batch", "memory": "16 GB"}, ["memory: ", "integer", "not '16 GB'"]),
        ({"backend": "kubernetes", "gpu": -1}, ["gpu: ", "greater than or equal to 0", "not -1"]),
        ({"backend": "kubernetes", "retries": 5}, ["retries: ", "less than or equal to 4"]),
        ({"backend": "kubernetes", "timeout_minutes": 0}, ["timeout_minutes: "]),
        ({"backend": "batch", "image": "https://registry/a:1"}, ["'https://registry/a:1' is not the name of an image"]),
        ({"backend": "batch", "image": "registry/Image:1"}, ["write it as registry/name:tag"]),
        ({"backend": "kubernetes", "environment": {"A": 1}}, ["environment.A: ", "string"]),
    ],
)
def test_a_wrong_config_is_one_sentence_that_names_the_key(config, words):
    with pytest.raises(ConfigError) as raised:
        backends.backend_from(config)
    message = str(raised.value)
    assert all(word in message for word in ("The compute config is wrong: ", *words)), message
    assert message.endswith(".")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MLFLOW_TRACKING_PASSWORD", "hunter2"),
        ("AWS_SECRET_ACCESS_KEY", "hunter2"),
        ("HF_TOKEN", "hunter2"),
        ("MLFLOW_TRACKING_URI", "https://ada:hunter2@mlflow.example.org"),
        ("MLFLOW_TRACKING_URI", "https://hunter2@mlflow.example.org"),
        ("AWS_ENDPOINT_URL", "https://s3.example.org/?key=hunter2"),
        ("DB_PASS", "hunter2"),
        ("AUTHORIZATION", "Bearer hunter2"),
    ],
)
def test_a_secret_in_the_environment_is_refused_and_not_repeated(name, value):
    with pytest.raises(ConfigError, match=f"{name} looks like a secret") as raised:
        backends.backend_from({"backend": "batch", "environment": {name: value}})
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("name", ["TOKENIZERS_PARALLELISM", "MLFLOW_TRACKING_URI", "AUTHOR", "COMPASS"])
def test_a_harmless_variable_is_accepted(name):
    backends.backend_from({"backend": "batch", "environment": {name: "https://mlflow.example.org"}})


@pytest.mark.parametrize(
    "image",
    [
        "python",
        "skin-lesion:1",
        "localhost:5000/skin_lesion",
        "123456789012.dkr.ecr.eu-central-1.amazonaws.com/skin-lesion:0a1b",
        "ghcr.io/team/skin.lesion@sha256:" + "0" * 64,
    ],
)
def test_every_usual_name_of_an_image_is_accepted(image):
    assert backends.backend_from({"backend": "batch", "image": image}).image == image


@pytest.mark.parametrize("content", [None, "{", "[1]"], ids=["missing", "not JSON", "not an object"])
def test_a_file_without_a_config_is_named(tmp_path, content):
    path = tmp_path / "compute.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=r"compute\.json"):
        backends.read(path)
