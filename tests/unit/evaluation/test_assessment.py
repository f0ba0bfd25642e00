import numpy as np
import pytest
import torch

from skinlib.evaluation.assessment import assess
from skinlib.evaluation.calibration import calibrate
from skinlib.evaluation.metrics import binary_metrics
from skinlib.evaluation.stress import SHIFTS
from skinlib.networks.inference import predict
from skinlib.networks.resnet import build

TEMPERATURE, THRESHOLD = 2.0, 0.5


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build("resnet10").eval()


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (8, 224, 224, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def assessment(network, images):
    labels = np.arange(8) % 2
    return assess(
        network,
        images,
        labels,
        image_size=32,
        temperature=TEMPERATURE,
        threshold=THRESHOLD,
        groups=np.arange(8),
        shortcut_probabilities=np.linspace(0, 1, 8),
        twins=np.arange(8) == 0,
    )


def test_the_probabilities_are_calibrated_predictions(assessment, network, images):
    np.testing.assert_allclose(assessment.probabilities, calibrate(predict(network, images, 32), TEMPERATURE))


def test_metrics_report_and_stress_agree_on_the_unchanged_images(assessment):
    assert assessment.metrics == binary_metrics(assessment.labels, assessment.probabilities, THRESHOLD)
    assert assessment.report["all"]["auroc"]["value"] == pytest.approx(assessment.metrics["auroc"])
    assert assessment.stress[0]["auroc"] == pytest.approx(assessment.metrics["auroc"])
    assert len(assessment.stress) == 1 + len(SHIFTS)


def test_the_report_is_given_without_twins_and_with_the_probabilities_before_calibration(assessment):
    assert assessment.report["without_twins"]["n"] == 7
    assert assessment.report["all"]["calibration"]["before"] is not None


def test_every_example_has_its_image_and_its_heat(assessment, images):
    np.testing.assert_array_equal(assessment.images, images[assessment.examples])
    assert assessment.heat.shape == (len(assessment.examples), 224, 224)
