import gc
from collections import Counter
from dataclasses import replace

import pytest
import torch

from fedhello.aggregation.padding import average_by_norm
from fedhello.engine import wire
from fedhello.engine.observer import Observer
from fedhello.engine.wire import decode_sums, encode_tensors, encode_update
from fedhello.errors import EngineError
from fedhello.model.statistics import PARTS, Moments, like
from fedhello.network.engine import DeadlinePolicy
from fedhello.network.messages import Failure
from fedhello.network.registry import SLOWEST
from fedhello.network.worker import Worker
from fedhello.strategy import AggregationContext
from fedhello.types import LORA_A, LORA_B, MERGED, MERGED_A, MERGED_B, Rejection, Update
from network import SETTINGS, remote_tasks


@pytest.fixture
def world(remote_world):
    return remote_world


def reasons(replies):
    return [reply.reason if isinstance(reply, Rejection) else "update" for reply in replies]


def test_updates_are_those_of_the_local_engine_bit_for_bit(world):
    _, engine, local = world()
    asked = remote_tasks(local)
    here = list(local.train(asked))
    there = list(engine.train(asked))
    assert [u.client for u in there] == [0, 1, 2]
    for a, b in zip(here, there, strict=True):
        assert (a.samples, a.round, a.bytes_up, a.bytes_down) == (b.samples, b.round, b.bytes_up, b.bytes_down)
        assert all(torch.equal(a.tensors[name], b.tensors[name]) for name in a.tensors)


def test_an_update_is_decoded_and_checked_once_and_waits_on_disk(world, monkeypatch):
    """Once by its client before it is sent, and once here; of those that wait, memory holds no tensors."""
    _, engine, local = world()
    opened, real = Counter(), wire._opened
    monkeypatch.setattr(wire, "_opened", lambda *given: opened.update([given[1].client]) or real(*given))
    updates = engine.train(remote_tasks(local))
    first = next(updates)
    waiting = [one for one in gc.get_objects() if isinstance(one, Update) and one is not first]
    assert {one.client: len(one.tensors) for one in waiting if one.bytes_up} == dict.fromkeys(range(3), 0)
    assert [first.client, *(update.client for update in updates)] == [0, 1, 2]
    assert opened == dict.fromkeys(range(3), 2)


def test_what_a_client_missed_travels_alone_but_to_clients_that_may_have_started_anew(world):
    """The same updates bit for bit: on one machine for the bytes of what is new, on many for those of everything."""
    _, engine, local = world()
    asked = remote_tasks(local)
    module, d = next(iter(asked[0].adapter.modules)), 8
    P, Q = torch.arange(float(d)).unsqueeze(0), torch.ones(d, 1)
    adapter = asked[0].adapter.with_tensors({module + MERGED: 2 * Q @ P})
    plain = [replace(task, adapter=adapter) for task in asked]
    missed = {module + MERGED_A: P, module + MERGED_B: Q}
    grown = [replace(task, known=frozenset([module + MERGED]), missed=missed) for task in plain]
    whole, here, there = list(local.train(plain)), list(local.train(grown)), list(engine.train(grown))
    for w, a, b in zip(whole, here, there, strict=True):
        assert a.bytes_down < w.bytes_down == b.bytes_down
        assert all(torch.equal(a.tensors[n], w.tensors[n]) for n in w.tensors)
        assert all(torch.equal(b.tensors[n], w.tensors[n]) for n in w.tensors)
    nothing_merged = next(iter(local.train(asked))).tensors
    assert any(not torch.equal(whole[0].tensors[n], nothing_merged[n]) for n in nothing_merged)


LIKE = like(3, 8, Moments())


def same(here, there):
    return all(torch.equal(getattr(here, name), getattr(there, name)) for name in PARTS)


def test_head_sums_are_those_of_the_local_engine_bit_for_bit(world):
    _, engine, local = world(sums_like=LIKE)
    begun = local.model.snapshot(share_head=True)
    list(engine.train(remote_tasks(local)))  # sums are of the model as it was before any training
    for here, there in zip(local.head_sums(), engine.head_sums(), strict=True):
        assert (here.clients, here.bytes_up, here.bytes_down) == (there.clients, there.bytes_up, there.bytes_down)
        assert same(here.sums, there.sums)
        assert here.bytes_down == 0
    moved = begun.with_tensors({name: value + 0.5 for name, value in begun.tensors.items()})
    at_first = {one.clients: one.sums for one in engine.head_sums()}
    for here, there in zip(local.head_sums([2, 0], moved), engine.head_sums([2, 0], moved), strict=True):
        assert (here.clients, here.bytes_up, here.bytes_down) == (there.clients, there.bytes_up, there.bytes_down)
        assert same(here.sums, there.sums)
        assert not same(there.sums, at_first[there.clients]), "features are those under the adapter that is sent"
        assert there.bytes_down > sum(value.nbytes for value in moved.tensors.values())


