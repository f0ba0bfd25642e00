from skinlib.reporting.training_card import TrainingCard
from skinlib.training.trial import Trial
from tests.unit.results import history

TRIAL = Trial(epochs=20, learning_rate=0.0012345)


def test_card_is_visible_before_the_first_epoch_ends(card):
    TrainingCard(card, TRIAL)
    assert card.refreshes == 1
    assert '["learning rate", "0.00123"]' in card.text()


def test_card_lists_every_hyperparameter_in_the_order_of_the_trial(card):
    TrainingCard(card, TRIAL)
    assert list(card.table("# Training")) == [name.replace("_", " ") for name in Trial.model_fields]


def test_card_updates_its_components_with_the_history(card):
    training = TrainingCard(card, TRIAL)
    appended = list(card.components)
    training.update([*history(7), history(8, 0.5)[-1]])
    assert card.components == appended
    assert "Best validation AUROC **0.900** in epoch 7, 123 images/s" in card.text()
    progress, auroc = card.components[1].render(), card.components[2].render()
    assert (progress["value"], progress["max"]) == (8, 20)
    assert [point["epoch"] for point in auroc["spec"]["data"]["values"]] == list(range(1, 9))


def test_card_shows_how_the_trial_ended(card):
    training = TrainingCard(card, TRIAL)
    training.update(history(1))
    training.finish("diverged", "the loss was <nan>", {})
    assert card.refreshes == 3
    assert "Training: diverged\\n\\nthe loss was < nan>" in card.text()


def test_card_shows_the_gain_over_the_colour_baseline_at_the_end(card):
    training = TrainingCard(card, TRIAL)
    above = {"colours_auroc": 0.861, "above_colours": 0.05, "above_colours_low": 0.02, "above_colours_high": 0.08}
    training.finish("finished", "all 20 epochs", above)
    assert "Colour baseline: AUROC 0.861" in card.text()
    assert "0.050 (0.020 to 0.080)" in card.text()


def test_card_sends_a_few_kilobytes_per_refresh(card):
    TrainingCard(card, Trial(epochs=100)).update(history(100, 1.0))
    assert len(card.text()) < 30_000


def test_card_names_the_fold_if_there_are_several(card):
    training = TrainingCard(card, TRIAL, 2, 5)
    assert "# Training, fold 2 of 5" in card.text()
    training.finish("finished", "all 20 epochs", {})
    assert "# Training, fold 2 of 5: finished" in card.text()
