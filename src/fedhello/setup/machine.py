"""What of this machine a process may use: its memory and processors, and less in a container that is given less.

A container on Linux is a control group. Each group can have limits of its own, and those of the groups around it hold
for it, too: version 2 states them in ``memory.max`` and ``cpu.max``, version 1 in two hierarchies of their own.
"""

import os
from collections.abc import Iterator
from math import floor
from pathlib import Path

import psutil

PROCESS, ROOT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def available_memory() -> int:
    """Return how many more bytes this process can take."""
    rooms = [psutil.virtual_memory().available]
    for group in _groups("memory"):
        limit = _number(group, "memory.max", "memory.limit_in_bytes")
        used = _number(group, "memory.current", "memory.usage_in_bytes")
        if limit is not None and used is not None:
            rooms.append(limit - used + _reclaimable(group))
    return max(0, min(rooms))


def processors() -> int:
    """Return how many processors' time this process has, at least 1."""
    shares = [float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)]
    for group in _groups("cpu"):
        words = _words(group / "cpu.max") or _words(group / "cpu.cfs_quota_us") + _words(group / "cpu.cfs_period_us")
        if words and words[0].isdecimal():  # "max" and "-1" are no limit
            shares.append(int(words[0]) / int(words[1]))
    return max(1, floor(min(shares)))


def _groups(controller: str) -> Iterator[Path]:
    """Yield the folders of this process's group and of those around it, under both versions."""
    for line in _lines(PROCESS):
        _, names, path = line.split(":", 2)
        if names and controller not in names.split(","):
            continue
        mount = ROOT / controller if names else ROOT
        inside = mount / path.lstrip("/")
        # A container may see its own group as the root, though its path says otherwise.
        group = inside if inside.is_dir() else mount
        yield from (group, *(around for around in group.parents if around.is_relative_to(mount)))


def _reclaimable(group: Path) -> int:
    """Return the bytes of files that a group has read and that give way before it runs out of memory."""
    found = dict(line.split() for line in _lines(group / "memory.stat"))
    return int(found.get("total_inactive_file", found.get("inactive_file", 0)))


def _number(group: Path, *names: str) -> int | None:
    words = [word for name in names for word in _words(group / name)]
    return int(words[0]) if words and words[0].isdecimal() else None


def _words(file: Path) -> list[str]:
    return " ".join(_lines(file)).split()


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:  # another system, or another version
        return []
