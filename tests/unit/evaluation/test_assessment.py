import numpy as np
import pytest

from skinlib.data.manifest import Manifest
from skinlib.data.packing import PackedDataset
from skinlib.evaluation.assessment import assess
from skinlib.evaluation.metrics import binary_metrics
from skinlib.evaluation.stress import SHIFTS
from skinlib.serving.graph import Graph
from tests.unit import results

THRESHOLD = results.CLASSIFIER["threshold"]


@pytest.fixture(scope="module")
def classifier(graph):
    return Graph(graph, threads=1)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (8, 224, 224, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def assessment(classifier, images):
    keys, nothing = tuple(map(str, range(8))), ("",) * 8
    manifest = Manifest(keys, (1,) * 8, (0, 1) * 4, ("test",) * 8, nothing, metadata={"source": ("a", "b") * 4})
    return assess(
        classifier,
        PackedDataset(images, manifest),
        np.arange(8),
        groups=np.arange(8),
        twins=np.arange(8) == 0,
        source="source",
        baselines={"source": np.arange(8) % 2 / 2},
    )


def test_the_probabilities_are_those_of_the_served_classifier(assessment, classifier, images):
    answers = classifier.score(images)
    np.testing.assert_array_equal(assessment.probabilities, answers.probability)
    np.testing.assert_array_equal(assessment.unfamiliarity, answers.unfamiliarity)


def test_the_report_has_the_share_of_uncertain_and_of_unfamiliar_images(assessment):
    scores = assessment.report["all"]
    assert scores["uncertain"]["value"] == (abs(assessment.probabilities - 0.5) <= 0.1).mean()
    assert scores["unfamiliar"]["value"] == (assessment.unfamiliarity > 1).mean()


def test_metrics_report_and_stress_agree_on_the_unchanged_images(assessment):
    assert assessment.metrics == binary_metrics(assessment.labels, assessment.probabilities, THRESHOLD)
    assert assessment.report["all"]["auroc"]["value"] == pytest.approx(assessment.metrics["auroc"])
    assert assessment.stress[0]["auroc"] == pytest.approx(assessment.metrics["auroc"])
    assert len(assessment.stress) == 1 + len(SHIFTS)


def test_the_report_is_given_without_twins_and_with_the_probabilities_before_calibration(assessment):
    assert assessment.report["without_twins"]["n"] == 7
    assert assessment.report["all"]["calibration"]["before"] is not None


def test_the_report_has_the_other_baselines(assessment):
    assert assessment.report["all"]["baselines"]["source"]["auroc"]["value"] == 1


def test_every_example_has_its_image_and_its_heat(assessment, images):
    np.testing.assert_array_equal(assessment.images, images)
    assert assessment.heat.shape == (len(assessment.examples), 224, 224)
