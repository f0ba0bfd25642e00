import math
import signal
import threading
import time

import numpy as np
import pytest
import torch

from skinlib.data.storage import Store, open_store
from skinlib.errors import StorageError
from skinlib.networks.inference import predict_tensor, to_tensor
from skinlib.networks.network import restore
from skinlib.training import loop
from skinlib.training.checkpoint import Checkpoint
from skinlib.training.loop import image_weights, learning_rate, train
from skinlib.training.slots import Slot
from skinlib.training.trial import Trial

TRIAL = Trial(architecture="resnet10", image_size=32, epochs=3, batch_size=16)
# One thread is enough for 48 small images.
SLOT = Slot("cpu", 1)


@pytest.fixture(scope="module")
def data():
    """64 noisy images; the malignant ones are darker in the middle."""
    rng = np.random.default_rng(0)
    labels = np.arange(64) % 2
    images = rng.integers(120, 200, (64, 224, 224, 3), dtype=np.uint8)
    images[labels == 1, 64:160, 64:160] -= 100
    return images, labels, np.arange(48), np.arange(48, 64), np.arange(64) % 8 == 1


@pytest.fixture
def run(data, tmp_path):
    def run(trial=TRIAL, *, seed=0, seconds=1e9, store=tmp_path, **hooks):
        checkpoint = Checkpoint(open_store(str(store), create=True), "trial.pt", seconds)
        return train(trial, *data, seed=seed, slot=SLOT, checkpoint=checkpoint, **hooks)

    return run


def same_weights(first, second):
    return all(np.array_equal(first.weights[name], second.weights[name]) for name in first.weights)


class Killed(BaseException):
    pass


def kill_after(epoch):
    def on_epoch(history):
        if len(history) == epoch:
            raise Killed

    return on_epoch


def test_a_network_learns_what_can_be_learnt(run):
    result = run(TRIAL.model_copy(update={"epochs": 8}))
    assert result.status == "finished"
    assert result.validation_auroc > 0.95


def test_the_same_seed_gives_the_same_weights(run, tmp_path):
    assert same_weights(run(store=tmp_path / "a"), run(store=tmp_path / "b"))


def test_a_retry_saves_memory_and_gives_the_same_weights(run, tmp_path, capsys):
    first = run(store=tmp_path / "a")
    again = run(store=tmp_path / "b", is_retry=True)
    assert same_weights(first, again)
    assert "raise `memory` in the compute config" in capsys.readouterr().out


def test_another_seed_gives_other_weights(run, tmp_path):
    assert not same_weights(run(store=tmp_path / "a"), run(seed=1, store=tmp_path / "b"))


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_a_killed_trial_that_is_continued_ends_with_the_same_weights(run, tmp_path, optimiser):
    trial = TRIAL.model_copy(update={"optimiser": optimiser, "learning_rate": 0.01})
    whole = run(trial, store=tmp_path / "whole")
    with pytest.raises(Killed):
        # The kill comes before the second epoch's checkpoint: the first one's is what is left.
        run(trial, store=tmp_path / "killed", seconds=0, on_epoch=kill_after(2))
    epochs = []
    continued = run(trial, store=tmp_path / "killed", seconds=0, on_epoch=lambda h: epochs.append(len(h)))
    assert epochs == [2, 3]
    assert same_weights(whole, continued)
    np.testing.assert_array_equal(whole.validation_probabilities, continued.validation_probabilities)


def test_a_finished_trial_is_not_trained_again(run):
    first = run()
    epochs = []
    again = run(on_epoch=lambda h: epochs.append(len(h)))
    assert epochs == []
    assert again.history == first.history
    assert same_weights(first, again)


def test_checkpoints_come_no_more_often_than_they_must(run):
    saved = []
    run(seconds=1e9, on_checkpoint=lambda h: saved.append(len(h)))
    assert saved == [3]


def test_an_epoch_is_reported_only_once_it_cannot_be_lost(run, tmp_path):
    checkpoint = Checkpoint(open_store(str(tmp_path)), "trial.pt")
    reported, saved = [], []

    def on_checkpoint(history):
        reported.append(len(history))
        saved.append(len(checkpoint.load()["history"]))

    run(seconds=0, on_checkpoint=on_checkpoint)
    assert reported == saved
    assert reported[-1] == TRIAL.epochs


