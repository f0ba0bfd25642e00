import subprocess
import sys

import pytest

from skinlib.training import slots


@pytest.fixture(autouse=True)
def own_locks(tmp_path, monkeypatch):
    monkeypatch.setattr(slots.tempfile, "gettempdir", lambda: str(tmp_path))


@pytest.fixture
def one_slot(monkeypatch):
    monkeypatch.setattr(slots, "_slots", lambda _: [slots.Slot("cpu", 2)])


HOLD = """
import sys, tempfile, time
tempfile.gettempdir = lambda: sys.argv[1]
from skinlib.training import slots
slots._slots = lambda _: [slots.Slot("cpu", 2)]
with slots.take_slot(1):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.usefixtures("one_slot")
def test_a_slot_whose_holder_was_killed_is_free(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        holder.kill()
        with slots.take_slot(1) as slot:
            assert slot == slots.Slot("cpu", 2)


@pytest.mark.usefixtures("one_slot")
def test_a_held_slot_is_waited_for(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        stop = subprocess.Popen([sys.executable, "-c", f"import os,time; time.sleep(1); os.kill({holder.pid}, 9)"])
        with slots.take_slot(1):
            # The lock came free only because the holder ended.
            assert holder.wait(timeout=10) != 0
        stop.wait()


def test_two_gpus_are_given_to_two_trials(monkeypatch):
    monkeypatch.setattr(slots, "_slots", lambda _: [slots.Slot("cuda:0", 4), slots.Slot("cuda:1", 4)])
    with slots.take_slot(1) as first, slots.take_slot(1) as second:
        assert {first.device, second.device} == {"cuda:0", "cuda:1"}


@pytest.fixture
def cpu(monkeypatch):
    """Set the cores of a machine without GPUs, and its memory in GB."""

    def have(cores, memory=64):
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
        monkeypatch.setattr(slots.machine, "cores", lambda: cores)
        monkeypatch.setattr(slots.machine, "memory", lambda: memory << 30)

    return have


@pytest.mark.parametrize(
    ("cores", "branches", "expected"),
    [(1, 1, [1]), (2, 1, [2]), (2, 3, [1, 1]), (6, 1, [6]), (6, 9, [3, 3]), (16, 2, [8, 8]), (16, 9, [4] * 4),
     (32, 3, [10] * 3), (32, 99, [4] * 8)],
)  # fmt: skip
def test_the_branches_of_a_run_share_all_cores(cpu, cores, branches, expected):
    cpu(cores)
    assert [slot.threads for slot in slots._slots(branches)] == expected


def test_more_cores_do_not_take_more_memory_than_there_is(cpu):
    cpu(64, memory=8)
    assert slots.cpu_slots(99) == [slots.Slot("cpu", 16)] * 4


def test_the_gpus_of_a_machine_share_its_cores(cpu, monkeypatch):
    cpu(6)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert slots._slots(1) == [slots.Slot("cuda:0", 3), slots.Slot("cuda:1", 3)]


def test_runs_of_different_sizes_never_use_more_than_all_cores(cpu, monkeypatch):
    cpu(4)
    monkeypatch.setattr(slots.time, "sleep", lambda _: pytest.fail("there is no free slot"))
    with slots.take_slot(2) as half:  # cores 0 and 1
        assert half.threads == 2
        with pytest.raises(pytest.fail.Exception, match="no free slot"), slots.take_slot(1):
            pass
        with slots.take_slot(2) as other:
            assert other.threads == 2
        with slots.take_slot(2):
            pass
    with slots.take_slot(1) as whole:
        assert whole.threads == 4
