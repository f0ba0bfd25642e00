import math

import numpy as np
import pandas as pd
import pytest

from skinlib.audit.shortcut import STATISTICS
from skinlib.reporting import text
from skinlib.reporting.baseline_words import trace_words
from skinlib.reporting.numbers import estimate
from skinlib.reporting.report_tables import metric_rows
from tests.unit import results

LEADERBOARD = pd.DataFrame(
    {
        "trial": ["resnet10-32px-1a2b3c4d"],
        "status": ["finished"],
        "validation_auroc": [0.9],
        "low": [0.85],
        "high": [0.94],
        "colours_auroc": [0.86],
        "above_colours": [0.04],
        "above_colours_low": [math.nan],
        "above_colours_high": [math.nan],
        "epochs_trained": [3],
        "seconds": [1.0],
    }
)
REGISTERED = {"name": "skin-lesion", "version": "1"}
PROMOTION = {"alias": "champion", "reason": "There was no champion."}


@pytest.mark.parametrize(
    ("estimate", "words"),
    [
        ({"value": 0.5, "interval": None}, "0.500"),
        ({"value": 0.5, "interval": [0.4, 0.6]}, "0.500 (0.400 to 0.600)"),
        ({"value": None, "interval": None}, "undefined"),
    ],
)
def test_a_metric_is_written_with_its_interval_where_it_has_one(estimate, words):
    assert text.estimate(estimate) == words


@pytest.mark.parametrize(
    ("cells", "estimate"),
    [
        ((0.5, 0.4, 0.6), {"value": 0.5, "interval": [0.4, 0.6]}),
        ((0.5, math.nan, 0.6), {"value": 0.5, "interval": None}),
        ((math.nan, None, None), {"value": None, "interval": None}),
    ],
)
def test_nan_and_none_in_a_leaderboard_are_undefined(cells, estimate):
    assert text.estimate_from(*cells) == estimate


def distance(*deviations):
    return [
        {"statistic": f"mean of {colour}", "here": 0.7, "training": 0.76, "deviations": deviation}
        for colour, deviation in zip(("red", "green", "blue"), deviations, strict=False)
    ]


def written(report=None, n_rejected=0, deviations=(0.1, -0.2, None)):
    report = report or results.report()
    return text.evaluation_report("models:/m/1", "/photos", n_rejected, report, distance(*deviations))


def summary(report):
    return text.run_summary(LEADERBOARD, report, "Never use it.", REGISTERED, PROMOTION, "sqlite:///m.db")


@pytest.mark.parametrize(
    ("deviations", "words"),
    [
        ((0.1, -0.49, 0.2), ["close to", "mean of green is 0.49 standard deviations lower"]),
        ((0.1, 0.2, 0.5), ["differ somewhat from", "mean of blue is 0.50 standard deviations higher"]),
        ((1.0, 0.2, None), ["differ somewhat from", "mean of red is 1.00 standard deviations higher"]),
        ((0.3, -1.01, None), ["far from", "mean of green is 1.01 standard deviations lower", "may not carry over"]),
        ((None, None, None), ["is undefined"]),
    ],
)
def test_the_largest_distance_decides_whether_images_look_like_the_training_images(deviations, words):
    sentence = text.likeness(distance(*deviations))
    assert all(word in sentence for word in words)
    assert sentence in written(deviations=deviations)
    assert len(max(sentence.split("\n"), key=len)) <= 100


def test_evaluation_report_has_every_metric_with_its_interval():
    lines = written().split("\n")
    for row in metric_rows(results.report()["all"]):
        (line,) = [line for line in lines if line.startswith(f"  {row.name}  ")]
        assert line.removeprefix(f"  {row.name}").strip() == row.words


def test_evaluation_report_counts_positives_and_negatives():
    point, rows = results.report()["all"]["operating_point"], [line.split() for line in written().split("\n")]
    assert ["malignant", str(point["true_positives"]), str(point["false_negatives"])] in rows
    assert ["benign", str(point["false_positives"]), str(point["true_negatives"])] in rows


def test_evaluation_report_shows_calibration_before_and_after_scaling():
    for when in ("before", "after"):
        of = results.report()["all"]["calibration"][when]
        (brier,) = [line for line in written().split("\n") if f"Brier score {when} scaling" in line]
        (ece,) = [line for line in written().split("\n") if f"ECE {when} scaling" in line]
        assert brier.endswith(estimate(of["brier"]))
        assert ece.endswith(f"{of['ece']:.3f} (up to {of['ece_noise']:.3f} by chance)")


def test_undefined_metrics_are_shown_as_undefined_and_no_line_is_too_wide():
    labels, probabilities = results.LABELS[:60], results.PROBABILITIES[:60]
    groups = np.arange(60) // 2
    shown = written(results.report_of(labels, probabilities, 0.3, groups=groups))
    assert "  AUROC                           undefined\n" in shown
    assert "60 images, 0 malignant, 30 groups of the same lesion; " in shown
    assert "None" not in shown + written()
    assert "nan" not in shown.replace("malignant", "")
    assert max(map(len, (shown + written()).split("\n"))) <= 100


def test_unreadable_files_are_counted_if_there_are_any():
    assert "left out: 3" in written(n_rejected=3)
    assert "left out" not in written()


def test_evaluation_report_shows_the_net_benefit():
    curve = results.report()["all"]["decision_curve"]
    rows = [line.split() for line in written().split("\n")]
    assert ["0.100", f"{curve['model'][9]:.3f}", f"{curve['all_malignant'][9]:.3f}"] in rows


