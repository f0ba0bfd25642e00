import numpy as np
import pandas as pd
import pytest

from skinlib import console, evaluation
from tests.unit import results

LEADERBOARD = pd.DataFrame(
    {
        "trial": ["resnet10-32px-1a2b3c4d"],
        "status": ["finished"],
        "validation_auroc": [0.9],
        "low": [0.85],
        "high": [0.94],
        "above_shortcut": [0.04],
        "above_shortcut_low": [float("nan")],
        "above_shortcut_high": [float("nan")],
        "epochs_trained": [3],
        "seconds": [1.0],
    }
)
REGISTERED = {"name": "skin-lesion", "version": "1", "alias": "champion"}


@pytest.mark.parametrize(
    ("estimate", "words"),
    [
        ({"value": 0.5, "interval": None}, "0.500"),
        ({"value": 0.5, "interval": [0.4, 0.6]}, "0.500 (0.400 to 0.600)"),
        ({"value": None, "interval": None}, "undefined"),
        (None, "undefined"),
    ],
)
def test_a_metric_is_written_with_its_interval_where_it_has_one(estimate, words):
    assert console.estimate(estimate) == words


def test_progress_always_shows_the_end(capsys):
    show = console.progress("images read")
    for done in range(1, 1201):
        show(done, 1200)
    assert capsys.readouterr().out == "images read: 1,200 of 1,200\n"


def distance(*deviations):
    return [
        {"statistic": f"mean of {colour}", "here": 0.7, "training": 0.76, "deviations": apart}
        for colour, apart in zip(("red", "green", "blue"), deviations, strict=False)
    ]


def written(report=None, n_rejected=0, deviations=(0.1, -0.2, None)):
    report = report or results.report()
    return console.evaluation_report("models:/m/1", "/photos", n_rejected, report, distance(*deviations))


@pytest.mark.parametrize(
    ("deviations", "words"),
    [
        ((0.1, -0.49, 0.2), ["close to", "mean of green is 0.49 standard deviations lower"]),
        ((0.1, 0.2, 0.5), ["some way from", "mean of blue is 0.50 standard deviations higher"]),
        ((1.0, 0.2, None), ["some way from", "mean of red is 1.00 standard deviations higher"]),
        ((0.3, -1.01, None), ["far from", "mean of green is 1.01 standard deviations lower", "may not carry over"]),
        ((None, None, None), ["is undefined"]),
    ],
)
def test_the_widest_distance_decides_whether_images_look_like_the_training_s(deviations, words):
    sentence = console.likeness(distance(*deviations))
    assert all(word in sentence for word in words)
    assert sentence in written(deviations=deviations)
    assert len(max(sentence.split("\n"), key=len)) <= 100


def test_the_report_on_other_images_has_every_figure_with_its_interval():
    scores = results.report()["all"]
    lines = written().split("\n")
    for name, of in {
        "AUROC": scores["auroc"],
        "AUROC of colour alone": scores["shortcut"]["auroc"],
        "gain over colour alone": scores["shortcut"]["difference"],
        "average precision": scores["average_precision"],
        "specificity at 95% sensitivity": scores["specificity_at_sensitivity"][1],
        "sensitivity at 90% specificity": scores["sensitivity_at_specificity"][0],
        "sensitivity": scores["operating_point"]["sensitivity"],
        "specificity": scores["operating_point"]["specificity"],
        "accuracy": scores["operating_point"]["accuracy"],
    }.items():
        (line,) = [line for line in lines if line.startswith(f"  {name}  ")]
        assert line.removeprefix(f"  {name}").strip() == console.estimate(of)


def test_the_report_on_other_images_counts_the_calls():
    point, rows = results.report()["all"]["operating_point"], [line.split() for line in written().split("\n")]
    assert ["malignant", str(point["true_positives"]), str(point["false_negatives"])] in rows
    assert ["benign", str(point["false_positives"]), str(point["true_negatives"])] in rows


def test_the_report_on_other_images_shows_what_scaling_did():
    of = results.report()["all"]["calibration"]
    (brier,) = [line for line in written().split("\n") if "Brier" in line]
    assert brier.index(console.estimate(of["before"]["brier"])) < brier.index(console.estimate(of["after"]["brier"]))
    assert f"{of['after']['ece']:.3f} (to {of['after']['ece_noise']:.3f} by chance)" in written()


def test_what_is_undefined_is_called_so_and_no_line_is_too_wide():
    labels, probabilities = results.LABELS[:60], results.PROBABILITIES[:60]
    groups = np.arange(60) // 2
    text = written(evaluation.report(labels, probabilities, 0.3, groups=groups, uncalibrated=probabilities**2))
    assert "  AUROC                           undefined\n" in text
    assert "60 images, 0 malignant, 30 groups of look-alikes; " in text
    assert "None" not in text + written()
    assert "nan" not in text.replace("malignant", "")
    assert max(map(len, (text + written()).split("\n"))) <= 100


def test_files_left_out_are_counted_where_there_are_any():
    assert "left out: 3" in written(n_rejected=3)
    assert "left out" not in written()


def test_nothing_is_said_of_a_shortcut_that_was_not_scored():
    bare = results.report("bare")
    assert "olour alone" not in console.summary(LEADERBOARD, bare, REGISTERED, "sqlite:///m.db", False).split("Best")[1]


def test_the_summary_shows_every_trial_with_its_interval_and_beside_the_shortcut():
    text = console.summary(LEADERBOARD, results.report(), REGISTERED, "sqlite:///m.db", False)
    (line,) = [line for line in text.split("\n") if line.startswith("  resnet10-32px-1a2b3c4d")]
    assert "finished  0.900 (0.850 to 0.940)" in line
    assert " 0.040 " in line


def test_the_report_on_other_images_shows_the_net_benefit():
    curve = results.report()["all"]["decision_curve"]
    rows = [line.split() for line in written().split("\n")]
    assert ["0.100", f"{curve['model'][9]:.3f}", f"{curve['all_malignant'][9]:.3f}"] in rows


def test_the_summary_shows_the_model_beside_the_shortcut_and_without_twins():
    report = results.report()
    text = console.summary(LEADERBOARD, report, REGISTERED, "sqlite:///m.db", False)
    for name, of in {
        "AUROC": report["all"]["auroc"],
        "without images that have a twin in training": report["without_twins"]["auroc"],
        "of colour alone": report["all"]["shortcut"]["auroc"],
        "gain over colour alone": report["all"]["shortcut"]["difference"],
    }.items():
        (line,) = [line for line in text.split("\n") if line.strip().startswith(f"{name}  ")]
        assert line.endswith(console.estimate(of))
    assert "twin" not in console.summary(LEADERBOARD, results.report("bare"), REGISTERED, "sqlite:///m.db", False)