def test_a_client_without_sums_is_left_out_and_noted(world):
    notes = []
    network, engine, _ = world(sums_like=LIKE, note=notes.append)
    network.faults["client-1", "sums"] = [lambda reply: {"sums": reply["sums"][:-8]}]
    assert [one.clients for one in engine.head_sums()] == [(0,), (2,)]
    assert "without client 1" in notes[0]
    for k in range(3):
        network.faults[f"client-{k}", "sums"] = ["silent"]
    with pytest.raises(EngineError, match="none came"):
        list(engine.head_sums())


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("counts", lambda value: value + 5),
        ("counts", lambda value: value - 11),
        ("counts", lambda value: value.long() + 2**62),
        ("counts", lambda value: value.float()),
        ("features", lambda value: value * 0 + 2**30),
        ("moments", lambda value: value.long() + 2**60),
        ("moments", lambda value: value.long() - 2**60),
        ("moments", lambda value: value[:-1]),
        *[("features", lambda value, odd=odd: value * 0.0 + odd) for odd in (1e38, 3e38, float("inf"), float("nan"))],
    ],
)
def test_sums_that_no_such_samples_have_are_left_out(world, name, change):
    notes = []
    network, engine, _ = world(sums_like=LIKE, note=notes.append, longest_feature=10.0)

    def forge(reply):
        sums = decode_sums(reply["sums"], LIKE)
        return {"sums": encode_tensors(sums | {name: change(sums[name])})}

    network.faults["client-1", "sums"] = [forge]
    assert [one.clients for one in engine.head_sums()] == [(0,), (2,)]
    assert "without client 1" in notes[0]


def test_who_does_not_answer_in_time_is_late_and_its_reply_is_never_used(world):
    network, engine, local = world()
    network.faults["client-1", "train"] = ["slow"]
    network.delay = 1000.0
    assert reasons(engine.train(remote_tasks(local))) == ["update", "late", "update"]
    network.now += 2000  # now the late reply is there
    assert reasons(engine.train(remote_tasks(local, t=1))) == ["update", "update", "update"]
    assert [u.round for u in engine.train(remote_tasks(local, t=2))] == [2, 2, 2]


def test_the_round_ends_at_the_deadline(world):
    network, engine, local = world()
    network.faults["client-2", "train"] = ["silent"]
    task = remote_tasks(local)[2]
    begin = network.now
    list(engine.train(remote_tasks(local)))
    sent = next(fields for name, kind, fields, _ in network.sent if (name, kind) == ("client-2", "train"))
    assert engine.seconds(task, 0) < sent["seconds"]
    assert network.now - begin == pytest.approx(sent["seconds"], abs=0.2)


def test_deadlines_follow_bytes_rates_and_speeds():
    pace = DeadlinePolicy(floor=30, factor=3)
    assert pace.seconds(50 * 10**6, 10**6, 10**9, 10**9) == 30 + 3 * (50 + 1)  # 50 MB over 1 MB/s need no luck
    assert pace.seconds(10**5, 10**7, 10**9, 10**9) == pytest.approx(33.03)
    assert pace.seconds(0, 1, 10**9, 1e-9) == 86_400
    assert pace.seconds(0, 1, None, 10**9) == pace.seconds(0, 1, 10**9, None) == 30 + 3 * 3600


def test_a_rate_that_was_seen_shortens_the_deadline_and_one_slow_reply_does_not_ruin_it(world):
    network, engine, local = world()
    task = remote_tasks(local)[0]
    first = engine.seconds(task, 10**8)
    engine.rates[0] = 10**8
    fast = engine.seconds(task, 10**8)
    assert fast < first
    network.faults["client-0", "train"] = ["slow"]
    network.delay = 5.0
    list(engine.train(remote_tasks(local)))
    assert engine.rates[0] == 10**8 / 2
    for t in range(1, 20):
        network.faults["client-0", "train"] = ["slow"]
        list(engine.train(remote_tasks(local, t)))
    assert engine.rates[0] >= SLOWEST


