"""The served model: what it accepts, and what it answers."""

import base64
import io
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from PIL import Image

from skinlib.data import images
from skinlib.serving.classifier import Graph, SkinLesionClassifier
from tests.unit import results

SETTINGS = results.CLASSIFIER


@pytest.fixture(scope="module")
def classifier(graph: bytes, tmp_path_factory: pytest.TempPathFactory) -> SkinLesionClassifier:
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    path.write_bytes(graph)
    loaded = SkinLesionClassifier()
    loaded.load_context(mlflow.pyfunc.PythonModelContext({"model": str(path)}, {}))
    return loaded


def photographs(height: int = 224, width: int = 224, n: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, height, width, 3), np.uint8)


def table(*cells: object) -> pd.DataFrame:
    return pd.DataFrame({"image": pd.Series(list(cells), dtype=object)})


def encoded(image: np.ndarray, kind: str = "png") -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind)
    return file.getvalue()


def test_the_answer_has_the_columns_that_the_signature_promises(classifier: SkinLesionClassifier) -> None:
    answer = classifier.predict(None, table(*photographs()))
    assert dict(answer.dtypes.astype(str)) == {
        "probability": "float64",
        "malignant": "bool",
        "uncertain": "bool",
        "unfamiliar": "bool",
        "unfamiliarity": "float64",
        "unsupported": "bool",
        "error": "object",
    }
    assert answer["error"].isna().all()


@pytest.mark.parametrize("kind", ["png", "bmp", "tiff", "webp", "jpeg"])
@pytest.mark.parametrize("send", [bytes, base64.b64encode, lambda data: base64.b64encode(data).decode(), memoryview])
def test_an_image_file_is_scored_like_its_pixels_in_the_packed_set(
    kind: str, send: Any, classifier: SkinLesionClassifier
) -> None:
    data = encoded(photographs(60, 50)[0], kind)
    answer = classifier.predict(None, table(send(data)))
    expected = classifier.graph.score(images.decode(data)[None])
    assert answer["probability"][0] == expected.probability[0]
    assert answer["unfamiliarity"][0] == expected.unfamiliarity[0]


@pytest.mark.parametrize(("height", "width"), [(32, 32), (300, 400), (224, 500), (224, 224)])
def test_pixels_of_any_size_are_fitted_as_when_the_data_set_is_packed(
    height: int, width: int, classifier: SkinLesionClassifier
) -> None:
    raw = photographs(height, width)
    fitted = np.stack([images.fit(image) for image in raw])
    expected = classifier.graph.score(fitted).probability
    np.testing.assert_array_equal(classifier.predict(None, table(*raw))["probability"], expected)


@pytest.mark.parametrize(("offset", "malignant", "uncertain"), [(0.0, True, True), (1e-9, False, False)])
def test_a_probability_at_the_threshold_is_malignant_and_one_at_the_edge_of_the_band_uncertain(
    offset: float, malignant: bool, uncertain: bool, graph: bytes, classifier: SkinLesionClassifier
) -> None:
    image = photographs()[0]
    exactly = float(classifier.graph.score(image[None]).probability[0])
    moved = SkinLesionClassifier()
    moved.graph = Graph(graph)
    moved.graph.settings = {**SETTINGS, "threshold": exactly + offset, "uncertain": [exactly + offset, 1.0]}
    answer = moved.predict(None, table(image))
    assert bool(answer["malignant"][0]) is malignant
    assert bool(answer["uncertain"][0]) is uncertain


def test_pictures_of_the_training_set_are_familiar_and_noise_is_not(classifier: SkinLesionClassifier) -> None:
    answer = classifier.predict(None, table(*results.photographs(5), *photographs()))
    assert answer["unfamiliar"].tolist() == [False] * 5 + [True] * 3
    assert answer["unfamiliar"].equals(answer["unfamiliarity"] > 1)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (photographs(32, 32)[0] / 255, "its pixels are float64"),
        (photographs(32, 32)[0].astype(np.float32), "its pixels are float32"),
        (photographs(32, 32)[0] > 128, "its pixels are bool"),
        (photographs(32, 32)[0].astype(np.int64), "its pixels are int64"),
        (photographs(32, 32)[0].transpose(2, 0, 1), r"its shape is \(3, 32, 32\)"),
        (photographs(32, 32)[0][..., 0], r"its shape is \(32, 32\)"),
        (photographs(31, 40)[0], r"its shape is \(31, 40, 3\)"),
        ([[[0, 0, 0]]], "it is a list"),
        ([[1], [2, 3]], "it is a list"),
        (None, "it is a NoneType"),
        (0.5, "it is a float"),
        ("photo.jpg", "it is text"),
        (b"", "the file is empty"),
        (b"%PDF-1.7", "it is"),
        (encoded(photographs(20, 20)[0]), "it is too small"),
    ],
    ids=str,
)
def test_what_is_not_a_photograph_is_refused_with_its_position_and_reason(
    wrong: object, reason: str, classifier: SkinLesionClassifier
) -> None:
    with pytest.raises(MlflowException, match=rf"^No image can be used\. Image 0: {reason}") as error:
        classifier.predict(None, table(wrong))
    assert error.value.get_http_status_code() == 400


def test_a_bad_image_in_a_batch_is_named_and_the_others_are_answered(classifier: SkinLesionClassifier) -> None:
    good = photographs()
    answer = classifier.predict(None, table(good[0], b"no image", good[1]).set_axis([7, 8, 9]))
    expected = classifier.predict(None, table(good[0], good[1]))
    assert answer.index.tolist() == [7, 8, 9]
    assert answer.loc[[7, 9]].to_dict("list") == expected.to_dict("list")
    assert answer.loc[8].drop("error").tolist() == [None] * 6
    assert answer.loc[8, "error"].startswith("it is")


def test_a_table_without_the_column_is_refused(classifier: SkinLesionClassifier) -> None:
    with pytest.raises(MlflowException, match="needs a column 'image'"):
        classifier.predict(None, pd.DataFrame({"picture": [b"x"]}))


def test_no_images_give_an_empty_table(classifier: SkinLesionClassifier) -> None:
    assert classifier.predict(None, table()).shape == (0, 7)


def test_batches_change_no_answer(classifier: SkinLesionClassifier) -> None:
    batch = photographs(n=70)
    together = classifier.graph.score(batch).probability
    apart = np.concatenate([classifier.graph.score(image[None]).probability for image in batch])
    np.testing.assert_allclose(together, apart, rtol=1e-5)
