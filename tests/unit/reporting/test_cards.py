"""Cards: what they say is true, and said at the right time."""

import json

import numpy as np
import pytest

from skinlib import figures, report
from skinlib.console import estimate
from tests.unit import results
from tests.unit.results import LABELS, PROBABILITIES, history, photographs, search

PAIR = ("train/benign/1.jpg", "test/benign/2.jpg")
SUMMARY = {
    "hash": "9f2c" * 16,
    "n_images": 3292,
    "counts": {"train": {"benign": 1440, "malignant": 1195}, "test": {"benign": 360, "malignant": 297}},
    "rejected": [{"key": "train/benign/7.jpg", "reason": "truncated"}],
}
STATISTICS = {
    "train": {
        "benign": {"mean of red": 0.8, "mean of green": 0.55},
        "malignant": {"mean of red": 0.71, "mean of green": 0.53},
    },
    "test": {"benign": {"mean of red": 0.79, "mean of green": 0.54}},
}
NOTHING_FOUND = {name: [] for name in report.AUDIT} | {"n_groups": 3231, "statistics": STATISTICS}
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
        words = json.dumps([part for part in rendered if part["type"] != "image"], allow_nan=False)
        return words.replace("\\u00a0", " ")

    def table(self, heading):
        """The rows of the first table after these words, by their first cell."""
        rendered = iter([component.render() for component in self.components])
        next(part for part in rendered if heading in part.get("source", ""))
        rows = next(part for part in rendered if part["type"] == "table")["data"]
        return {row[0]: [cell.replace("\u00a0", " ") for cell in row[1:]] for row in rows}


@pytest.fixture
def card():
    return RecordingCard()


@pytest.fixture
def clock(monkeypatch):
    """The time that `report` sees, in seconds, as a list of one number."""
    now = [1000.0]
    monkeypatch.setattr(report.time, "monotonic", lambda: now[0])
    return now


def show_data(card, summary=SUMMARY, audit=NOTHING_FOUND, shortcut_auroc=0.8614, synthetic=False, n=1):
    report.ingest_card(card, summary, audit, photographs(n), LABELS[:n], shortcut_auroc, synthetic)


def show_test(card, of, labels=LABELS, probabilities=PROBABILITIES, examples=(), synthetic=False):
    k = len(examples)
    report.evaluate_card(
        card,
        of,
        labels,
        probabilities,
        stress=results.STRESS,
        examples=np.array(examples, int),
        images=photographs(k) if k else np.zeros((0, 224, 224, 3), np.uint8),
        heat=results.heat(k) if k else np.zeros((0, 224, 224), np.float32),
        title="resnet18-128px",
        model_card="# Model card\n\n|a|b|\n|-|-:|\n|1|2|\n",
        synthetic=synthetic,
    )


@pytest.fixture(scope="module")
def full():
    """The card of `results.report()`; drawn once, since that takes half a second."""
    card = RecordingCard()
    show_test(card, results.report())
    return card


def test_ingest_card_shows_counts_rejected_files_and_hash(card):
    show_data(card)
    for words in ("3,292 images", '"1195", "2635"', '"train/benign/7.jpg", "truncated"', SUMMARY["hash"]):
        assert words in card.text()


def test_ingest_card_says_that_nothing_was_rejected(card):
    show_data(card, SUMMARY | {"rejected": []})
    assert "Nothing was rejected." in card.text()


def test_ingest_card_counts_the_rejected_files_it_does_not_list(card):
    rejected = [{"key": f"{i}.jpg", "reason": "truncated"} for i in range(1234)]
    show_data(card, SUMMARY | {"rejected": rejected})
    assert "49.jpg" in card.text()
    assert "50.jpg" not in card.text()
    assert "The other 1,184 are in the manifest." in card.text()


@pytest.mark.parametrize("name", report.AUDIT)
def test_ingest_card_counts_and_names_the_pairs_of_each_finding(card, name):
    pairs = [(f"train/benign/{i}.jpg", f"test/benign/{i}.jpg") for i in range(63)]
    show_data(card, audit=NOTHING_FOUND | {name: pairs})
    title, meaning = report.AUDIT[name]
    assert [count for count, _ in card.table("## Audit").values()] == [
        "63" if each == name else "0" for each in report.AUDIT
    ]
    assert card.table("## Audit")[title] == ["63", meaning]
    assert list(card.table(f"## {title}: 63")) == [one for one, _ in pairs[:50]]
    assert "The other 13 are in the audit." in card.text()
    assert "3,231 groups" in card.text()


