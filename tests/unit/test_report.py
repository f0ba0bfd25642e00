"""Pictures and cards: what they say is true, legible, and said at the right time."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from sklearn.metrics import confusion_matrix, roc_auc_score

from skinlib import report

LABELS = np.array([0] * 60 + [1] * 40)
PROBABILITIES = np.clip(np.random.default_rng(0).normal(0.3 + 0.4 * LABELS, 0.2), 0, 1)
METRICS = {"n": 100, "n_malignant": 40, "threshold": 0.5, "auroc": None, "accuracy": 0.8756}
SUMMARY = {
    "hash": "9f2c" * 16,
    "n_images": 3292,
    "counts": {"train": {"benign": 1440, "malignant": 1195}, "test": {"benign": 360, "malignant": 297}},
    "rejected": [{"key": "train/benign/7.jpg", "reason": "truncated"}],
}
TRIAL = {"architecture": "resnet18", "learning_rate": 0.0012345}


class RecordingCard:
    """Stands for `current.card["id"]`, the real one being exercised by the flow's tests."""

    def __init__(self):
        self.components = []
        self.refreshes = 0

    def append(self, component):
        self.components.append(component)

    def refresh(self):
        self.refreshes += 1

    def text(self):
        """All that the components send to the browser, pictures apart."""
        rendered = [component.render() for component in self.components]
        return json.dumps([part for part in rendered if part["type"] != "image"], allow_nan=False)


@pytest.fixture
def card():
    return RecordingCard()


@pytest.fixture
def clock(monkeypatch):
    """The time that `report` sees, in seconds, as a list of one number."""
    now = [1000.0]
    monkeypatch.setattr(report.time, "monotonic", lambda: now[0])
    return now


def photographs(n):
    """Smooth images, as photographs are: their size in a card is then a realistic one."""
    ramp = np.linspace(60, 220, 224, dtype=np.uint8)
    return np.stack([np.roll(np.stack(np.broadcast_arrays(ramp, ramp[:, None], ramp), -1), i, 0) for i in range(n)])


def history(epochs, final=0.9):
    return [
        {
            "epoch": epoch,
            "train_loss": 0.6 / epoch,
            "validation_loss": 0.7 / epoch,
            "validation_auroc": final - 0.01 * (epochs - epoch),
            "images_per_second": 123.4,
        }
        for epoch in range(1, epochs + 1)
    ]


def search(finished, diverged=1):
    """A leaderboard and its histories."""
    rows, histories = [], {}
    for i in range(finished + diverged):
        failed = i >= finished
        rows.append(
            {
                "trial": f"resnet18-{i:02}",
                "status": "diverged" if failed else "finished",
                "reason": "the loss was nan in epoch 3; lower learning_rate" if failed else "all 20 epochs",
                "validation_auroc": np.nan if failed else 0.95 - 0.01 * i,
                "best_epoch": 4,
                "architecture": "resnet18",
                "learning_rate": 0.001 * (i + 1),
            }
        )
        histories[rows[-1]["trial"]] = [] if failed else history(5, 0.95 - 0.01 * i)
    return pd.DataFrame(rows), histories


def texts(figure):
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


@pytest.mark.parametrize(
    "draw",
    [
        lambda: report.counts_figure(SUMMARY["counts"]),
        lambda: report.image_grid(photographs(24), LABELS[:24], ["benign"] * 24),
        lambda: report.image_grid(photographs(16), LABELS[:16], ["benign\nscored 0.97"] * 16),
        lambda: report.roc_figure(LABELS, PROBABILITIES),
        lambda: report.confusion_figure(LABELS, PROBABILITIES),
        lambda: report.score_histogram(LABELS, PROBABILITIES),
        lambda: report.search_figure(*search(20), "resnet18-00"),
    ],
    ids=["counts", "grid", "mistakes", "roc", "confusion", "histogram", "search"],
)
def test_letters_have_nine_points_in_a_picture_that_no_card_shrinks(draw):
    figure = draw()
    assert min(text.get_fontsize() for text in figure.findobj(Text) if text.get_text()) >= 9
    assert figure.get_figheight() <= 5, "a card shrinks what is higher than 500 pixels"


