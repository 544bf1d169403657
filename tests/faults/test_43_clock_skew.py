"""Case 43: clocks that are a day off change nothing: rounds are counted, not timed by a wall clock.

Flower itself refuses a node whose clock is more than five minutes off (its ``TIMESTAMP_TOLERANCE``); see
docs/how-to/run-on-many-machines.md.
"""

import ast
import time
from pathlib import Path

import pytest
import torch

import fedhello
from network import remote_tasks

SOURCES = Path(fedhello.__file__).parent
WALL_CLOCKS = {"time.time", "time.time_ns", "time.localtime", "time.gmtime", "datetime.now", "datetime.utcnow"}


@pytest.mark.parametrize(
    "file",
    [
        "admission",
        "client",
        "engine",
        "flower",
        "flower_app",
        "flower_main",
        "flower_pace",
        "registry",
        "server",
        "superlink",
        "supervisor",
        "worker",
    ],
)
def test_no_wall_clock_is_read(file):
    calls = {
        ast.unparse(node.func)
        for node in ast.walk(ast.parse((SOURCES / "network" / f"{file}.py").read_text()))
        if isinstance(node, ast.Call)
    }
    assert not calls & WALL_CLOCKS
    assert calls  # it was read


@pytest.mark.parametrize("skew", [-86400, 86400])
def test_updates_are_the_same_whatever_time_it_is(remote_world, monkeypatch, skew):
    _, engine, local = remote_world()
    asked = remote_tasks(local)
    right = list(engine.train(asked))
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + skew)
    for a, b in zip(right, engine.train(asked), strict=True):
        assert all(torch.equal(a.tensors[name], b.tensors[name]) for name in a.tensors)
