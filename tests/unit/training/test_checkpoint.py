import pickle
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from skinlib.data.storage import open_store
from skinlib.training.checkpoint import Checkpoint, checkpoint_folder, checkpoint_key, saving_in_background

SPLIT = {"train": np.array([0, 1]), "validation": np.array([2])}


@pytest.fixture
def checkpoint(tmp_path):
    return Checkpoint(open_store(str(tmp_path)), checkpoint_key("7-ab", "resnet10-32px-1", "0" * 64, SPLIT))


STATE = {
    "network": {"fc.weight": torch.arange(3.0)},
    "average": {},
    "optimiser": {"state": {}, "param_groups": [{"lr": 0.1}]},
    "history": [{"epoch": 1, "train_loss": 0.5}],
    "best": {},
    "best_epoch": 1,
}


def save(checkpoint, state):
    with saving_in_background(checkpoint, lambda history: None) as saver:
        saver.save(state, last=True)


def test_a_trial_without_a_checkpoint_has_no_state(checkpoint):
    assert checkpoint.load() is None


def test_a_saved_state_is_loaded_unchanged(checkpoint):
    save(checkpoint, STATE)
    loaded = checkpoint.load()
    assert torch.equal(loaded["network"].pop("fc.weight"), torch.arange(3.0))
    assert loaded == {**STATE, "network": {}}


def test_a_checkpoint_that_runs_code_is_refused(checkpoint):
    class Evil:
        def __reduce__(self):
            return (print, ("code ran",))

    save(checkpoint, {"network": Evil(), "history": []})
    with pytest.raises(pickle.UnpicklingError):
        checkpoint.load()


def test_the_key_tells_runs_trials_data_and_splits_apart():
    splits = [{"train": np.array([0, 1]), "validation": np.array([v])} for v in (2, 3)]
    keys = {
        checkpoint_key(run, trial, data * 64, split)
        for run in ("1-a", "2-b")
        for trial in ("t1", "t2")
        for data in ("0", "1")
        for split in splits
    }
    assert len(keys) == 16
    assert all(key.startswith((checkpoint_folder("1-a") + "/", checkpoint_folder("2-b") + "/")) for key in keys)


def test_every_epoch_is_saved_once_the_machine_will_be_taken_away(checkpoint, tmp_path):
    saved, notice = [], tmp_path / "notice"
    asked = replace(checkpoint, seconds=1e9, notice=str(notice))
    with saving_in_background(asked, lambda history: saved.append(len(history))) as saver:
        saver.save(STATE, last=False)
    assert saved == []
    notice.touch()
    with saving_in_background(asked, lambda history: saved.append(len(history))) as saver:
        saver.save(STATE, last=False)
    assert saved == [1]


def test_what_is_told_of_a_save_does_not_hold_up_the_training(checkpoint):
    answered, told = threading.Event(), []

    def slow(history):
        answered.wait()
        told.append(len(history))

    with saving_in_background(replace(checkpoint, seconds=0), slow) as saver:
        saver.save(STATE, last=False)
        saver.save(STATE, last=False)  # returns, although nothing has answered
        assert told == []
        answered.set()
    assert told == [1]


@pytest.mark.parametrize("place", [0, 40, -1])
def test_a_changed_bit_is_noticed(checkpoint, place, capsys):
    save(checkpoint, STATE)
    content = bytearray(checkpoint.store.read(checkpoint.key))
    content[place] ^= 1
    checkpoint.store.write(checkpoint.key, bytes(content))
    assert checkpoint.load() is None
    assert "is damaged; the training starts anew" in capsys.readouterr().out
