import numpy as np

from skinlib.reporting import leaderboard_card
from tests.unit.results import search


def test_card_says_why_the_first_trial_was_chosen_and_lists_the_failed_ones(card):
    leaderboard_card.show(card, *search(2))
    assert "Search: 3 trials, 1 failed\\n\\n2 trials are within one standard error of the best" in card.text()
    assert '["resnet18-02", "diverged", "the loss was nan in epoch 3; lower learning_rate"]' in card.text()


def test_card_compares_the_trials_with_the_best_and_with_the_colour_baseline(card):
    leaderboard_card.show(card, *search(2))
    assert card.table("# Search") == {
        "resnet18-00 (chosen)": ["0.950 (0.920 to 0.970)", "0.005 (0.006)", "0.089 (0.050 to 0.120)", "592 M"],
        "resnet18-01": ["0.955 (0.925 to 0.975)", "best", "0.094 (0.055 to 0.125)", "1,592 M"],
        "resnet18-02": ["-", "-", "-", "2,592 M"],
    }
    assert "**Colour baseline: AUROC 0.861.** The model's gain over it is 0.089 (0.050 to 0.120)." in card.text()


def test_card_says_when_the_gain_over_the_colour_baseline_may_be_noise(card):
    board, histories = search(1)
    board["above_colours_low"] = -0.01
    leaderboard_card.show(card, board, histories)
    assert "0.089 (-0.010 to 0.120), which may be noise." in card.text()


def test_card_shows_the_other_baselines_and_says_if_one_comes_near(card):
    board, histories = search(1)
    board[["file_traces_auroc", "above_file_traces", "above_file_traces_low", "above_file_traces_high"]] = (
        *(0.92, 0.03),
        *(0.01, 0.05),
    )
    leaderboard_card.show(card, board, histories)
    assert card.table("# Search")["file traces"][:2] == ["0.920", "0.030 (0.010 to 0.050)"]
    assert "**The file traces alone reach an AUROC of 0.920, 0.030 below the model" in card.text()


def test_card_leaves_out_an_undefined_interval(card):
    board, histories = search(1)
    board[["low", "high"]] = np.nan
    leaderboard_card.show(card, board, histories)
    assert card.table("# Search")["resnet18-00 (chosen)"][0] == "0.950"


def test_card_says_once_what_all_trials_share(card):
    leaderboard_card.show(card, *search(3))
    assert card.text().count('["architecture", "resnet18"]') == 1
    assert card.table("## Hyperparameters")["resnet18-01"] == ["0.002", "4", "5", "812.3"]


def test_card_takes_less_than_a_megabyte_and_a_half(card):
    leaderboard_card.show(card, *search(40, 10))
    assert card.n_bytes() < 1_500_000


def test_card_shows_the_spread_over_the_folds(card):
    board, histories = search(1)
    spread = {"folds": 5, "fold_mean": 0.951, "fold_deviation": 0.012, "fold_lowest": 0.93, "fold_highest": 0.96}
    for place, (name, value) in enumerate(spread.items(), start=3):
        board.insert(place, name, [value, 5 if name == "folds" else np.nan])
    leaderboard_card.show(card, board, histories)
    rows = card.table("# Search")
    assert rows["resnet18-00 (chosen)"][1] == "0.951, deviation 0.012 (0.930 to 0.960)"
    assert rows["resnet18-01"][:3] == ["-", "-", "-"]
    assert "out-of-fold AUROC" in card.text()
    assert "the mean of its 5 networks" in card.text()
    assert "validation AUROC" not in card.text()
