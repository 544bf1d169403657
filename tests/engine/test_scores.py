from dataclasses import replace

import pytest
import torch

from fedhello.client.cost_model import Growth, Peak
from fedhello.client.fisher import block_scores
from fedhello.client.scoring import ScoreRequest, mean_scores
from fedhello.engine.local import LocalEngine
from fedhello.engine.wire import decode_sums, encode_tensors
from fedhello.network.messages import Failure
from network import SETTINGS

LIKE = {"squares": torch.empty(3).double(), "count": torch.tensor(0.0).double()}


def request_of(local, samples=64, t=0):
    tensors = local.model.snapshot(share_head=True).tensors
    rng = torch.Generator().manual_seed(1)
    adapter = local.model.snapshot(share_head=True).with_tensors(
        {name: 0.5 * torch.randn(v.shape, generator=rng) for name, v in tensors.items()}
    )
    return ScoreRequest(adapter, local.federation.clients, t, 0, samples)


@pytest.mark.parametrize("samples", [64, 5])
def test_both_engines_report_the_same_sums_and_bytes(remote_world, samples):
    _, engine, local = remote_world()
    request = request_of(local, samples)
    here, there = list(local.block_scores(request)), list(engine.block_scores(request))
    assert [reply.clients for reply in there] == [(0,), (1,), (2,)]
    for a, b in zip(here, there, strict=True):
        assert torch.equal(a.sums.squares, b.sums.squares)
        assert float(a.sums.count) == float(b.sums.count) == min(samples, 10 + a.clients[0])
        assert (a.bytes_down, a.bytes_up, a.note) == (b.bytes_down, b.bytes_up, "")
        assert min(a.bytes_down, a.bytes_up) > 0


def test_they_come_to_the_scores_of_all_their_data_under_the_requests_adapter(remote_world):
    _, engine, local = remote_world()
    request = request_of(local)
    replies = list(engine.block_scores(request))
    local.model.write(request.adapter.tensors)
    counts = [len(local.data[k]) for k in range(3)]
    each = [block_scores(local.model, local.data[k]) for k in range(3)]
    pooled = [
        sum(n * g for n, g in zip(counts, gammas, strict=True)) / sum(counts) for gammas in zip(*each, strict=True)
    ]
    assert mean_scores(reply.sums for reply in replies) == pytest.approx(pooled, rel=1e-10)


def forged(name, change):
    def forge(reply):
        found = decode_sums(reply["scores"], LIKE)
        return {"scores": encode_tensors(found | {name: change(found[name])})}

    return forge


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("silent", "late"),
        ("down", "lost"),
        (lambda reply: {}, "expected its sums"),
        (lambda reply: {"scores": "text"}, "expected its sums"),
        (lambda reply: {"scores": reply["scores"][:-1]}, "expected safetensors"),
        (lambda reply: {"scores": reply["scores"] * 99}, "at most"),
        (lambda reply: {"error": "failed", "detail": "no \x1b[31m memory"}, "its sums; it failed"),
        (lambda reply: Failure("lost", "gone"), "lost: gone"),
        (forged("count", lambda value: value * 1e6), "1 to 11 samples"),
        (forged("squares", lambda value: -value), "negative"),
        (forged("squares", lambda value: value * float("inf")), "finite"),
    ],
)
def test_who_reports_no_such_sums_is_left_out_and_said_to_be(remote_world, fault, said):
    network, engine, local = remote_world()
    network.faults["client-1", "scores"] = [fault]
    replies = list(engine.block_scores(request_of(local)))
    assert [reply.sums is None for reply in replies] == [False, True, False]
    assert said in replies[1].note
    assert replies[1].note.isprintable()


def test_one_that_started_anew_is_asked_to_join_before_it_trains(remote_world):
    network, engine, local = remote_world()
    worker = network.workers["client-0"]
    client, worker._client = worker._client, None
    worker._joined = None
    assert next(iter(engine.block_scores(request_of(local)))).sums is None
    worker._prepare = lambda config, labels: client
    network.now += 2
    assert next(iter(engine.block_scores(request_of(local)))).sums is not None


def test_batches_fit_each_clients_memory_and_one_sample_too_many_is_said(remote_world):
    peak = Peak((Growth(0.0, 10.0, 0.0, 0.0),))
    notes = {}
    for memory in (2**40, 16 * 2**20 + 30, 5):
        network, engine, local = remote_world(scoring=peak)
        local.scoring = peak
        clients = tuple(replace(k, budget=replace(k.budget, memory=memory)) for k in local.federation.clients)
        request = replace(request_of(local), clients=clients)
        here, there = list(local.block_scores(request)), list(engine.block_scores(request))
        assert [reply.note for reply in here] == [reply.note for reply in there]
        assert all(torch.equal(a.sums.squares, b.sums.squares) for a, b in zip(here, there, strict=True))
        sent = {fields["batch_size"] for _, kind, fields, _ in network.sent if kind == "scores"}
        notes[sent.pop()] = here[0].note
    assert notes == {32: "", 3: "", 1: "one sample takes 16.8 MB, more than its memory budget of 5 B"}


def test_what_goes_wrong_at_a_client_or_a_lost_one_is_its_reply_without_sums(tiny_model, random_examples, federation):
    data = {k: random_examples(samples=10 + k, seed=k) for k in range(2)}
    local = LocalEngine(tiny_model(), federation([1, 2], blocks=3), data, SETTINGS)
    request = request_of(local)
    local.dropout = 1.0
    assert [(reply.sums, reply.note) for reply in local.block_scores(request)] == [(None, "nothing came back")] * 2
    local.dropout = 0.0
    broken = request.adapter.with_tensors(
        {next(n for n in request.adapter.tensors if "lora_A" in n): torch.full((2, 8), float("nan"))}
    )
    replies = list(local.block_scores(replace(request, adapter=broken)))
    assert all(reply.sums is None and "finite gradients" in reply.note for reply in replies)
