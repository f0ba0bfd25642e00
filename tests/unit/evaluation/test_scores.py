"""The test report, checked against scikit-learn and against definitions written out."""

import json
from random import Random
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from skinlib.evaluation.calibration import calibrate
from skinlib.evaluation.intervals import delong
from skinlib.evaluation.metrics import auroc_estimate, binary_metrics
from skinlib.evaluation.scores import HISTOGRAM_BINS, build_report, flat_metrics, histograms
from tests.unit import results


def images(n: int = 300, seed: int = 0) -> dict[str, Any]:
    """Arguments of `build_report` for n images: a tenth is in groups of two, and some probabilities are equal."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < 0.4).astype(int)
    groups = np.arange(n)
    groups[1 : n // 10 : 2] -= 1
    probabilities = (1 / (1 + np.exp(-rng.normal(3 * labels - 1.5, 1.5)))).round(2)
    flags = {"unfamiliar": np.arange(n) % 20 == 0, "unsupported": np.arange(n) % 20 == 1}
    return {
        "labels": labels,
        "answers": pd.DataFrame({"probability": probabilities, "uncertain": abs(probabilities - 0.3) < 0.05, **flags}),
        "settings": {"threshold": 0.3, "temperature": 2.0},
        "groups": groups,
        "baselines": {"colours": 1 / (1 + np.exp(-rng.normal(labels, 1)))},
        "twins": rng.random(n) < 0.1,
    }


def some(index: Any, **changes: Any) -> dict[str, Any]:
    """The arguments for some of the images."""
    kept = {name: IMAGES[name][index] for name in ("labels", "groups", "twins")}
    baselines = {name: each[index] for name, each in IMAGES["baselines"].items()}
    return {**IMAGES, **kept, "answers": IMAGES["answers"].iloc[index], "baselines": baselines, **changes}


IMAGES = images()
REPORT = build_report(**IMAGES)
LABELS, PROBABILITIES = IMAGES["labels"], IMAGES["answers"]["probability"].to_numpy()


def test_a_report_is_plain() -> None:
    assert json.loads(json.dumps(REPORT, allow_nan=False)) == REPORT


def test_scores_equal_scikit_learns() -> None:
    scores = REPORT["all"]
    assert scores["auroc"]["value"] == pytest.approx(roc_auc_score(LABELS, PROBABILITIES))
    assert scores["average_precision"]["value"] == pytest.approx(average_precision_score(LABELS, PROBABILITIES))
    for name, probabilities in (("before", calibrate(PROBABILITIES, 0.5)), ("after", PROBABILITIES)):
        brier = scores["calibration"][name]["brier"]
        assert brier["value"] == pytest.approx(brier_score_loss(LABELS, probabilities))


both_classes = st.lists(st.tuples(st.integers(0, 1), st.floats(0, 1)), min_size=1, max_size=50).filter(
    lambda pairs: len({label for label, _ in pairs}) == 2
)


@settings(derandomize=True, deadline=None, max_examples=50)
@given(both_classes)
def test_ranking_scores_equal_scikit_learns_on_any_images(pairs: list[tuple[int, float]]) -> None:
    labels, probabilities = (np.array(column) for column in zip(*pairs, strict=True))
    scores = results.report_of(labels, probabilities, 0.5)["all"]
    assert scores["auroc"]["value"] == pytest.approx(roc_auc_score(labels, probabilities))
    assert scores["average_precision"]["value"] == pytest.approx(average_precision_score(labels, probabilities))


def test_every_estimate_is_inside_its_interval() -> None:
    def estimates(node: Any) -> list[dict[str, Any]]:
        if isinstance(node, dict):
            return [node] if "value" in node else [found for child in node.values() for found in estimates(child)]
        return [found for child in node for found in estimates(child)] if isinstance(node, list) else []

    found = estimates(REPORT)
    assert len(found) == 2 * (4 + 4 + 1 + 3 + 6 + 2 + 3 - 1)
    for each in found:
        assert each["interval"][0] < each["value"] < each["interval"][1]


def rates(threshold: float) -> tuple[float, float]:
    positive = threshold <= PROBABILITIES
    return positive[LABELS == 1].mean(), (~positive[LABELS == 0]).mean()


def test_specificity_at_a_sensitivity_is_the_best_of_all_thresholds_that_reach_it() -> None:
    both = [rates(threshold) for threshold in np.unique(PROBABILITIES)]
    for row in REPORT["all"]["specificity_at_sensitivity"]:
        assert row["value"] == pytest.approx(max(other for reached, other in both if reached >= row["sensitivity"]))
    for row in REPORT["all"]["sensitivity_at_specificity"]:
        assert row["value"] == pytest.approx(max(reached for reached, other in both if other >= row["specificity"]))


def test_a_rate_that_is_just_allowed_is_allowed() -> None:
    # At 8.5, one of 10 benign images is classified as malignant, and one of 10 malignant images is not.
    labels, scores = np.repeat([0, 1], 10), np.array([*range(10), *[8.5] * 9, -1])
    found = results.report_of(labels, scores / 10, 0.5)["all"]
    assert [row["value"] for row in found["sensitivity_at_specificity"]] == [0.9, 0]
    assert [row["value"] for row in found["specificity_at_sensitivity"]] == [0.9, 0]


def test_the_roc_curve_rises_from_its_first_to_its_last_point_within_its_band() -> None:
    roc = REPORT["all"]["roc"]
    assert [len(column) for column in roc.values()] == [101] * 4
    assert (roc["false_positive_rate"][-1], roc["sensitivity"][-1]) == (1, 1)
    for name in ("sensitivity", "low", "high"):
        assert (np.diff(roc[name]) >= 0).all()
    assert (np.array(roc["low"]) <= roc["sensitivity"]).all()
    assert (np.array(roc["sensitivity"]) <= roc["high"]).all()


def test_the_operating_point_agrees_with_the_metrics_at_its_threshold() -> None:
    point, metrics = REPORT["all"]["operating_point"], binary_metrics(LABELS, PROBABILITIES, 0.3)
    for name in ("sensitivity", "specificity", "accuracy"):
        assert point[name]["value"] == pytest.approx(metrics[name])
    assert point["true_positives"] + point["false_negatives"] == metrics["n_malignant"]
    assert point["true_negatives"] + point["false_positives"] == metrics["n"] - metrics["n_malignant"]


def test_predictive_values_follow_from_sensitivity_specificity_and_prevalence() -> None:
    point = REPORT["all"]["operating_point"]
    assert [row["prevalence"] for row in point["predictive_values"]] == [0.02, 0.1, 0.45]
    for row in point["predictive_values"]:
        sick = (
            row["prevalence"] * point["sensitivity"]["value"],
            row["prevalence"] * (1 - point["sensitivity"]["value"]),
        )
        well = [
            (1 - row["prevalence"]) * share
            for share in (1 - point["specificity"]["value"], point["specificity"]["value"])
        ]
        assert row["ppv"]["value"] == pytest.approx(sick[0] / (sick[0] + well[0]))
        assert row["npv"]["value"] == pytest.approx(well[1] / (sick[1] + well[1]))


OTHERS = {
    "file traces": np.random.default_rng(1).normal(LABELS, 1),
    "source": np.random.default_rng(2).integers(0, 3, 300) + LABELS,
}
WITH_OTHERS = build_report(**{**IMAGES, "baselines": IMAGES["baselines"] | OTHERS})


def test_every_baseline_is_compared_on_the_same_images() -> None:
    for name, scores in (IMAGES["baselines"] | OTHERS).items():
        found, paired = WITH_OTHERS["all"]["baselines"][name], delong(LABELS, PROBABILITIES, scores)
        assert found["auroc"]["value"] == pytest.approx(roc_auc_score(LABELS, scores))
        assert found["auroc"]["interval"][0] < found["auroc"]["value"] < found["auroc"]["interval"][1]
        assert found["difference"] == {"value": paired.difference, "interval": paired.interval}


def test_baselines_are_compared_without_twins_too() -> None:
    kept = ~IMAGES["twins"]
    found = WITH_OTHERS["without_twins"]["baselines"]["source"]["auroc"]["value"]
    assert found == pytest.approx(roc_auc_score(LABELS[kept], OTHERS["source"][kept]))


def test_further_baselines_change_no_other_figure() -> None:
    for which in ("all", "without_twins"):
        assert {**WITH_OTHERS[which], "baselines": REPORT[which]["baselines"]} == REPORT[which]


def test_the_metrics_of_a_run_have_every_baseline() -> None:
    flat, source = flat_metrics(WITH_OTHERS), WITH_OTHERS["all"]["baselines"]["source"]
    assert flat["source_auroc"] == source["auroc"]["value"]
    assert flat["above_source_low"] == source["difference"]["interval"][0]
    assert {"file_traces_auroc", "file_traces_auroc_high", "above_file_traces"} <= flat.keys()
    assert flat.keys() - flat_metrics(REPORT).keys() == {name for name in flat if "source" in name or "traces" in name}


def test_scores_without_twins_are_those_of_the_other_images() -> None:
    kept = ~IMAGES["twins"]
    assert REPORT["n_twins"] == IMAGES["twins"].sum() > 0
    assert build_report(**some(kept, twins=None))["all"] == REPORT["without_twins"]


@pytest.mark.parametrize(("twins", "n"), [(None, None), (np.zeros(300, dtype=bool), 0)])
def test_without_known_twins_there_are_no_scores_without_them(twins: np.ndarray | None, n: int | None) -> None:
    found = build_report(**{**IMAGES, "twins": twins})
    assert (found["n_twins"], found["without_twins"]) == (n, None)
    assert found["all"] == REPORT["all"]


def test_the_order_of_the_images_does_not_change_the_report() -> None:
    order = Random(0).sample(range(300), 300)
    shuffled = build_report(**some(order))

    def rounded(text: str) -> Any:
        return json.loads(text, parse_float=lambda number: round(float(number), 10))

    assert rounded(json.dumps(shuffled)) == rounded(json.dumps(REPORT))


def test_another_seed_changes_the_intervals_a_little_and_no_value() -> None:
    first, second = (auroc_estimate(LABELS, PROBABILITIES, IMAGES["groups"], seed) for seed in (0, 1))
    assert first == REPORT["all"]["auroc"]
    assert first["value"] == second["value"]
    assert first["interval"] != second["interval"]
    assert first["interval"] == pytest.approx(second["interval"], abs=0.01)


@pytest.mark.parametrize("label", [0, 1])
def test_undefined_metrics_of_a_single_class_are_none(label: int) -> None:
    one = images(50) | {"labels": np.full(50, label), "twins": None}
    scores = build_report(**one)["all"]
    nothing = {"value": None, "interval": None}
    point, colours = scores["operating_point"], scores["baselines"]["colours"]
    absent, present = ("sensitivity", "specificity") if label == 0 else ("specificity", "sensitivity")
    assert scores["auroc"] == colours["auroc"] == colours["difference"] == point[absent] == nothing
    assert point[present]["value"] is not None
    for row in (*scores["specificity_at_sensitivity"], *scores["sensitivity_at_specificity"]):
        assert (row["value"], row["interval"]) == (None, None)
    assert all(row[name] == nothing for row in point["predictive_values"] for name in ("ppv", "npv"))
    assert scores["roc"] is None
    assert scores["calibration"]["after"]["brier"]["value"] is not None


@pytest.mark.parametrize("label", [0, 1])
def test_there_is_no_average_precision_of_a_single_class(label: int) -> None:
    scores = results.report_of(np.full(9, label), np.arange(9) / 9, 0.5)["all"]
    assert scores["average_precision"] == {"value": None, "interval": None}


def test_histograms_count_every_image_of_a_class_once() -> None:
    counts = histograms(np.array([0, 0, 0, 1, 1]), np.array([0, 0.019, 0.021, 0.5, 1]))
    assert counts["benign"] == [2, 1] + [0] * (HISTOGRAM_BINS - 2)
    assert np.flatnonzero(counts["malignant"]).tolist() == [HISTOGRAM_BINS // 2, HISTOGRAM_BINS - 1]


def test_flat_metrics_are_those_of_the_report() -> None:
    full = results.report()
    flat = flat_metrics(full)
    scores = full["all"]
    assert [flat["auroc"], flat["auroc_low"], flat["auroc_high"]] == [
        scores["auroc"]["value"],
        *scores["auroc"]["interval"],
    ]
    assert flat["above_colours"] == scores["baselines"]["colours"]["difference"]["value"]
    assert flat["auroc_without_twins"] == full["without_twins"]["auroc"]["value"]
    assert flat["ece"] == scores["calibration"]["after"]["ece"]
    assert flat["specificity"] == scores["operating_point"]["specificity"]["value"]


def test_flat_metrics_leave_out_what_the_report_does_not_have() -> None:
    assert not [name for name in flat_metrics(results.report("no twins")) if "twins" in name]
    assert flat_metrics(results.report("benign"))["auroc"] is None
