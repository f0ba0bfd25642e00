"""What is said of baselines that see no lesion."""

from typing import Any

import pytest

from skinlib.evaluation.scores import AgainstBaseline
from skinlib.reporting import baseline_words
from tests.unit import results


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "532 of 958 malignant and 35 of 1,152 benign training images have the chroma subsampling 4:2:0."),
        ({"other": True}, "have a chroma subsampling other than 4:2:0."),
        (
            {"trace": "jpeg_tables", "value": "5237b305", "benign": 0, "malignant": 309},
            "309 of 958 malignant and no benign training images have the same JPEG quantisation tables (5237b305).",
        ),
        (
            {"trace": "format", "value": "PNG", "other": True, "benign": 1152},
            "1,152 of 1,152 benign and 532 of 958 mali",
        ),
        ({"trace": "format", "value": "PNG", "other": True}, "are not PNG files."),
        ({"trace": "dimensions", "value": "600x450"}, "are 600x450 pixels in size."),
        ({"trace": "exif", "value": "yes"}, "have EXIF data."),
        ({"trace": "exif", "value": "no"}, "have no EXIF data."),
        ({"trace": "exif", "value": "no", "other": True}, "have EXIF data."),
        ({"trace": "exif", "value": "yes", "other": True}, "have no EXIF data."),
        ({"trace": "source", "value": "clinic A"}, "come from the source clinic A."),
        ({"trace": "source", "value": ""}, "have no known source."),
        ({"trace": "source", "value": "", "other": True}, "have a known source."),
    ],
)
def test_a_trace_is_one_sentence(changes: dict[str, Any], words: str) -> None:
    assert words in baseline_words.trace_words(results.standout(**changes))


def test_the_strongest_trace_is_the_first() -> None:
    found = [results.standout(trace="exif", value="yes"), results.standout()]
    assert baseline_words.strongest_trace(found).endswith("have EXIF data.")
    assert baseline_words.strongest_trace([]) == "No single trace tells the classes apart."


def against(auroc: float | None, gain: float | None, *interval: float) -> AgainstBaseline:
    return {
        "auroc": {"value": auroc, "interval": None},
        "difference": {"value": gain, "interval": list(interval) or None},
    }


def test_no_verdict_if_the_model_is_clearly_better() -> None:
    assert (
        baseline_words.near_baseline(
            {"colours": against(0.86, 0.09, 0.06, 0.12), "source": against(0.77, 0.05, 0.01, 0.1)}
        )
        == ""
    )


def test_a_small_gain_is_near() -> None:
    words = baseline_words.near_baseline(
        {"colours": against(0.86, 0.09, 0.06, 0.12), "file traces": against(0.91, 0.04, 0.01, 0.07)}
    )
    assert words == (
        "The file traces alone reach an AUROC of 0.910, 0.040 below the model, "
        "so this result does not show that the model recognises lesions."
    )


def test_a_gain_that_may_be_noise_is_near() -> None:
    assert "0.200 below the model" in baseline_words.near_baseline({"source": against(0.7, 0.2, -0.1, 0.5)})


def test_the_closest_baseline_is_named() -> None:
    words = baseline_words.near_baseline({"colours": against(0.9, 0.01), "source": against(0.95, -0.04, -0.06, -0.02)})
    assert words.startswith("The source alone reaches an AUROC of 0.950, not below the model")


def test_an_undefined_gain_gives_no_verdict() -> None:
    assert baseline_words.near_baseline({"colours": against(None, None)}) == ""