@pytest.mark.parametrize(("auroc", "words"), [(0.8614, "AUROC 0.861 on"), (None, "AUROC undefined on")])
def test_ingest_card_says_what_colour_alone_reaches(card, auroc, words):
    show_data(card, shortcut_auroc=auroc)
    assert f"Colour alone: {words} the validation images" in card.text()
    assert '"train, benign", "train, malignant", "test, benign"' in card.text()
    assert card.table("## Colour alone")["mean of red"] == ["0.800", "0.710", "0.790"]


@pytest.mark.parametrize("synthetic", [True, False])
def test_cards_of_images_say_so_if_and_only_if_they_are_synthetic(card, synthetic):
    show_data(card, synthetic=synthetic)
    test = RecordingCard()
    show_test(test, results.report(), synthetic=synthetic)
    assert ("synthetic" in card.text(), "synthetic" in test.text()) == (synthetic, synthetic)


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
    training.finish("diverged", "the loss was <nan>", {})
    assert card.refreshes == 2
    assert "Training: diverged\\n\\nthe loss was < nan>" in card.text()


def test_training_card_says_in_the_end_how_the_trial_stands_to_colour_alone(card):
    training = report.TrainingCard(card, TRIAL, epochs=20)
    above = {"shortcut_auroc": 0.861, "above_shortcut": 0.05, "above_shortcut_low": 0.02, "above_shortcut_high": 0.08}
    training.finish("finished", "all 20 epochs", above)
    assert "Colour alone reaches 0.861" in card.text()
    assert "0.050 (0.020 to 0.080)" in card.text()


def test_training_card_sends_a_few_kilobytes_a_refresh(card):
    report.TrainingCard(card, TRIAL, epochs=100).update(history(100, 1.0))
    assert len(card.text()) < 30_000


def test_select_card_says_why_the_first_was_chosen_and_lists_the_failed(card):
    report.select_card(card, *search(2), "resnet18-00 is the cheapest.")
    assert "3 trials, 1 failed\\n\\nresnet18-00 is the cheapest." in card.text()
    assert '["resnet18-02", "diverged", "the loss was nan in epoch 3; lower learning_rate"]' in card.text()


def test_select_card_compares_the_trials_with_the_best_and_with_colour_alone(card):
    report.select_card(card, *search(2), "")
    assert card.table("# Search") == {
        "resnet18-00 (chosen)": ["0.950 (0.920 to 0.970)", "0.005 (0.006)", "0.089 (0.050 to 0.120)", "592 M"],
        "resnet18-01": ["0.955 (0.925 to 0.975)", "best", "0.094 (0.055 to 0.125)", "1,592 M"],
        "resnet18-02": ["-", "-", "-", "2,592 M"],
    }
    assert (
        "**Colour alone reaches 0.861**; the model's paired difference to it is 0.089 (0.050 to 0.120)." in card.text()
    )


def test_select_card_says_when_the_difference_to_colour_alone_may_be_noise(card):
    board, histories = search(1)
    board["above_shortcut_low"] = -0.01
    report.select_card(card, board, histories, "")
    assert "0.089 (-0.010 to 0.120), which may be noise." in card.text()


def test_select_card_leaves_out_an_interval_that_is_undefined(card):
    board, histories = search(1)
    board[["low", "high"]] = np.nan
    report.select_card(card, board, histories, "")
    assert card.table("# Search")["resnet18-00 (chosen)"][0] == "0.950"


def test_select_card_says_once_what_all_trials_share(card):
    report.select_card(card, *search(3), "")
    assert card.text().count('["architecture", "resnet18"]') == 1
    assert card.table("## How they were trained")["resnet18-01"] == ["0.002", "4", "5", "812.3"]


def test_evaluate_card_opens_with_the_model_beside_the_shortcut(full):
    scores = results.report()["all"]
    shortcut = scores["shortcut"]
    for words in (
        f"**AUROC {estimate(scores['auroc'])}** on 100 test images, 40 of them malignant",
        f"**Colour alone reaches {estimate(shortcut['auroc'])}**; the model's paired difference to it is "
        f"{estimate(shortcut['difference'])}",
        "5 test images have a twin",
    ):
        assert words in full.text()