def test_training_goes_on_while_a_checkpoint_is_written(run, monkeypatch):
    write, third, waited = Store.write, threading.Event(), []

    def write_slowly(store, key, data):
        waited.append(third.wait(60))
        write(store, key, data)

    monkeypatch.setattr(Store, "write", write_slowly)
    run(seconds=0, on_epoch=lambda history: third.set() if len(history) == 3 else None)
    assert waited == [True, True]  # the first epoch's checkpoint, and the last one's


def failing(monkeypatch, times):
    """Let that many writes fail."""
    write, left = Store.write, iter(range(times))

    def write_or_fail(store, key, data):
        if next(left, None) is not None:
            raise StorageError("s3://bucket/trial.pt cannot be written: no answer from the server.")
        write(store, key, data)

    monkeypatch.setattr(Store, "write", write_or_fail)


def test_a_checkpoint_that_cannot_be_written_is_a_warning(run, tmp_path, monkeypatch, capsys):
    failing(monkeypatch, times=1)
    assert run(seconds=0).status == "finished"
    assert "Going on without the checkpoint of epoch 1. s3://bucket/trial.pt cannot" in capsys.readouterr().out
    assert len(Checkpoint(open_store(str(tmp_path)), "trial.pt").load()["history"]) == TRIAL.epochs


def test_a_store_that_never_works_ends_the_training_early(run, monkeypatch):
    failing(monkeypatch, times=1000)
    epochs = []
    with pytest.raises(StorageError, match="no answer"):
        run(TRIAL.model_copy(update={"epochs": 100}), seconds=0, on_epoch=lambda h: epochs.append(len(h)))
    assert len(epochs) < 100


def test_the_history_has_one_entry_per_epoch(run):
    history = run().history
    assert [entry["epoch"] for entry in history] == [1, 2, 3]
    assert all(math.isfinite(value) for entry in history for value in entry.values())


def test_the_weights_are_those_of_the_best_epoch(run, data):
    images, _, _, validation, _ = data
    result = run()
    assert result.validation_auroc == max(entry["validation_auroc"] for entry in result.history)
    network = restore(TRIAL.architecture, result.weights)
    np.testing.assert_allclose(
        predict_tensor(network, to_tensor(images[validation], TRIAL.image_size)),
        result.validation_probabilities,
        atol=1e-6,
    )


def test_the_weights_are_plain_numpy(run):
    assert all(type(value) is np.ndarray for value in run().weights.values())


def test_it_stops_early_when_it_no_longer_gets_better(run):
    result = run(Trial(**{**TRIAL.model_dump(), "epochs": 50, "patience": 2, "learning_rate": 1e-9}))
    assert len(result.history) == result.best_epoch + 2
    assert "stopped early" in result.reason


@pytest.mark.parametrize("supported", [True, False])
def test_the_reason_names_the_precision(run, monkeypatch, supported):
    monkeypatch.setattr(loop, "_has_bfloat16", lambda device: supported)
    assert (
        run(TRIAL.model_copy(update={"epochs": 1})).reason
        == f"all 1 epochs in {'bfloat16' if supported else 'float32'}"
    )


def test_the_reason_names_a_batch_that_is_smaller_than_asked_for(run):
    reason = run(TRIAL.model_copy(update={"epochs": 1, "batch_size": 64})).reason
    assert reason.endswith(", in batches of all 48 training images")


def test_a_divergence_is_a_result_with_a_reason(run):
    result = run(TRIAL.model_copy(update={"optimiser": "sgd", "learning_rate": 1e30}))
    assert result.status == "diverged"
    assert "lower learning_rate" in result.reason
    assert math.isnan(result.validation_auroc)


def test_a_trial_that_hangs_is_a_result_with_a_reason(run):
    handler, _ = signal.signal(signal.SIGALRM, signal.SIG_IGN), signal.alarm(100)  # as Metaflow's @timeout sets it
    result = run(minutes=1 / 60, on_epoch=lambda history: time.sleep(100))
    left, after = signal.alarm(0), signal.signal(signal.SIGALRM, handler)
    assert result.status == "timed out"
    assert result.reason.endswith("raise timeout_minutes in the compute config, or lower epochs")
    assert left > 0
    assert after == signal.SIG_IGN