def test_who_disconnects_is_lost_at_once_and_is_itself_again_when_it_is_back(world):
    network, engine, local = world()
    network.faults["client-1", "train"] = ["down"]
    begin = network.now
    assert reasons(engine.train(remote_tasks(local))) == ["update", "lost", "update"]
    assert network.now - begin < 3
    assert reasons(engine.train(remote_tasks(local, t=1))) == ["update", "lost", "update"]
    network.connect("client-1", network.workers["client-1"])
    network.now += 2
    assert reasons(engine.train(remote_tasks(local, t=2))) == ["update", "update", "update"]


def test_a_client_that_started_anew_behind_its_old_node_is_asked_to_join_again(world):
    network, engine, local = world()
    worker = network.workers["client-0"]
    client, worker._client = worker._client, None
    worker._joined = None
    assert reasons(engine.train(remote_tasks(local)))[0] == "failed"
    worker._prepare = lambda config, labels: client
    network.now += 2
    assert reasons(engine.train(remote_tasks(local, t=1))) == ["update", "update", "update"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda reply: {}, "malformed"),
        (lambda reply: {"update": "text"}, "malformed"),
        (lambda reply: {"update": reply["update"][:-1]}, "checksum"),
        (lambda reply: {"update": reply["update"] * 3}, "too large"),
        (lambda reply: {"error": "over budget", "detail": "no memory"}, "over budget"),
        (lambda reply: {"error": "rm -rf", "detail": "\x1b[31m" + "x" * 9999}, "failed"),
        (lambda reply: Failure("lost", "Flower's error 5: gone"), "lost"),
    ],
)
def test_what_is_no_update_is_a_rejection_with_its_reason(world, change, reason):
    network, engine, local = world()
    network.faults["client-1", "train"] = [change]
    replies = list(engine.train(remote_tasks(local)))
    assert reasons(replies) == ["update", reason, "update"]
    assert len(replies[1].detail) <= 400
    assert replies[1].detail.isprintable()


def test_a_replayed_update_of_an_earlier_round_is_stale(world):
    network, engine, local = world()
    kept = []
    network.faults["client-1", "train"] = [lambda reply: kept.append(reply) or reply, lambda reply: kept[0]]
    list(engine.train(remote_tasks(local)))
    replies = list(engine.train(remote_tasks(local, t=1)))
    assert reasons(replies) == ["update", "stale", "update"]


def test_an_update_in_the_name_of_another_client_is_not_invited(world):
    network, engine, local = world()
    forged = next(u for u in local.train(remote_tasks(local)) if u.client == 0)
    network.faults["client-1", "train"] = [lambda reply: {"update": encode_update(forged, "this-run")}]
    assert reasons(engine.train(remote_tasks(local))) == ["update", "not invited", "update"]


def test_an_update_of_another_run_is_stale(world):
    network, engine, local = world()
    forged = next(u for u in local.train(remote_tasks(local)) if u.client == 1)
    network.faults["client-1", "train"] = [lambda reply: {"update": encode_update(forged, "another")}]
    assert reasons(engine.train(remote_tasks(local))) == ["update", "stale", "update"]


def test_the_first_to_arrive_are_enough_where_more_were_invited(world):
    network, engine, local = world(clients_per_round=2, over_selection=1.5)
    network.faults["client-0", "train"] = ["slow"]
    network.delay = 5.0
    replies = list(engine.train(remote_tasks(local)))
    assert reasons(replies) == ["late", "update", "update"]
    assert network.now < 5


def test_a_name_that_was_not_there_from_the_start_or_is_there_already_is_not_admitted(world):
    notes = []
    network, engine, _ = world(note=notes.append)
    client = network.workers["client-0"]._client
    for name, samples in (("stranger", 10), ("client-0", 10), ("client-1", 99)):
        other = replace(client, facts=client.facts.model_copy(update={"name": name, "samples": samples}))
        worker = Worker(lambda config, labels, other=other: other, watched=False)
        network.connect(name + "'", worker)
    before = dict(engine.node_of)
    network.now += 2
    engine.look_around()
    assert engine.node_of == before
    assert len(notes) == 3
    assert any("connected already" in note for note in notes)
    network.now += 2
    engine.look_around()
    assert len(notes) == 3  # said once


def test_a_client_that_is_back_before_its_dead_connection_ends_is_admitted_when_that_does(world):
    notes = []
    network, engine, local = world(note=notes.append)
    dead = network.node_of["client-1"]
    network.connect("client-1 again", network.workers["client-1"])
    network.now += 2
    engine.look_around()
    assert engine.node_of[1] == dead  # Flower takes up to a minute to notice
    assert "when that connection ends" in notes[0]
    del network.node_of["client-1"]
    network.now += 2
    engine.look_around()
    network.now += 2
    engine.look_around()
    assert engine.node_of[1] == network.node_of["client-1 again"]
    assert reasons(engine.train(remote_tasks(local))) == ["update"] * 3
    assert len(notes) == 1


