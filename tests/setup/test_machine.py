"""What a container leaves of the machine's memory and processors, under both versions of control groups."""

import os

import psutil
import pytest

from fedhello.setup import machine

GIGABYTE = 2**30


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Write the system's files; the machine itself has 8 processors, and 64 GB to give."""
    monkeypatch.setattr(machine, "ROOT", tmp_path / "sys")
    monkeypatch.setattr(machine, "PROCESS", tmp_path / "cgroup")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("M", (), {"available": 64 * GIGABYTE}))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)

    def write(groups, **contents):
        (tmp_path / "cgroup").write_text(groups)
        for path, text in contents.items():
            file = tmp_path / "sys" / path.replace("__", "/").replace("_dot_", ".")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{text}\n")

    return write


def test_without_groups_all_of_the_machine_is_there(files):
    assert (machine.available_memory(), machine.processors()) == (64 * GIGABYTE, 8)
    files("0::/\n")
    assert (machine.available_memory(), machine.processors()) == (64 * GIGABYTE, 8)


def test_the_tightest_of_a_group_and_those_around_it_holds(files):
    files(
        "0::/outer/inner\n",
        outer__inner__memory_dot_max="max",
        outer__inner__memory_dot_current=GIGABYTE,
        outer__inner__cpu_dot_max="max 100000",
        outer__memory_dot_max=4 * GIGABYTE,
        outer__memory_dot_current=3 * GIGABYTE,
        outer__memory_dot_stat=f"anon 1\ninactive_file {GIGABYTE // 2}",
        outer__cpu_dot_max="250000 100000",
    )
    assert (machine.available_memory(), machine.processors()) == (3 * GIGABYTE // 2, 2)


def test_version_1_and_a_container_that_does_not_see_its_own_path(files):
    files(
        "4:memory:/docker/0123\n3:cpu,cpuacct:/docker/0123\n1:name=systemd:/\n0::/\n",
        memory__memory_dot_limit_in_bytes=2 * GIGABYTE,
        memory__memory_dot_usage_in_bytes=3 * GIGABYTE // 2,
        memory__memory_dot_stat=f"inactive_file 7\ntotal_inactive_file {GIGABYTE // 4}",
        cpu__cpu_dot_cfs_quota_us=50000,
        cpu__cpu_dot_cfs_period_us=100000,
    )
    assert (machine.available_memory(), machine.processors()) == (3 * GIGABYTE // 4, 1)
    files("3:cpu,cpuacct:/docker/0123\n", cpu__cpu_dot_cfs_quota_us=-1)
    assert machine.processors() == 8
