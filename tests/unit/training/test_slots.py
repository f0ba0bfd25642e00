import subprocess
import sys

import pytest

from skinlib.training import slots


@pytest.fixture(autouse=True)
def own_locks(tmp_path, monkeypatch):
    monkeypatch.setattr(slots.tempfile, "gettempdir", lambda: str(tmp_path))


@pytest.fixture
def one_slot(monkeypatch):
    monkeypatch.setattr(slots, "_slots", lambda: [slots.Slot("cpu", 2)])


HOLD = """
import sys, tempfile, time
tempfile.gettempdir = lambda: sys.argv[1]
from skinlib.training import slots
slots._slots = lambda: [slots.Slot("cpu", 2)]
with slots.take_slot():
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.usefixtures("one_slot")
def test_a_slot_whose_holder_was_killed_is_free(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        holder.kill()
        with slots.take_slot() as slot:
            assert slot == slots.Slot("cpu", 2)


@pytest.mark.usefixtures("one_slot")
def test_a_held_slot_is_waited_for(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        stop = subprocess.Popen([sys.executable, "-c", f"import os,time; time.sleep(1); os.kill({holder.pid}, 9)"])
        with slots.take_slot():
            # The lock came free only because the holder ended.
            assert holder.wait(timeout=10) != 0
        stop.wait()


def test_two_gpus_are_given_to_two_trials(monkeypatch):
    monkeypatch.setattr(slots, "_slots", lambda: [slots.Slot("cuda:0", 4), slots.Slot("cuda:1", 4)])
    with slots.take_slot() as first, slots.take_slot() as second:
        assert {first.device, second.device} == {"cuda:0", "cuda:1"}


@pytest.mark.parametrize(("cores", "expected"), [(1, [1]), (2, [1, 1]), (6, [3, 3]), (16, [4, 4, 4, 4]), (32, [4] * 8)])
def test_the_threads_of_all_slots_never_exceed_the_cores(monkeypatch, cores, expected):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(slots.machine, "cores", lambda: cores)
    monkeypatch.setattr(slots.machine, "memory", lambda: 64 << 30)
    assert [slot.threads for slot in slots._slots()] == expected


def test_more_cores_do_not_take_more_memory_than_there_is(monkeypatch):
    monkeypatch.setattr(slots.machine, "cores", lambda: 64)
    monkeypatch.setattr(slots.machine, "memory", lambda: 8 << 30)
    assert slots.cpu_slots() == [slots.Slot("cpu", 4)] * 4
