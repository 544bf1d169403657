import inspect

import pytest

from fedhello.engine.local import LocalEngine
from fedhello.engine.protocol import Engine
from fedhello.network.engine import RemoteEngine

ASKED = [name for name, member in vars(Engine).items() if inspect.isfunction(member) and not name.startswith("_")]


@pytest.mark.parametrize("engine", [LocalEngine, RemoteEngine])
def test_every_engine_takes_what_a_run_asks_of_it(engine):
    assert {"train", "commit", "head_sums", "block_scores"} == set(ASKED)
    for name in ASKED:
        own, asked = (inspect.signature(getattr(of, name)).parameters for of in (engine, Engine))
        assert [(p.name, p.default) for p in own.values()] == [(p.name, p.default) for p in asked.values()], name


def test_what_a_run_reads_of_an_engine_is_there_on_both(remote_world):
    _, remote, local = remote_world()
    for engine in (remote, local):
        assert engine.settings == remote.settings
        assert engine.personal_heads is None or engine.personal_heads.keys() <= {0, 1, 2}
        assert set(engine.initial_head) <= set(local.model.head_names)
