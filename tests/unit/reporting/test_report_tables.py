"""The list of metrics: it reads every value from the right place in a report."""

import pytest

from skinlib.reporting.numbers import estimate
from skinlib.reporting.report_tables import metric_columns, metric_rows
from tests.unit import results

FULL = results.report()["all"]
POINT, CALIBRATION = FULL["operating_point"], FULL["calibration"]


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("Ranking", "AUROC", FULL["auroc"]),
        ("Ranking", "AUROC of the colour baseline", FULL["baselines"]["colours"]["auroc"]),
        ("Ranking", "gain over the colour baseline", FULL["baselines"]["colours"]["difference"]),
        ("Ranking", "average precision", FULL["average_precision"]),
        ("Ranking", "specificity at 90% sensitivity", FULL["specificity_at_sensitivity"][0]),
        ("Ranking", "specificity at 95% sensitivity", FULL["specificity_at_sensitivity"][1]),
        ("Ranking", "sensitivity at 90% specificity", FULL["sensitivity_at_specificity"][0]),
        ("Ranking", "sensitivity at 95% specificity", FULL["sensitivity_at_specificity"][1]),
        ("Operating point", "sensitivity", POINT["sensitivity"]),
        ("Operating point", "specificity", POINT["specificity"]),
        ("Operating point", "accuracy", POINT["accuracy"]),
        ("Predictive values", "PPV at 2% prevalence", POINT["predictive_values"][0]["ppv"]),
        ("Predictive values", "PPV at 10% prevalence", POINT["predictive_values"][1]["ppv"]),
        ("Predictive values", "PPV at 45% prevalence", POINT["predictive_values"][2]["ppv"]),
        ("Predictive values", "NPV at 2% prevalence", POINT["predictive_values"][0]["npv"]),
        ("Predictive values", "NPV at 10% prevalence", POINT["predictive_values"][1]["npv"]),
        ("Predictive values", "NPV at 45% prevalence", POINT["predictive_values"][2]["npv"]),
        ("Calibration", "Brier score before scaling", CALIBRATION["before"]["brier"]),
        ("Calibration", "ECE before scaling", {"value": CALIBRATION["before"]["ece"], "interval": None}),
        ("Calibration", "Brier score after scaling", CALIBRATION["after"]["brier"]),
        ("Calibration", "ECE after scaling", {"value": CALIBRATION["after"]["ece"], "interval": None}),
    ],
)
def test_row_has_the_metric_s_section_value_and_meaning(section, name, value):
    (row,) = [row for row in metric_rows(FULL) if row.name == name]
    assert (row.section, row.words.split(" (up to")[0]) == (section, estimate(value))
    assert row.meaning


def test_only_calibration_errors_have_a_value_by_chance():
    assert {row.name: row.words.split("(")[1] for row in metric_rows(FULL) if "chance" in row.words} == {
        f"ECE {when} scaling": f"up to {CALIBRATION[when]['ece_noise']:.3f} by chance)" for when in ("before", "after")
    }


def test_metrics_of_one_class_are_undefined():
    undefined = [row.name for row in metric_rows(results.report("benign")["all"]) if row.words == "undefined"]
    assert {"AUROC", "average precision", "sensitivity", "PPV at 2% prevalence"} <= set(undefined)
    assert "specificity" not in undefined


def test_columns_with_and_without_twins_have_the_same_rows():
    every, without = metric_columns(results.report()).values()
    assert [row.name for row in every] == [row.name for row in without]
    assert without == metric_rows(results.report()["without_twins"])


def test_without_twins_there_is_one_column():
    assert list(metric_columns(results.report("no twins"))) == ["all test images"]
