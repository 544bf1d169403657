import os
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load

from fedhello import algorithm
from fedhello.client import first_step
from fedhello.client.settings import TrainingSettings
from fedhello.engine import local as local_module
from fedhello.engine.local import LocalEngine
from fedhello.engine.wire import encode_tensors
from fedhello.engine.workers import Workers
from fedhello.methods import METHODS
from fedhello.state import ClientReport, RoundReport
from fedhello.types import Allocation, Rejection, Task, Update

SETTINGS = TrainingSettings(
    rounds=4, epochs=1, batch_size=4, optimizer="adamw", lr=1e-2, lr_schedule="constant", lr_decay=1.0,
    weight_decay=0.0, momentum=0.0, loss="cross_entropy", autocast="none",
)  # fmt: skip

EVERYBODY = {k: Allocation((0, 1, 2)) for k in range(3)}

parallel_alone = pytest.mark.skipif(sys.platform != "linux", reason="processes are copied on Linux alone")


def tasks(adapter, allocations, t):
    """Everybody starts from the whole adapter."""
    return [Task(k, t, allocations[k], adapter) for k in sorted(allocations)]


def played(engine, adapter, allocations, t, heads=None, failed=None):
    """Train, and let all updates count, or none if the attempt failed; return the replies and all heads after it."""
    heads = {} if heads is None else heads
    replies = list(engine.train(tasks(adapter, allocations, t), heads))
    reports = [ClientReport(u.client, 0, (), (), u.samples, u.metrics, 0, 0) for u in replies if isinstance(u, Update)]
    trained = engine.trained_heads(RoundReport(t, tuple(reports), (), None, False, failed=failed))
    return replies, {**heads, **trained}


@pytest.fixture
def engine(tiny_model, random_examples, federation):
    def build(capacities=(1, 2, 3), **settings):
        model = tiny_model(blocks=3)
        data = {k: random_examples(samples=10 + k, seed=k) for k in range(len(capacities))}
        world = federation(list(capacities), blocks=3)
        return LocalEngine(model, world, data, replace(SETTINGS, **settings))

    return build


def test_updates_come_in_ascending_order_and_hold_exactly_the_allocated_tensors(engine):
    e = engine()
    adapter = e.model.snapshot(share_head=True)
    updates = list(e.train(tasks(adapter, {2: Allocation((1,)), 0: Allocation(()), 1: Allocation((0, 2))}, t=0)))
    assert [u.client for u in updates] == [0, 1, 2]
    assert [u.samples for u in updates] == [10, 11, 12]
    assert [len(u.tensors) for u in updates] == [2, 10, 6]
    assert set(updates[2].tensors) == set(adapter.names(Allocation((1,))))


def test_every_client_starts_from_the_global_adapter(engine):
    e = engine()
    adapter = e.model.snapshot(share_head=True)
    allocation = Allocation((0, 1, 2))
    alone = next(iter(e.train(tasks(adapter, {2: allocation}, t=0))))
    *_, after_others = e.train(tasks(adapter, {0: allocation, 1: allocation, 2: allocation}, t=0))
    assert all(torch.equal(alone.tensors[name], after_others.tensors[name]) for name in alone.tensors)


def test_the_global_adapter_is_not_changed_by_training(engine):
    e = engine()
    adapter = e.model.snapshot(share_head=True)
    copy = {name: value.clone() for name, value in adapter.tensors.items()}
    list(e.train(tasks(adapter, {0: Allocation((0, 1, 2))}, t=0)))
    assert all(torch.equal(copy[name], adapter.tensors[name]) for name in copy)


def test_bytes_are_those_of_the_messages(engine, monkeypatch):
    sent = []
    real = local_module.encode_update

    def spy(update, run):
        sent.append(real(update, run))
        return sent[-1]

    monkeypatch.setattr(local_module, "encode_update", spy)
    e = engine()
    adapter = e.model.snapshot(share_head=True)
    updates = list(e.train(tasks(adapter, {0: Allocation((1,)), 2: Allocation((0, 1, 2))}, t=0)))
    assert [u.bytes_up for u in updates] == [len(payload) for payload in sent]
    adapter_bytes = len(encode_tensors(adapter.tensors))
    asked = ['{"round":0,"blocks":[1],"policies":[]}', '{"round":0,"blocks":[0,1,2],"policies":[]}']
    assert [u.bytes_down for u in updates] == [adapter_bytes + len(task) for task in asked]
    assert load(encode_tensors(adapter.tensors)).keys() == adapter.tensors.keys()