def test_a_lack_of_memory_is_a_result_with_a_reason(run, monkeypatch):
    def exhausted(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")

    monkeypatch.setattr(loop, "build", exhausted)
    result = run()
    assert result.status == "out of memory"
    assert result.reason == "CUDA out of memory. Tried to allocate 2.00 GiB.; lower batch_size or image_size"


def test_a_lack_of_memory_on_a_cpu_is_a_result_with_a_reason(run, monkeypatch):
    monkeypatch.setattr(loop, "build", lambda *_: torch.empty(1 << 50))
    result = run()
    assert result.status == "out of memory"
    assert "can't allocate memory" in result.reason
    assert result.reason.endswith("; lower batch_size or image_size")


@pytest.mark.parametrize(
    ("capability", "precision"), [((7, 5), "float32"), ((8, 0), "bfloat16"), ((8, 6), "bfloat16"), ((9, 0), "bfloat16")]
)
def test_only_a_gpu_with_bf16_units_trains_in_bf16(monkeypatch, capability, precision):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    threads = torch.get_num_threads()
    try:
        assert loop._set_up(Slot("cuda:0", threads))["precision"] == precision
    finally:
        torch.use_deterministic_algorithms(False)


def test_any_other_error_is_not_swallowed(run, monkeypatch):
    def broken(*_):
        raise RuntimeError("a mistake in the code")

    monkeypatch.setattr(loop, "build", broken)
    with pytest.raises(RuntimeError, match="a mistake"):
        run()


def test_the_rate_rises_to_its_peak_and_falls_to_a_hundredth():
    trial = Trial(learning_rate=1.0, warmup=0.1)
    rates = [learning_rate(trial, step, 100) for step in range(100)]
    assert rates[9] == 1.0
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.01, abs=1e-3)


def test_the_share_of_the_peak_is_that_of_a_known_gpu():
    share = loop._peak_share(Trial(architecture="resnet18", image_size=224), "NVIDIA H200", 10_000)
    # 1.81e9 multiply-adds, two operations each, backward twice forward.
    assert share == pytest.approx(1.81e9 * 6 * 10_000 / 989e12, rel=0.01)


def test_images_of_one_class_sources_weigh_less_and_the_classes_the_same():
    labels, one_class = np.repeat([0, 1], 50), np.arange(100) >= 70
    weights = image_weights(labels, one_class, 0.25)
    assert weights[:50].tolist() == [1.0] * 50
    assert weights[70] == pytest.approx(0.25 * weights[50])
    assert weights[50:].mean() == pytest.approx(1)
    assert image_weights(labels, labels == 1, 0.0)[50:].tolist() == [0.0] * 50


def test_weights_change_the_training_and_one_leaves_it_as_it_is(run, tmp_path):
    plain = run().weights
    for name, weight, same in (("one", 1.0, True), ("less", 0.2, False)):
        weighted = run(TRIAL.model_copy(update={"one_class_weight": weight}), store=tmp_path / name).weights
        assert all(np.array_equal(plain[key], weighted[key]) for key in plain) is same


@pytest.fixture
def little_memory(monkeypatch):
    """Memory for a single one of the images at the network's size."""
    monkeypatch.setenv("SKINLIB_IMAGE_MEMORY_MB", "0.004")


def test_images_that_do_not_fit_give_the_same_weights(run, tmp_path, monkeypatch, capsys):
    resident = run(TRIAL.model_copy(update={"image_size": 64}), store=tmp_path / "resident")
    monkeypatch.setenv("SKINLIB_IMAGE_MEMORY_MB", "0.004")
    capsys.readouterr()
    streamed = run(TRIAL.model_copy(update={"image_size": 64}), store=tmp_path / "streamed")
    assert "each batch is read when it is needed" in capsys.readouterr().out
    assert same_weights(resident, streamed)
    assert np.array_equal(resident.validation_probabilities, streamed.validation_probabilities)


@pytest.mark.usefixtures("little_memory")
def test_a_killed_trial_whose_images_do_not_fit_ends_with_the_same_weights(run, tmp_path):
    undisturbed = run(store=tmp_path / "undisturbed")
    with pytest.raises(Killed):
        run(seconds=0, on_epoch=kill_after(2))
    assert same_weights(run(seconds=0), undisturbed)


def test_images_may_take_half_of_the_memory_of_a_slot(monkeypatch):
    monkeypatch.setattr(loop.machine, "memory", lambda: 4_000_000)
    monkeypatch.setattr(loop.machine, "cores", lambda: 4)
    n = 1_000_000 // (3 * 32**2)
    assert loop._fits(n, 32, Slot("cpu", 2), is_retry=False)
    assert not loop._fits(n + 1, 32, Slot("cpu", 2), is_retry=False)
    assert loop._fits(n + 1, 32, Slot("cpu", 4), is_retry=False)
