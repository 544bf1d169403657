import inspect

import pytest

from fedhello.engine.local import LocalEngine
from fedhello.engine.protocol import Engine
from fedhello.network.engine import RemoteEngine

ASKED = [name for name, member in vars(Engine).items() if inspect.isfunction(member) and not name.startswith("_")]


@pytest.mark.parametrize("engine", [LocalEngine, RemoteEngine])
def test_every_engine_takes_what_a_run_asks_of_it(engine):
    assert {"train", "head_sums", "block_scores"} <= set(ASKED)
    for name in ASKED:
        own, asked = (inspect.signature(getattr(of, name)).parameters for of in (engine, Engine))
        assert [(p.name, p.default) for p in own.values()] == [(p.name, p.default) for p in asked.values()], name


def test_what_a_run_reads_of_an_engine_is_there_on_both(remote_world):
    _, remote, local = remote_world()
    read = [*Engine.__annotations__, *(name for name, member in vars(Engine).items() if isinstance(member, property))]
    assert "settings" in read
    for engine in (remote, local):
        assert [name for name in read if not hasattr(engine, name)] == []