def test_no_model_is_copied_per_client(engine, monkeypatch):
    import copy

    e = engine()
    identity = id(e.model.module)
    monkeypatch.setattr(copy, "deepcopy", lambda *_: pytest.fail("a model was copied"))
    list(e.train(tasks(e.model.snapshot(share_head=True), {0: Allocation((0,)), 1: Allocation((1,))}, t=0)))
    assert id(e.model.module) == identity


def test_personal_heads_stay_with_their_clients(engine):
    e = engine()
    adapter = e.model.snapshot(share_head=False)
    start = e.model.read(e.model.head_names)
    both = {0: Allocation((0,)), 1: Allocation((0,))}
    updates, heads = played(e, adapter, both, t=0)
    assert all(set(u.tensors) == set(adapter.names(Allocation((0,)))) for u in updates)
    weight = e.model.head_tensor_name("weight")
    first = {k: head[weight].clone() for k, head in heads.items()}
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], start[weight])
    _, after = played(e, adapter, {0: Allocation((0,))}, t=1, heads=heads)
    assert not torch.equal(first[0], after[0][weight])
    assert torch.equal(first[1], after[1][weight])


def test_heads_that_were_saved_are_not_changed_by_the_next_round(engine):
    e = engine()
    adapter = e.model.snapshot(share_head=False)
    _, saved = played(e, adapter, {0: Allocation((0,)), 1: Allocation((0,))}, t=0)
    weight = e.model.head_tensor_name("weight")
    before = saved[0][weight].clone()
    _, after = played(e, adapter, {0: Allocation((0,))}, t=1, heads=saved)
    assert torch.equal(saved[0][weight], before)
    assert not torch.equal(after[0][weight], before)


def test_a_personal_head_goes_on_from_where_it_was(engine):
    e = engine(lr=1e-6)
    adapter = e.model.snapshot(share_head=False)
    weight = e.model.head_tensor_name("weight")
    half = {name: torch.full_like(value, 0.5) for name, value in e.model.read(e.model.head_names).items()}
    _, heads = played(e, adapter, {0: Allocation((0,))}, t=0, heads={0: half})
    assert heads[0][weight] == pytest.approx(torch.full((3, 8), 0.5), abs=1e-4)


def test_frozen_heads_neither_train_nor_travel(engine):
    e = engine()
    adapter = e.model.snapshot(share_head=False)
    start = e.model.read(e.model.head_names)
    (update,) = e.train(tasks(adapter, {0: Allocation((0, 1))}, t=0))
    assert not set(update.tensors) & set(e.model.head_names)
    assert all(torch.equal(value, start[name]) for name, value in e.model.read(e.model.head_names).items())


def test_a_shared_head_that_does_not_train_neither_travels_nor_moves(engine):
    e = engine()
    adapter, blocks = e.model.snapshot(share_head=True), (0, 1, 2)
    with_head, without = ({0: Allocation(blocks, head=head)} for head in (True, False))
    (whole,), (part,) = (list(e.train(tasks(adapter, a, t=0))) for a in (with_head, without))
    assert set(whole.tensors) - set(part.tensors) == set(e.model.head_names)
    assert whole.bytes_up - part.bytes_up >= 4 * (3 * 8 + 3), "weight and bias of three classes, float32"
    start = {name: adapter.tensors[name] for name in e.model.head_names}
    assert all(torch.equal(value, start[name]) for name, value in e.model.read(e.model.head_names).items())
    assert not any(p.requires_grad for p in e.model.logits_layer.parameters())


def test_head_sums_cover_every_client_once(engine):
    e = engine()
    found = list(e.head_sums())
    assert [one.clients for one in found] == [(0,), (1,), (2,)]
    assert [int(one.sums.counts.sum()) for one in found] == [10, 11, 12]
    # Integers of 32 bits: three counts, three features of eight numbers, and the triangle of 8 × 8.
    assert all(4 * (3 + 3 * 8 + 36) < one.bytes_up < 4 * (3 + 3 * 8 + 36) + 400 for one in found)
    assert all(one.bytes_down == 0 for one in found)
    labels = np.bincount(e.data[1].labels, minlength=3)
    assert found[1].sums.counts.tolist() == labels.tolist()
    assert [one.clients[0] for one in e.head_sums([2, 0])] == [0, 2]