def test_run_summary_shows_every_trial_with_its_interval_and_its_gain():
    (line,) = [line for line in summary(results.report()).split("\n") if line.startswith("  resnet10-32px-1a2b3c4d")]
    assert "finished  0.900 (0.850 to 0.940)" in line
    assert " 0.040 " in line


def test_run_summary_names_the_best_trial_the_test_set_and_the_next_steps():
    shown = summary(results.report())
    for words in (
        "Best trial: resnet10-32px-1a2b3c4d\n",
        "Test set: 100 images, 40 malignant, threshold 0.300; with 95% intervals\n",
        "skin-lesion version 1, alias champion\n",
        "make cards\n",
        "mlflow ui --backend-store-uri sqlite:///m.db\n",
        "models:/skin-lesion@champion",
    ):
        assert words in shown


def test_run_summary_opens_with_the_verdict():
    assert summary(results.report()).startswith("\nNever use it.\n\n")


def test_run_summary_shows_the_metrics_with_the_baseline_and_without_twins():
    report = results.report()
    for name, of in {
        "AUROC": report["all"]["auroc"],
        "AUROC without twins in training": report["without_twins"]["auroc"],
        "AUROC of the colour baseline": report["all"]["baselines"]["colours"]["auroc"],
        "gain over the colour baseline": report["all"]["baselines"]["colours"]["difference"],
        "AUROC of the file traces alone": report["all"]["baselines"]["file traces"]["auroc"],
        "AUROC of the source alone": report["all"]["baselines"]["source"]["auroc"],
        "sensitivity": report["all"]["operating_point"]["sensitivity"],
        "specificity": report["all"]["operating_point"]["specificity"],
        "accuracy": report["all"]["operating_point"]["accuracy"],
    }.items():
        (line,) = [line for line in summary(report).split("\n") if line.startswith(f"  {name}  ")]
        assert line.endswith(estimate(of))
    assert "without twins" not in summary(results.report("no twins"))
    assert "source" not in summary(results.report("no twins"))


@pytest.fixture
def audit():
    pairs = [("train/benign/1.jpg", f"test/malignant/{i}.jpg") for i in (3, 4, 5)]
    colours = dict.fromkeys(STATISTICS, 0.25)
    return {
        "exact_duplicates": pairs,
        "same_lesions": pairs[:1],
        "leaks": pairs,
        "label_conflicts": pairs[:2],
        "doubtful_labels": [],
        "counts": {"train": {"benign": 1440, "malignant": 1195}, "test": {"benign": 0, "malignant": 297}},
        "statistics": {"train": {"benign": colours, "malignant": colours}, "test": {"malignant": colours}},
        "n_groups": 2900,
    }


def test_audit_report_names_a_few_pairs_and_counts_the_rest(audit):
    shown = text.audit_report(audit, {}, {"colours": None}, [], limit=2)
    first = "  train/benign/1.jpg  test/malignant/3.jpg\n"
    assert f"Exact duplicates: 3 pairs\n{first}" in shown
    assert "  and 1 more; --json lists all" in shown
    assert f"Same lesion: 1 pair\n{first}" in shown
    assert "Label conflicts: 2 pairs\n" in shown
    assert "Doubtful labels: none\n" in shown
    assert "AUROC undefined" in shown


def test_audit_report_shows_the_baselines_and_the_traces(audit):
    found = [results.standout(), results.standout(trace="exif", value="yes", benign=0)]
    shown = text.audit_report(audit, {}, {"colours": 0.86, "file traces": 0.88, "source": None}, found)
    assert "  AUROC of the file traces alone      0.880\n  AUROC of the source alone       undefined\n" in shown
    assert f"the strongest first\n  {trace_words(found[0])}\n  {trace_words(found[1])}" in shown
    assert text.audit_report(audit, {}, {}, []).endswith("\n\nNo single trace tells the classes apart.")


def test_audit_report_shows_images_and_colours_by_split_and_class(audit):
    rows = [line.split() for line in text.audit_report(audit, {}, {"colours": 0.861}, []).split("\n")]
    assert ["2,932", "images", "in", "2,900", "groups", "of", "the", "same", "lesion"] in rows
    assert ["train", "1,440", "1,195"] in rows
    assert ["train", "benign", "train", "malignant", "test", "malignant"] in rows
    assert ["mean", "of", "red", "0.250", "0.250", "0.250"] in rows


def test_audit_report_counts_unusable_files_by_reason(audit):
    keys = [f"train/benign/{i}.heic" for i in range(1200)]
    shown = text.audit_report(audit, {"it is a HEIC photograph": keys}, {}, [])
    rows = [line.strip() for line in shown.split("\n")]
    assert rows[0] == "Unusable files, left out: 1,200"
    named = "train/benign/0.heic, train/benign/1.heic, train/benign/2.heic"
    assert rows[1] == f"1,200  it is a HEIC photograph, such as {named}"


def test_run_summary_of_a_cross_validated_search_shows_the_folds_and_what_the_model_is():
    spread = {"fold_mean": 0.9, "fold_deviation": 0.02, "fold_lowest": 0.88, "fold_highest": 0.92}
    board = LEADERBOARD.assign(folds=5, **spread)
    shown = text.run_summary(board, results.report(), "", REGISTERED, PROMOTION, "http://mlflow")
    assert "out-of-fold AUROC" in shown
    assert "0.900, deviation 0.020 (0.880 to 0.920)" in shown
    best = "Best trial: resnet10-32px-1a2b3c4d, the mean of 5 networks, each trained on 4 of 5 folds\n"
    assert best in shown
