"""How many clients train at the same time, and that it changes no bit of a run."""

import os
import sys
from dataclasses import replace

import pytest
import torch

import fedhello as fh
from fedhello.client import loss
from fedhello.config.load import load_config
from fedhello.engine.workers import IN_TURN, Workers
from fedhello.errors import ConfigError
from fedhello.model.adapter import LoraModel
from fedhello.setup import workers as module
from fedhello.setup.model import NAMED
from fedhello.setup.prepare import load
from fedhello.setup.workers import workers_of
from fedhello.types import LORA_A, MERGED_A

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are copied on Linux alone")


@pytest.fixture
def four_threads(monkeypatch):
    monkeypatch.setattr(module, "processors", lambda: 4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(module, "SMALLEST", 1)


@pytest.fixture
def session(place):
    return fh.prepare("tiny.yaml")


def found(session, asked="auto", federation=None, **settings):
    changed = replace(session.engine.settings, **settings)
    return workers_of(asked, session.model, changed, federation or session.federation)


def test_threads_are_shared_out(four_threads, session):
    assert session.federation.invited == 2
    workers, (note,) = found(session)
    assert workers == Workers(2, 2)
    assert note.startswith("up to 2 clients train at the same time, each in a process with 2 threads")
    assert found(session, 2) == (Workers(2, 2), ())
    three = replace(session.federation, clients_per_round=3)
    assert found(session, federation=three)[0] == Workers(3, 1)
    assert found(session, 1) == (IN_TURN, ())


def test_small_models_and_single_threads_stay_in_this_process(session, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert found(session) == (IN_TURN, ())
    assert found(session, 2) == (Workers(2, 2), ())
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(module, "SMALLEST", 1)
    assert found(session) == (IN_TURN, ())
    assert found(session, 2) == (Workers(2, 1), ())


def test_auto_takes_no_more_threads_than_the_container_has_processors(four_threads, session, monkeypatch):
    monkeypatch.setattr(module, "processors", lambda: 2)
    assert found(session)[0] == Workers(2, 1)
    monkeypatch.setattr(module, "processors", lambda: 1)
    assert found(session) == (IN_TURN, ())
    assert found(session, 2)[0] == Workers(2, 2)


def test_auto_takes_no_more_than_memory_allows(four_threads, session, monkeypatch):
    def available(count):
        monkeypatch.setattr(module, "available_memory", lambda: count)

    federation = replace(session.federation, clients_per_round=4)
    available(4 * 2**28)
    assert found(session, federation=federation)[0].count == 4
    available(2**28)
    assert found(session, federation=federation)[0].count == 1
    assert found(session, 4, federation=federation)[0].count == 4
    workers, (note,) = found(session, federation=replace(federation, costs=()))
    assert workers == IN_TURN
    assert "the memory of their steps is not predicted" in note


def test_a_loss_of_ones_own_is_called_here_unless_asked_otherwise(four_threads, session, monkeypatch):
    monkeypatch.setattr(loss.LOSSES, "own", ())
    workers, (note,) = found(session)
    assert workers == IN_TURN
    assert "is not the package's own" in note
    assert found(session, 2)[0].count == 2


def test_where_it_cannot_be_it_is_refused(session, monkeypatch):
    monkeypatch.setattr(module, "can_fork", lambda: False)
    with pytest.raises(
        ConfigError, match=r"expected run\.workers=1, since this process cannot make copies .*; found 2\."
    ):
        found(session, 2)
    assert found(session, 1) == (IN_TURN, ())


RANKS = "clients.tiers=[{share: 1/2, rank: 2}, {share: 1/2, rank: 4}]"


@pytest.mark.parametrize(
    "words",
    [
        ["method.name=fed-hello", "train.server.name=avgm"],
        ["method.name=flora", RANKS],
        ["method.name=flexlora", RANKS],
        ["method.name=hetlora", RANKS, "train.over_selection=1.5", "clients.dropout=0.2"],
        ["method.name=rgd-hla", "train.scaffold=true", "model.head=aggregate"],
        ["method.name=rgd-hla", "model.head=local"],
        ["method.name=rgd-hla", "privacy.secure=true"],
    ],
    ids=lambda words: words[0].split("=")[1],
)
def test_no_bit_of_a_run_depends_on_it(place, words):
    ends = []
    for count in (1, 2):
        usual = [
            "train.rounds=3",
            "train.clients_per_round=3",
            "train.quorum=0.3",
            "train.measure_memory=false",
            f"run.workers={count}",
        ]
        session = fh.prepare(load_config(place / "tiny.yaml", [*usual, *words]))
        assert getattr(session.engine, "inner", session.engine).workers.count == count
        state, reports = fh.start(session).state, []
        for after, record in fh.rounds(session, state):
            state = after
            clients = [replace(client, metrics={**client.metrics, "seconds": 0.0}) for client in record.report.clients]
            reports.append((replace(record.report, clients=tuple(clients)), record.test, record.train_loss))
        tensors = {**state.adapter.tensors}
        for k, head in (state.personal_heads or {}).items():
            tensors |= {f"{k}/{name}": value for name, value in head.items()}
        ends.append((reports, tensors))
    (reports, tensors), (others, again) = ends
    assert reports == others
    assert tensors.keys() == again.keys()
    assert all(torch.equal(tensors[name], again[name]) for name in tensors)


def test_products_are_merged_once_for_all_clients(place, tmp_path, monkeypatch):
    """Not in each process: there it would copy all weights, too."""
    session = fh.prepare(
        load_config(place / "tiny.yaml", ["method.name=flora", RANKS, "run.workers=2", "train.rounds=2"])
    )
    parent, write, seen = os.getpid(), LoraModel.write, tmp_path / "seen"

    def written(model, tensors):
        versions = [weight._version for weight in frozen]
        write(model, tensors)
        if any(name.endswith(MERGED_A) for name in tensors):
            changed = [weight._version for weight in frozen] != versions
            with seen.open("ab") as file:
                file.write(b"p" if os.getpid() == parent and changed else b"c" if changed else b".")

    modules = [module.removesuffix(LORA_A) for module in session.initial if module.endswith(LORA_A)]
    frozen = [session.model.peft.get_submodule(module).get_base_layer().weight for module in modules]
    monkeypatch.setattr(LoraModel, "write", written)
    for _ in fh.rounds(session, fh.start(session).state):
        pass
    found = seen.read_bytes()
    assert b"p" in found and b"." in found and b"c" not in found


@pytest.mark.parametrize(
    ("engine", "asked", "said"), [("flower", 2, True), ("flower", "auto", False), ("local", 2, False)]
)
def test_clients_on_other_machines_ignore_it_and_that_is_said(workplace, monkeypatch, engine, asked, said):
    monkeypatch.chdir(workplace)
    config = load_config(workplace / "tiny.yaml", [f"run.engine={engine}", f"run.workers={asked}"])
    assert any("run.workers" in note for note in load(config, NAMED).notes) == said


def test_clients_train_in_turn_where_torch_could_use_another_device(four_threads, session, monkeypatch):
    """In a copy of a process that has begun threads for it, every backward pass fails."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert found(session) == (IN_TURN, ())
    with pytest.raises(ConfigError, match=r"run\.workers=1, since this machine has another device"):
        found(session, 2)