def test_pictures_leave_matplotlib_s_global_state_alone():
    program = (
        "import sys, numpy as np; from skinlib import report;"
        "report._picture(report.roc_figure(np.array([0, 1]), np.array([.2, .7])));"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_counts_figure_names_every_split_and_class_with_its_count():
    assert {"train, benign", "1,440", "test, malignant", "297"} <= set(texts(report.counts_figure(SUMMARY["counts"])))


def test_image_grid_shows_each_image_with_its_caption():
    images = photographs(10)
    axes = report.image_grid(images, np.arange(10) % 2, [f"number {i}" for i in range(10)]).axes
    shown = [each for each in axes if each.axison]
    assert [each.get_title() for each in shown] == [f"number {i}" for i in range(10)]
    assert all(np.array_equal(each.images[0].get_array(), image) for each, image in zip(shown, images, strict=True))


def test_roc_figure_states_scikit_learn_s_area():
    assert f"AUROC {roc_auc_score(LABELS, PROBABILITIES):.3f}" in texts(report.roc_figure(LABELS, PROBABILITIES))


def test_roc_figure_states_the_rates_at_the_threshold():
    figure = report.roc_figure(np.array([0, 0, 0, 0, 1, 1]), np.array([0.1, 0.2, 0.3, 0.4, 0.3, 0.9]), 0.4)
    assert "threshold 0.40\nsensitivity 0.500\nspecificity 0.750" in texts(figure)


@pytest.mark.parametrize(("label", "name"), [(0, "benign"), (1, "malignant")])
def test_roc_figure_of_one_class_says_that_there_is_none(label, name):
    assert f"No ROC curve: all images are {name}." in texts(report.roc_figure(np.full(4, label), PROBABILITIES[:4]))


def test_roc_figure_of_equal_scores_is_chance():
    assert "AUROC 0.500" in texts(report.roc_figure(LABELS, np.full(100, 0.5)))


def test_confusion_figure_counts_as_scikit_learn_does():
    expected = confusion_matrix(LABELS, PROBABILITIES >= 0.3).ravel()
    shown = texts(report.confusion_figure(LABELS, PROBABILITIES, 0.3))
    assert [int(text) for text in shown if text.isdigit()] == list(expected)
    assert expected.sum() == 100


def test_confusion_figure_says_which_class_is_absent():
    assert texts(report.confusion_figure(np.zeros(5, int), PROBABILITIES[:5])).count("no malignant image") == 2


@pytest.mark.parametrize("probabilities", [PROBABILITIES, np.full(100, 0.5)], ids=["spread", "constant"])
def test_score_histogram_holds_every_image_of_its_class(probabilities):
    figure = report.score_histogram(LABELS, probabilities)
    assert [sum(bar.get_height() for bar in axes.patches) for axes in figure.axes] == [60, 40]


def test_search_figure_draws_a_curve_a_trial_and_names_the_best_and_the_failed():
    figure = report.search_figure(*search(3), "resnet18-00")
    assert [len(line.get_xdata()) for line in figure.axes[0].lines] == [5, 5, 5, 0]
    assert {"0.950 best", "0.940", "resnet18-03", "diverged"} <= set(texts(figure))


def test_search_figure_says_how_many_trials_it_leaves_out():
    assert "16 of 21 trials" in texts(report.search_figure(*search(20), "resnet18-00"))


def test_ingest_card_shows_counts_rejected_files_and_hash(card):
    report.ingest_card(card, SUMMARY, photographs(8), LABELS[:8], synthetic=False)
    for words in ("3,292 images", '"1195", "2635"', '"train/benign/7.jpg", "truncated"', SUMMARY["hash"]):
        assert words in card.text()


def test_ingest_card_says_that_nothing_was_rejected(card):
    report.ingest_card(card, SUMMARY | {"rejected": []}, photographs(1), LABELS[:1], synthetic=False)
    assert "Nothing was rejected." in card.text()


def test_ingest_card_counts_the_rejected_files_it_does_not_list(card):
    rejected = [{"key": f"{i}.jpg", "reason": "truncated"} for i in range(1234)]
    report.ingest_card(card, SUMMARY | {"rejected": rejected}, photographs(1), LABELS[:1], synthetic=False)
    assert "49.jpg" in card.text()
    assert "50.jpg" not in card.text()
    assert "The other 1,184 are in the manifest." in card.text()


@pytest.mark.parametrize("synthetic", [True, False])
def test_cards_of_images_say_so_if_and_only_if_they_are_synthetic(card, synthetic):
    report.ingest_card(card, SUMMARY, photographs(1), LABELS[:1], synthetic)
    evaluation = RecordingCard()
    report.evaluate_card(evaluation, LABELS, PROBABILITIES, METRICS, "", photographs(100), synthetic)
    assert ("synthetic" in card.text(), "synthetic" in evaluation.text()) == (synthetic, synthetic)


def test_training_card_is_visible_before_the_first_epoch_ends(card):
    report.TrainingCard(card, TRIAL, epochs=20)
    assert card.refreshes == 1
    assert '["learning rate", "0.00123"]' in card.text()


def test_training_card_follows_the_history_in_the_components_it_has(card):
    training = report.TrainingCard(card, TRIAL, epochs=20)
    appended = list(card.components)
    training.update([*history(7), history(8, 0.5)[-1]])
    assert card.components == appended
    assert "Best validation AUROC **0.900** in epoch 7, 123 images/s" in card.text()
    progress, auroc = card.components[1].render(), card.components[2].render()
    assert (progress["value"], progress["max"]) == (8, 20)
    assert [point["epoch"] for point in auroc["spec"]["data"]["values"]] == list(range(1, 9))


def test_training_card_refreshes_at_most_every_five_seconds(card, clock):
    training = report.TrainingCard(card, TRIAL, epochs=20)
    refreshes = []
    for epoch in range(1, 13):
        clock[0] += 1
        training.update(history(epoch))
        refreshes.append(card.refreshes)
    assert refreshes == [1, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3, 3]


def test_training_card_always_refreshes_when_the_trial_ends(card, clock):
    training = report.TrainingCard(card, TRIAL, epochs=20)
    training.update(history(1))
    training.finish("diverged", "the loss was <nan>")
    assert card.refreshes == 2
    assert "Training: diverged\\n\\nthe loss was < nan>" in card.text()


def test_training_card_sends_a_few_kilobytes_a_refresh(card):
    report.TrainingCard(card, TRIAL, epochs=100).update(history(100, 1.0))
    assert len(card.text()) < 30_000


def test_select_card_marks_the_best_and_gives_the_reasons_of_the_failed(card):
    report.select_card(card, *search(2), "resnet18-00")
    assert "3 trials, 1 failed" in card.text()
    assert '["resnet18-00 (best)", "0.950", "4", "0.001"]' in card.text()
    assert '["resnet18-02", "-", "4", "0.003"]' in card.text()
    assert '["resnet18-02", "diverged", "the loss was nan in epoch 3; lower learning_rate"]' in card.text()


def test_select_card_says_once_what_all_trials_share(card):
    report.select_card(card, *search(3), "resnet18-00")
    assert card.text().count('["architecture", "resnet18"]') == 1


def test_evaluate_card_explains_metrics_and_leaves_undefined_ones_empty(card):
    report.evaluate_card(card, LABELS, PROBABILITIES, METRICS, "resnet18", photographs(100), synthetic=False)
    assert '["accuracy", "0.876", "share of all images called rightly"]' in card.text()
    assert '["AUROC", "-", ' in card.text()


def test_evaluate_card_shows_the_surest_mistakes_first(card, monkeypatch):
    captions = []
    draw = report.image_grid
    monkeypatch.setattr(report, "image_grid", lambda *given: captions.extend(given[2]) or draw(*given))
    labels, probabilities = np.array([0, 1, 0, 1, 0]), np.array([0.6, 0.1, 0.2, 0.9, 0.8])
    report.evaluate_card(card, labels, probabilities, METRICS, "", photographs(5), synthetic=False)
    assert captions == ["malignant\nscored 0.10", "benign\nscored 0.80", "benign\nscored 0.60"]
    assert "Mistakes: 3 of 5" in card.text()


def test_evaluate_card_of_a_model_without_mistakes_says_so(card):
    report.evaluate_card(card, LABELS, LABELS.astype(float), METRICS, "", photographs(100), synthetic=False)
    assert "Mistakes: 0 of 100" in card.text()


def test_the_two_cards_of_images_take_less_than_a_megabyte(card):
    report.ingest_card(card, SUMMARY, photographs(24), LABELS[:24], synthetic=False)
    report.evaluate_card(card, LABELS, PROBABILITIES, METRICS, "", photographs(100), synthetic=False)
    assert len(json.dumps([component.render() for component in card.components])) < 1_000_000
