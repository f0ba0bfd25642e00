"""Plots: what they show is correct and legible."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.contour import ContourSet
from matplotlib.text import Text
from sklearn.metrics import confusion_matrix

from skinlib.evaluation import stress
from skinlib.reporting import figures
from skinlib.reporting.numbers import estimate
from tests.unit import results
from tests.unit.results import LABELS, PROBABILITIES, THRESHOLD

STRESS = [results.STRESS[0], *(results.STRESS[1] | {"name": name} for name in stress.SHIFTS)]
FULL, BENIGN = results.report()["all"], results.report("benign")["all"]
DRAWN = {
    "grid": lambda: figures.image_grid(results.photographs(24), LABELS[:24], ["malignant"] * 24),
    "heat": lambda: heat_grid(16, "false positive (0.97)"),
    "roc": lambda: figures.roc_figure(FULL),
    "no roc": lambda: figures.roc_figure(BENIGN),
    "reliability": lambda: figures.reliability_figure(FULL["calibration"]),
    "decision": lambda: figures.decision_figure(FULL["decision_curve"], 0.49),
    "decision, late": lambda: figures.decision_figure(FULL["decision_curve"], 0.999),
    "confusion": lambda: figures.confusion_figure(LABELS, PROBABILITIES, THRESHOLD),
    "histogram": lambda: figures.score_histogram(LABELS, PROBABILITIES, THRESHOLD),
    "stress": lambda: figures.stress_figure(STRESS),
    "search": lambda: figures.search_figure(*results.search(20)),
    "one trial": lambda: figures.search_figure(*results.search(1, diverged=0)),
}


def heat_grid(n, caption="false negative (0.10)"):
    return figures.image_grid(results.photographs(n), np.arange(n) % 2, [caption] * n, results.heat(n))


def texts(figure):
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def lines_by_label(axes):
    return {line.get_label(): np.array(line.get_ydata()) for line in axes.lines}


@pytest.mark.parametrize("name", DRAWN)
def test_text_has_nine_points_and_fits_into_a_figure_that_no_card_shrinks(name):
    figure = DRAWN[name]()
    assert min(text.get_fontsize() for text in figure.findobj(Text) if text.get_text()) >= 9
    assert figure.get_figwidth() == 8
    assert figure.get_figheight() <= 5, "a card shrinks figures higher than 500 pixels"
    FigureCanvasAgg(figure).draw()
    for axes in figure.axes:
        for text in [*axes.texts, axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label]:
            if text.get_text():
                left, bottom, right, top = text.get_window_extent().extents
                margins = [left, bottom, figure.bbox.x1 - right, figure.bbox.y1 - top]
                assert min(margins) > -1, text


def test_figures_do_not_touch_the_global_state_of_matplotlib():
    program = (
        "import io, sys, numpy as np; from skinlib.reporting import figures;"
        "figures.confusion_figure(np.array([0, 1]), np.array([.2, .7]), .5).savefig(io.BytesIO());"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_image_grid_shows_each_image_with_its_caption():
    images = results.photographs(10)
    axes = figures.image_grid(images, np.arange(10) % 2, [f"number {i}" for i in range(10)]).axes
    shown = [each for each in axes if each.axison]
    assert [each.get_title() for each in shown] == [f"number {i}" for i in range(10)]
    assert all(np.array_equal(each.images[0].get_array(), image) for each, image in zip(shown, images, strict=True))


def test_heat_grid_shows_each_image_next_to_its_heat():
    images, heat = results.photographs(3), results.heat(3)
    shown = [axes for axes in heat_grid(3).axes if axes.axison]
    assert len(shown) == 6
    for plain, overlaid, image, hot in zip(shown[::2], shown[1::2], images, heat, strict=True):
        assert plain.get_title(loc="left") == "false negative (0.10)"
        assert np.array_equal(plain.images[0].get_array(), image)
        assert np.array_equal(overlaid.images[1].get_array(), hot)


def test_heat_can_be_read_without_colour():
    """A line encloses the hottest part; without heat there is no line."""
    images, heat = results.photographs(2), results.heat(2)
    heat[1] = 0
    _, hot, _, cold = (axes for axes in figures.image_grid(images, LABELS[:2], ["", ""], heat).axes if axes.axison)
    drawn = [[each for each in axes.get_children() if isinstance(each, ContourSet)] for axes in (hot, cold)]
    assert [line.levels[0] for line in drawn[0]] == [0.5, 0.5]
    assert drawn[1] == []


def test_roc_figure_states_areas_and_operating_point_with_intervals():
    words = "\n".join(texts(figures.roc_figure(FULL)))
    point = FULL["operating_point"]
    for expected in (
        f"AUROC {estimate(FULL['auroc'])}",
        f"AUROC of the colour baseline\n{estimate(FULL['baselines']['colours']['auroc'])}",
        "threshold 0.300",
        f"sensitivity {estimate(point['sensitivity'])}",
        f"specificity {estimate(point['specificity'])}",
    ):
        assert expected in words


def test_roc_figure_marks_the_operating_point_and_the_band():
    axes = figures.roc_figure(FULL).axes[0]
    (dot,) = [line for line in axes.lines if line.get_marker() == "o"]
    point = FULL["operating_point"]
    assert dot.get_xydata()[0] == pytest.approx([1 - point["specificity"]["value"], point["sensitivity"]["value"]])
    outline = axes.collections[0].get_paths()[0].vertices
    for rate, low, high in zip(*(FULL["roc"][name] for name in ("false_positive_rate", "low", "high")), strict=True):
        assert {(rate, low), (rate, high)} <= set(map(tuple, outline))


def test_roc_figure_says_why_there_is_none():
    assert {"No ROC curve: too few images of a class.", "AUROC undefined"} <= set(texts(figures.roc_figure(BENIGN)))


def test_reliability_figure_shows_every_bin_with_its_interval_before_and_after():
    panels = figures.reliability_figure(FULL["calibration"]).axes
    for axes, when in zip(panels, ("before", "after"), strict=True):
        of = FULL["calibration"][when]
        (container,) = axes.containers
        points, _, (bars,) = container
        assert points.get_xydata() == pytest.approx(np.array([[b["predicted"], b["observed"]] for b in of["bins"]]))
        ends = np.array([segment[:, 1] for segment in bars.get_segments()])
        assert ends == pytest.approx(np.array([b["interval"] for b in of["bins"]]))
        words = f"{when} scaling\nECE {of['ece']:.3f} (up to {of['ece_noise']:.3f} by chance)\nBrier score "
        assert axes.get_title(loc="left") == words + estimate(of["brier"])


def test_decision_figure_compares_the_model_with_all_and_none():
    curve = FULL["decision_curve"]
    drawn = lines_by_label(figures.decision_figure(curve, 0.3).axes[0])
    assert np.array_equal(drawn["model"], curve["model"])
    assert np.array_equal(drawn["all classified as malignant"], curve["all_malignant"])
    assert not drawn["none"].any()


@pytest.mark.parametrize("scores", [FULL, BENIGN], ids=["both classes", "benign"])
def test_decision_figure_keeps_the_useful_range_in_view(scores):
    curve = scores["decision_curve"]
    low, high = figures.decision_figure(curve, 0.3).axes[0].get_ylim()
    assert max(curve["model"]) < high < 2
    assert -0.2 < low < 0, "the net benefit of all as malignant falls to -59"


def test_confusion_figure_counts_as_scikit_learn_does():
    expected = confusion_matrix(LABELS, PROBABILITIES >= 0.3).ravel()
    shown = texts(figures.confusion_figure(LABELS, PROBABILITIES, 0.3))
    assert [int(text) for text in shown if text.isdigit()] == list(expected)
    assert expected.sum() == 100


def test_confusion_figure_says_which_class_is_absent():
    shown = texts(figures.confusion_figure(np.zeros(5, int), PROBABILITIES[:5], 0.5))
    assert shown.count("no malignant image") == 2


@pytest.mark.parametrize("probabilities", [PROBABILITIES, np.full(100, 0.5)], ids=["spread", "constant"])
def test_score_histogram_holds_every_image_of_its_class(probabilities):
    figure = figures.score_histogram(LABELS, probabilities, THRESHOLD)
    assert [sum(bar.get_height() for bar in axes.patches) for axes in figure.axes] == [60, 40]


def test_stress_figure_names_each_shift_and_states_its_values():
    shown = texts(figures.stress_figure(results.STRESS))
    assert {"unchanged", "0.956", "0.929", "cooler", "0.936", "0.895", "hair"} <= set(shown)
    assert shown.count("undefined") == 2


def test_stress_figure_does_not_exaggerate_small_changes():
    rows = [results.STRESS[0], results.STRESS[0] | {"name": "jpeg", "auroc": 0.9546}]
    low, high = figures.stress_figure(rows).axes[0].get_xlim()
    assert high - low >= 0.1


def test_stress_figure_of_benign_images_is_undefined():
    rows = [row | {"auroc": None, "sensitivity": None} for row in results.STRESS]
    assert texts(figures.stress_figure(rows)).count("undefined") == 6


def test_search_figure_draws_a_curve_per_trial_and_names_the_chosen_and_the_failed():
    figure = figures.search_figure(*results.search(3))
    curves = [line for line in figure.axes[0].lines if line.get_linestyle() != ":" or line.get_marker() != "None"]
    assert [len(line.get_xdata()) for line in curves] == [5, 5, 5, 0]
    assert {"0.950 chosen", "0.955", "resnet18-03", "diverged"} <= set(texts(figure))


def test_search_figure_draws_intervals_and_the_colour_baseline():
    board, histories = results.search(3)
    results_axes = figures.search_figure(board, histories).axes[1]
    drawn = [tuple(line.get_xdata()) for line in results_axes.lines]
    assert [pair for pair in drawn if pair in zip(board["low"], board["high"], strict=True)] == [
        (row.low, row.high) for row in board[:3].itertuples()
    ]
    assert (0.861, 0.861) in drawn
    assert "dotted: colour baseline, 0.861" in texts(results_axes.figure)


def test_search_figure_says_how_many_trials_it_leaves_out():
    assert "16 of 21 trials" in texts(figures.search_figure(*results.search(20)))