@pytest.mark.parametrize("name", sorted(METHODS))
def test_two_runs_with_one_seed_give_bit_identical_adapters(engine, name):
    def play():
        e = engine()
        state = algorithm.init(e.model.snapshot(share_head=True))
        for _ in range(3):
            method = METHODS[name].bind()
            world = replace(e.federation, rank=2)
            state, _ = algorithm.round(state, world, method, e.train, lambda *_: (1.0, 2.0, 3.0), lambda m, *_: m)
        return state.adapter.tensors

    one, other = play(), play()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_no_private_head_is_left_in_the_model(engine):
    e = engine()
    start = e.model.read(e.model.head_names)
    list(e.train(tasks(e.model.snapshot(share_head=False), {0: Allocation((0,)), 1: Allocation((0,))}, t=0), {}))
    assert all(torch.equal(value, start[name]) for name, value in e.model.read(e.model.head_names).items())


def test_equal_runs_send_equally_many_bytes(engine):
    def sent():
        e = engine()
        return [u.bytes_up for u in e.train(tasks(e.model.snapshot(share_head=True), {0: Allocation((0,))}, t=0))]

    assert sent() == sent()


def test_an_interrupted_client_leaves_no_head_behind(engine, monkeypatch):
    from fedhello.client import training

    e = engine()
    start = e.model.read(e.model.head_names)
    real, calls = training._step, []

    def step(*arguments):
        calls.append(1)
        if len(calls) == 5:  # in the second client
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(training, "_step", step)
    both = {0: Allocation((0,)), 1: Allocation((0,))}
    with pytest.raises(KeyboardInterrupt):
        list(e.train(tasks(e.model.snapshot(share_head=False), both, t=0), {}))
    assert len(calls) == 5
    assert all(torch.equal(value, start[name]) for name, value in e.model.read(e.model.head_names).items())


def test_a_failed_attempt_leaves_every_head_as_it_was(engine):
    e = engine()
    _, heads = played(e, e.model.snapshot(share_head=False), {0: Allocation((0,))}, t=0, failed="the quorum is 2")
    assert heads == {}


def test_an_update_that_came_but_does_not_count_leaves_its_clients_head_as_it_was(engine):
    """As one that a screen rejects."""
    e = engine()
    both = {0: Allocation((0,)), 1: Allocation((0,))}
    first, _ = e.train(tasks(e.model.snapshot(share_head=False), both, t=0), {})
    report = RoundReport(0, (ClientReport(first.client, 0, (), (), 10, {}, 0, 0),), (), None, False)
    assert e.trained_heads(report).keys() == {0}


def test_one_clients_error_is_its_own_and_its_head_stays(engine, monkeypatch):
    e = engine()
    real = local_module.local_training

    def training(model, work, settings):
        if work.client == 1:
            raise OSError("its disk is gone")
        return real(model, work, settings)

    monkeypatch.setattr(local_module, "local_training", training)
    allocation = Allocation((0,))
    everybody = {0: allocation, 1: allocation, 2: allocation}
    replies, heads = played(e, e.model.snapshot(share_head=False), everybody, t=0)
    assert [type(reply) for reply in replies] == [Update, Rejection, Update]
    assert (replies[1].client, replies[1].reason, replies[1].detail) == (1, "failed", "OSError: its disk is gone")
    assert replies[1].bytes_down == replies[0].bytes_down
    assert heads.keys() == {0, 2}


def test_training_that_diverges_is_rejected_as_not_finite(engine):
    e = engine()
    adapter = e.model.snapshot(share_head=True)
    adapter = adapter.with_tensors({e.model.head_tensor_name("weight"): torch.full((3, 8), float("nan"))})
    (reply,) = e.train(tasks(adapter, {0: Allocation((0,))}, t=0))
    assert reply.reason == "not finite"
    assert "client 0 in round 0" in reply.detail
    assert "the head that this round started from" in reply.detail
    assert "Lower train.lr" not in reply.detail


