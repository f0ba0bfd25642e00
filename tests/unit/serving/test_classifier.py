"""The served model: what it accepts, and that it predicts as evaluation does."""

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest

from skinlib.data import images
from skinlib.errors import DataError
from skinlib.evaluation import calibration
from skinlib.networks import inference, resnet
from skinlib.serving.classifier import SkinLesionClassifier, save
from skinlib.serving.settings import ClassifierSettings
from tests.unit import results

SETTINGS = results.CLASSIFIER
SIZE = SETTINGS["image_size"]


@pytest.fixture(scope="module")
def classifier(weights: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> SkinLesionClassifier:
    return load(tmp_path_factory.mktemp("artifacts"), weights, SETTINGS)


def load(folder: Path, weights: dict[str, np.ndarray], settings: ClassifierSettings) -> SkinLesionClassifier:
    loaded = SkinLesionClassifier()
    loaded.load_context(mlflow.pyfunc.PythonModelContext(save(folder, weights, settings), {}))
    return loaded


def scored(network: resnet.Network, packed: np.ndarray) -> np.ndarray:
    """Return the probabilities that the flow's `evaluate` computes for packed images."""
    return calibration.calibrate(inference.predict(network, packed, SIZE), SETTINGS["temperature"])


def photographs(height: int, width: int, n: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, height, width, 3), np.uint8)


def test_a_packed_image_gets_the_same_probability_as_in_evaluation(
    classifier: SkinLesionClassifier, network: resnet.Network
) -> None:
    packed = photographs(224, 224)
    answer = classifier.predict(None, packed)
    assert list(answer.columns) == ["probability", "malignant"]
    np.testing.assert_array_equal(answer["probability"], scored(network, packed))


def test_the_temperature_moves_probabilities_towards_one_half(
    classifier: SkinLesionClassifier, network: resnet.Network
) -> None:
    packed = photographs(224, 224)
    raw = inference.predict(network, packed, SIZE)
    assert np.all(np.abs(classifier.predict(None, packed)["probability"] - 0.5) < np.abs(raw - 0.5))


def test_an_image_at_the_threshold_is_classified_as_malignant(
    weights: dict[str, np.ndarray], network: resnet.Network, tmp_path: Path
) -> None:
    packed = photographs(224, 224)
    middle = float(np.sort(scored(network, packed))[1])
    answer = load(tmp_path, weights, {**SETTINGS, "threshold": middle}).predict(None, packed)
    assert answer["malignant"].dtype == bool
    assert sorted(answer["malignant"]) == [False, True, True]
    assert answer["malignant"].equals(answer["probability"] >= middle)


def test_the_settings_are_kept_to_the_last_digit(weights: dict[str, np.ndarray], tmp_path: Path) -> None:
    settings: ClassifierSettings = {**SETTINGS, "temperature": 1.1 + 2e-16, "threshold": 1 / 3}
    assert load(tmp_path, weights, settings).settings == {**settings, "classes": ["benign", "malignant"]}


@pytest.mark.parametrize(("height", "width"), [(32, 32), (300, 400), (224, 500), (40, 33)])
def test_images_of_other_sizes_are_resized_as_when_the_data_set_is_packed(
    height: int, width: int, classifier: SkinLesionClassifier, network: resnet.Network
) -> None:
    raw = photographs(height, width)
    fitted = np.stack([images.fit(image) for image in raw])
    np.testing.assert_array_equal(classifier.predict(None, raw)["probability"], scored(network, fitted))


@pytest.mark.parametrize(
    "convert", [lambda batch: batch[0], lambda batch: batch[:1].tolist(), lambda batch: [batch[0]]]
)
def test_one_image_and_lists_are_accepted_as_a_batch(convert: Any, classifier: SkinLesionClassifier) -> None:
    batch = photographs(32, 32)
    single = classifier.predict(None, convert(batch))["probability"]
    assert list(single) == list(classifier.predict(None, batch[:1])["probability"])


def test_no_images_give_an_empty_table(classifier: SkinLesionClassifier) -> None:
    answer = classifier.predict(None, photographs(224, 224, n=0))
    assert answer.shape == (0, 2)
    assert list(answer.dtypes) == [np.float64, bool]


@pytest.mark.parametrize(
    "wrong",
    [
        photographs(32, 32).astype(np.float32) / 255,
        photographs(32, 32).transpose(0, 3, 1, 2),
        photographs(32, 32)[..., 0],
        photographs(32, 0),
        [[[[300, 0, 0]]]],
        [photographs(32, 32)[0], photographs(32, 33)[0]],
        "photo.jpg",
    ],
    ids=["float", "channels first", "grey", "empty", "too bright", "two sizes", "a path"],
)
def test_anything_but_images_is_refused_in_one_sentence(wrong: Any, classifier: SkinLesionClassifier) -> None:
    with pytest.raises(DataError) as error:
        classifier.predict(None, wrong)
    message = str(error.value)
    assert message.endswith(".")
    assert ". " not in message
