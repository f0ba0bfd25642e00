"""The limits of a container: the real affinity, a made-up tree of cgroups, and a real cgroup where one can be made."""

import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from skinlib import machine

COUNT = "from skinlib import machine; print(machine.cores(), __import__('os').environ.get('OMP_NUM_THREADS'))"


def count_in_a_new_process(**options) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run([sys.executable, "-c", COUNT], env=environment, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def cgroups(tmp_path, monkeypatch):
    """A function that places this process, on 64 cores, in a cgroup with some files."""
    monkeypatch.setattr(machine, "_affinity", lambda: 64)
    monkeypatch.setattr(machine, "_PROCESS", tmp_path / "process")
    monkeypatch.setattr(machine, "_CGROUPS", tmp_path / "cgroup")

    def place(process: str, files: dict[str, str]) -> None:
        (tmp_path / "process").write_text(process)
        for name, content in files.items():
            path = tmp_path / "cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content + "\n")

    return place


V1 = "4:memory:/kubepods/pod1\n1:cpu,cpuacct:/kubepods/pod1\n0::/\n"
QUOTA, PERIOD = "cpu.cfs_quota_us", "cpu.cfs_period_us"
QUOTAS = {
    "version 2": ("0::/\n", {"cpu.max": "400000 100000"}, 4),
    "version 2, of a parent": ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, 3),
    "version 2, no limit": ("0::/\n", {"cpu.max": "max 100000"}, 64),
    "version 2, path of the host": ("0::/kubepods/pod1\n", {"cpu.max": "200000 100000"}, 2),
    "part of a core": ("0::/\n", {"cpu.max": "50000 100000"}, 1),
    "two and a half cores": ("0::/\n", {"cpu.max": "250000 100000"}, 2),
    "more than there are": ("0::/\n", {"cpu.max": "9900000 100000"}, 64),
    "version 1": (V1, {f"cpu/kubepods/pod1/{QUOTA}": "200000", f"cpu/kubepods/pod1/{PERIOD}": "100000"}, 2),
    "version 1, path of the host": (V1, {f"cpu/{QUOTA}": "200000", f"cpu/{PERIOD}": "100000"}, 2),
    "version 1, no limit": (V1, {f"cpu/{QUOTA}": "-1", f"cpu/{PERIOD}": "100000"}, 64),
    "no cgroup": ("", {}, 64),
}  # fmt: skip


@pytest.mark.parametrize(("process", "files", "cores"), QUOTAS.values(), ids=QUOTAS)
def test_the_cores_follow_the_cpu_quota(cgroups, process, files, cores):
    cgroups(process, files)
    assert machine.cores() == cores


@pytest.mark.parametrize(
    ("process", "files"),
    [
        ("0::/\n", {"memory.max": "1000000"}),
        ("0::/a/b\n", {"a/b/memory.max": "max", "a/memory.max": "1000000"}),
        (V1, {"memory/memory.limit_in_bytes": "1000000"}),
        (V1, {"memory/kubepods/pod1/memory.limit_in_bytes": "1000000", "memory/memory.limit_in_bytes": str(2**63 - 1)}),
    ],
)
def test_the_memory_follows_the_limit(cgroups, process, files):
    cgroups(process, files)
    assert machine.memory() == 1000000


def test_without_a_limit_the_memory_is_that_of_the_machine(cgroups):
    cgroups("0::/\n", {"memory.max": "max"})
    assert machine.memory() == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_workers_follow_the_memory_and_the_cores(cgroups):
    cgroups("0::/\n", {"cpu.max": "800000 100000", "memory.max": str(10 << 30)})
    assert [machine.workers(size << 30) for size in (1, 2, 20)] == [8, 5, 1]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no CPU affinity")
def test_the_cores_follow_the_affinity():
    one = {min(os.sched_getaffinity(0))}
    assert count_in_a_new_process(preexec_fn=lambda: os.sched_setaffinity(0, one)) == "1 None"


def test_a_real_quota_limits_the_threads_of_the_libraries():
    folder = Path("/sys/fs/cgroup/cpu", f"skinlib-{uuid.uuid4().hex[:8]}")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this machine does not let us make a cgroup of version 1")
    try:
        (folder / "cpu.cfs_quota_us").write_text("100000")
        enter = folder / "cgroup.procs"
        if len(os.sched_getaffinity(0)) < 2:
            pytest.skip("a quota of one core says nothing on a machine with one core")
        assert count_in_a_new_process(preexec_fn=lambda: enter.write_text(str(os.getpid()))) == "1 1"
    finally:
        folder.rmdir()