@pytest.mark.parametrize(
    ("name", "heading", "path"),
    [
        ("AUROC", "AUROC", ("auroc",)),
        ("AUROC of colour alone", "AUROC", ("shortcut", "auroc")),
        ("difference", "AUROC", ("shortcut", "difference")),
        ("average precision", "AUROC", ("average_precision",)),
        ("specificity at 95% sensitivity", "AUROC", ("specificity_at_sensitivity", 1)),
        ("sensitivity at 90% specificity", "AUROC", ("sensitivity_at_specificity", 0)),
        ("sensitivity", "## Operating point", ("operating_point", "sensitivity")),
        ("specificity", "## Operating point", ("operating_point", "specificity")),
        ("accuracy", "## Operating point", ("operating_point", "accuracy")),
        ("Brier score before scaling", "## Calibration", ("calibration", "before", "brier")),
        ("Brier score after scaling", "## Calibration", ("calibration", "after", "brier")),
    ],
)
def test_evaluate_card_gives_every_metric_with_and_without_twins_and_its_meaning(full, name, heading, path):
    *cells, meaning = full.table(heading)[name]
    for cell, which in zip(cells, ("all", "without_twins"), strict=True):
        of = results.report()[which]
        for key in path:
            of = of[key]
        assert cell == estimate(of)
    assert meaning


def test_evaluate_card_counts_mistakes_and_gives_predictive_values(full):
    point = results.report()["all"]["operating_point"]
    assert f"{point['false_negatives']} of 40 malignant test images were missed" in full.text()
    assert f"{point['false_positives']} of 60 benign ones were false alarms" in full.text()
    both = [results.report()[which]["operating_point"]["predictive_values"] for which in ("all", "without_twins")]
    values = {f"{of[0]['prevalence']:.0%}": [estimate(each["ppv"]) for each in of] for of in zip(*both, strict=True)}
    assert full.table("## Predictive values") == values


def test_evaluate_card_calls_undefined_what_is(card):
    show_test(card, results.report("benign"), LABELS[:60], PROBABILITIES[:60])
    assert "AUROC undefined" in card.text()
    assert card.table("AUROC")["AUROC"][0] == "undefined"
    assert card.table("## Operating point")["sensitivity"][0] == "undefined"


def test_evaluate_card_leaves_out_what_nobody_looked_at(card):
    show_test(card, results.report("bare"))
    assert "Nobody looked for near-duplicates" in card.text()
    assert list(card.table("AUROC"))[:2] == ["AUROC", "average precision"]
    assert len(card.table("AUROC")["AUROC"]) == 2
    assert "Brier score before scaling" not in card.text()


def test_evaluate_card_shows_the_stress_table(full):
    assert full.table("## Under stress")["cooler"] == ["0.936", "-0.019", "0.895", "0.799", "0.071"]
    assert full.table("## Under stress")["hair"] == ["undefined", "undefined", "undefined", "0.736", "0.075"]


def test_evaluate_card_says_what_kind_of_call_each_example_is(card, monkeypatch):
    shown = []
    draw = figures.heat_grid
    monkeypatch.setattr(figures, "heat_grid", lambda *given: shown.append(given[2:]) or draw(*given))
    labels, probabilities = np.array([0, 1, 0, 1, 0]), np.array([0.6, 0.1, 0.2, 0.9, 0.29])
    show_test(card, results.report(), labels, probabilities, examples=[1, 0, 3, 2])
    ((truths, captions),) = shown
    assert list(truths) == [1, 0, 1, 0]
    assert captions == ["missed, scored 0.10", "false alarm, scored 0.60", "found, scored 0.90", "cleared, scored 0.20"]


def test_evaluate_card_ends_with_the_model_card(full):
    assert full.components[-1].render()["source"].startswith("# Model card\n\n|a|b|\n")


def test_the_cards_take_less_than_a_megabyte_and_a_half(card):
    noise = np.random.default_rng(0).integers(0, 256, (24, 224, 224, 3), dtype=np.uint8)
    pairs = [PAIR] * 1000
    report.ingest_card(
        card, SUMMARY, NOTHING_FOUND | {name: pairs for name in report.AUDIT}, noise, LABELS[:24], 0.8, False
    )
    select, test = RecordingCard(), RecordingCard()
    report.select_card(select, *search(40, 10), "")
    show_test(test, results.report(), examples=range(16))
    for each in (card, select, test):
        assert len(json.dumps([component.render() for component in each.components])) < 1_500_000