def test_a_node_whose_invitation_did_not_go_out_is_asked_again(world):
    network, engine, _ = world()
    send = network.send
    network.connect("client-1 again", network.workers["client-1"])
    network.send = lambda *message, **more: ""
    network.now += 2
    engine.look_around()
    network.send = send
    before = len(network.sent)
    network.now += 2
    engine.look_around()
    assert [kind for _, kind, _, _ in network.sent[before:]] == ["join"]


def test_replies_that_come_too_late_are_dropped(world):
    network, engine, local = world(clients_per_round=2, over_selection=1.5)
    network.faults["client-0", "train"] = ["slow"]
    network.delay = 5.0
    list(engine.train(remote_tasks(local)))
    late = [message for name, kind, _, message in network.sent if (name, kind) == ("client-0", "train")]
    assert network.forgotten == late


def test_a_round_waits_for_its_quorum_to_be_connected_and_not_for_ever(world):
    network, engine, local = world(patience=50.0)
    network.node_of.clear()
    begin = network.now
    network.now += 2
    assert reasons(engine.train(remote_tasks(local))) == ["lost"] * 3
    assert 50 <= network.now - begin < 60


def test_goodbye_reaches_everybody(world):
    network, engine, _ = world()
    engine.goodbye("finished")
    assert {worker.ended for worker in network.workers.values()} == {"finished"}


def test_a_client_whose_tail_fades_uploads_what_it_keeps_in_the_same_round(world):
    """HetLoRA: one rank of two comes; the server fills it up, and averages what it would of the whole update."""
    _, engine, local = world(settings=replace(SETTINGS, tail_penalty=10.0, tail_from=0.5, tail_least=1, lr=0.1))
    A = next(name for name in remote_tasks(local)[0].adapter.tensors if name.endswith(LORA_A))
    start = remote_tasks(local)[0].adapter
    start = start.with_tensors({n: torch.ones_like(v) for n, v in start.tensors.items() if n.endswith(LORA_B)})
    asked = [replace(task, adapter=start) for task in remote_tasks(local)]
    here, there = list(local.train(asked)), list(engine.train(asked))
    local.settings = replace(local.settings, tail_least=None)
    whole = list(local.train(asked))
    federation = replace(local.federation, rank=2)
    context = AggregationContext(start, federation, 0, {task.client: task.allocation for task in asked})
    results = [average_by_norm(context, found, shrink=0.5) for found in (whole, here, there)]
    assert {key: int(r) for key, r in results[0].method_state.items()} == {f"rank/{k}": 1 for k in range(3)}
    for result in results[1:]:
        assert result.method_state == results[0].method_state
        assert all(torch.equal(v, results[0].adapter.tensors[n]) for n, v in result.adapter.tensors.items())
    for w, a, b in zip(whole, here, there, strict=True):
        factors = sum(v.nbytes for n, v in w.tensors.items() if n.endswith((LORA_A, LORA_B)))
        assert w.bytes_up - a.bytes_up == pytest.approx(factors / 2, abs=80)  # and a few digits of the header
        assert a.bytes_up == b.bytes_up
        assert w.tensors[A][1:].any() and not a.tensors[A][1:].any()


class Ears(Observer):
    def __init__(self):
        self.heard, self.here = [], []

    def on_client(self, client, phase):
        self.heard.append((client, phase))

    def on_connected(self, names):
        self.here.append(dict(names))


def test_who_is_asked_who_has_sent_and_who_is_late_lost_or_here_is_told_as_it_happens(world):
    network, engine, local = world()
    engine.observer = ears = Ears()
    network.delay, network.faults["client-1", "train"] = 1000.0, ["slow"]
    network.faults["client-2", "train"] = ["down"]
    replies = list(engine.train(remote_tasks(local)))
    phases = {k: [phase for client, phase in ears.heard if client == k] for k in range(3)}
    assert phases[0] == ["training", "sent"]
    assert phases[1] == ["training", "late"]
    assert phases[2] == ["training", "lost"]
    assert reasons(replies) == ["update", "late", "lost"]
    assert ears.heard[-1] == (1, "late")  # the others were told before it was waited for in vain
    assert ears.here[0].keys() <= {0, 1, 2} and ears.here[-1] == {0: "client-0", 1: "client-1"}