def test_a_client_without_memory_is_rejected_as_over_budget(engine, monkeypatch):
    def training(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(local_module, "local_training", training)
    e = engine()
    (reply,) = e.train(tasks(e.model.snapshot(share_head=True), {0: Allocation((0,))}, t=0))
    assert reply.reason == "over budget"


def parallel(e):
    e.workers = Workers(2)
    return e


def same(here, there):
    assert [type(one) for one in here] == [type(one) for one in there]
    for one, other in zip(here, there, strict=True):
        if isinstance(one, Rejection):
            assert one == other
            continue
        assert list(one.tensors) == list(other.tensors)
        assert all(torch.equal(one.tensors[name], other.tensors[name]) for name in one.tensors)
        assert one.metrics.keys() == other.metrics.keys()
        assert all(one.metrics[key] == other.metrics[key] for key in one.metrics if key != "seconds")
        assert replace(one, tensors={}, metrics={}) == replace(other, tensors={}, metrics={})


@parallel_alone
@pytest.mark.parametrize("personal", [False, True])
def test_clients_that_train_at_the_same_time_reply_as_in_turn(engine, monkeypatch, personal):
    """With one that is lost, one that fails, corrections of SCAFFOLD, and own heads that go on over two rounds."""
    found = []
    for e in (engine(scaffold=True), parallel(engine(scaffold=True))):
        e.dropout = 0.3
        adapter, heads, all_of_it = e.model.snapshot(share_head=not personal), {} if personal else None, []
        for t in range(3):
            names = adapter.names(Allocation((0, 1, 2)))
            correction = {name: torch.full_like(adapter.tensors[name], 0.1) for name in names}
            asked = [replace(task, correction=correction) for task in tasks(adapter, EVERYBODY, t)]
            asked[1] = replace(asked[1], correction={"no such": torch.ones(1)}) if t == 1 else asked[1]
            replies = list(e.train(asked, heads))
            all_of_it += replies
            if personal:
                counted = [ClientReport(u.client, 0, (), (), 1, {}, 0, 0) for u in replies if isinstance(u, Update)]
                heads = {**heads, **e.trained_heads(RoundReport(t, tuple(counted), (), None, False))}
        found.append((all_of_it, heads or {}))
    (here, heads), (there, other) = found
    assert {reply.reason for reply in here if isinstance(reply, Rejection)} == {"lost", "failed"}
    same(here, there)
    assert heads.keys() == other.keys() and bool(heads) == personal
    assert all(torch.equal(heads[k][name], other[k][name]) for k in heads for name in heads[k])


@parallel_alone
def test_a_step_that_one_process_has_measured_is_measured_by_no_other(engine, monkeypatch):
    e = parallel(engine())
    adapter = e.model.snapshot(share_head=True)
    here = list(e.train(tasks(adapter, EVERYBODY, 0)))
    monkeypatch.setattr(first_step, "StepMemory", None)  # a measurement would be an error
    there = list(e.train(tasks(adapter, EVERYBODY, 0)))
    same(here, there)
    assert all(isinstance(reply, Update) and reply.metrics["peak_bytes"] > 0 for reply in there)


@parallel_alone
@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_process_that_is_killed_is_its_clients_rejection(engine, monkeypatch, clip):
    """Under differential privacy it contributes no change, as any client that fails."""
    e = parallel(engine())
    adapter = e.model.snapshot(share_head=True)
    real = e._train_one
    monkeypatch.setattr(
        e, "_train_one", lambda task, *more: os.kill(os.getpid(), 9) if task.client == 1 else real(task, *more)
    )
    asked = [replace(task, clip=clip) for task in tasks(adapter, EVERYBODY, 0)]
    replies = list(e.train(asked))
    assert [reply.client for reply in replies] == [0, 1, 2]
    if clip is None:
        assert [type(reply) for reply in replies] == [Update, Rejection, Update]
        assert replies[1].reason == "lost"
        assert replies[1].detail.startswith("nothing came back: its process was ended by signal 9")
        assert replies[1].bytes_down == replies[0].bytes_down
    else:
        assert all(torch.equal(value, adapter.tensors[name]) for name, value in replies[1].tensors.items())


@parallel_alone
def test_what_clients_log_is_logged_here(engine, caplog):
    e = parallel(engine())
    adapter = e.model.snapshot(share_head=True)
    task = replace(tasks(adapter, {1: Allocation((0,))}, 0)[0], clip=1.0, correction={"no such": torch.ones(1)})
    list(e.train([task]))
    assert "client 1 contributes no change to round 0: 'no such'" in caplog.text


def test_activations_are_kept_for_the_clients_whose_budget_has_a_cache_and_by_a_copy_of_the_engine(engine):
    e = engine(measure_memory=False)
    roomy = replace(e.federation.clients[1], budget=replace(e.federation.clients[1].budget, cache=10**6))
    world = replace(e.federation, clients=(e.federation.clients[0], roomy, e.federation.clients[2]))
    e = replace(e, federation=world)
    adapter = e.model.snapshot(share_head=True)
    everyone = {k: Allocation((2,)) for k in range(3)}
    first = list(e.train(tasks(adapter, everyone, t=0)))
    assert e.boundary.nbytes == int(e.data[1].lengths().sum()) * 8 * 4
    again = list(replace(e, dropout=0.0).train(tasks(adapter, everyone, t=0)))
    for one, other in zip(first, again, strict=True):
        assert all(torch.equal(value, other.tensors[name]) for name, value in one.tensors.items())
