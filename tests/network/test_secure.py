"""Secure sums over a network of workers in one process: the same sums, and messages that tell nothing of one client."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from fedhello import algorithm
from fedhello.client.scoring import ScoreRequest, mean_scores
from fedhello.engine.local import LocalEngine
from fedhello.engine.observer import Observer
from fedhello.engine.wire import encode_task
from fedhello.errors import PrivacyError
from fedhello.methods import METHODS
from fedhello.model.statistics import PARTS, Moments, add_up, like
from fedhello.network.keys import make_client_key
from fedhello.network.masks import Masks
from fedhello.network.secure import SecureRemoteEngine
from fedhello.network.vouching import read_vouching
from fedhello.network.worker import Prepared
from fedhello.privacy.secure import SecureRound, SecureSettings, secure_mean
from fedhello.strategy import AllocationContext
from fedhello.types import Allocation, Budget, Client, Federation, Task, Update
from network import SETTINGS, Network, remote_engine, remote_facts, remote_tasks


@pytest.fixture
def world(tiny_model, random_examples):
    """Six clients over a network, the engine that masks, the method over it, and the plain local engine."""

    def build(name="rgd-hla", cohorts=None, **more):
        method, ranks = METHODS[name].bind(), METHODS[name].allocates == "ranks"
        tiers = tuple(Budget(rank=1 + k % 2) if ranks else Budget(blocks=1 + k % 3) for k in range(6))
        clients = tuple(Client(k, k, tiers[k], 10 + k, (0, 1, 2)) for k in range(6))
        there = Federation(clients, tiers, 3, 6, seed=5, rank=2)
        data = {k: random_examples(samples=10 + k, seed=k) for k in range(6)}
        facts, prepared = [remote_facts(k, 10 + k) for k in range(6)], {}
        for k in range(6):
            model = tiny_model(blocks=3)
            own = SecureRound(
                method.aggregate, replace(there, clients=(clients[k],)), model.snapshot(True), SecureSettings()
            )
            initial = model.read(model.block_of)
            prepared[k] = Prepared(model, data[k], SETTINGS, facts[k], 5, initial, secure=own)
        network, settings = Network(), SecureSettings(cohorts=cohorts)
        plain = remote_engine(network, there, facts, SETTINGS, prepared, sums_like=like(3, 8, Moments()), **more)
        local = LocalEngine(tiny_model(blocks=3), there, data, SETTINGS, run="this-run")
        adapter = local.model.snapshot(share_head=True)
        agreed = SecureRound(method.aggregate, there, adapter, settings)
        engine = SecureRemoteEngine.over(plain, agreed)
        masked = replace(method, aggregate=partial(secure_mean, agreed=agreed, unmask=engine.unmask))
        return network, engine, masked, local, method, adapter

    return build


def play(adapter, engine, method):
    def distil(models, how, round):
        return models

    score = (lambda state, clients: (1.0, 2.0, 3.0)) if METHODS[method.name].uses_scores else None
    federation = engine.federation
    return algorithm.round(algorithm.init(adapter), federation, method, engine.train, score, distil)


@pytest.mark.parametrize("cohorts", [None, 3])
@pytest.mark.parametrize("name", ["rgd-hla", "rbla", "helora-pad", "helora-kd", "ffa-lora", "fed-plora", "hralora"])
def test_the_round_is_that_of_the_plain_local_engine(world, name, cohorts):
    _, engine, masked, local, method, adapter = world(name, cohorts)
    found, record = play(adapter, engine, masked)
    expected, _ = play(adapter, local, method)
    assert record.failed is None and [one.client for one in record.clients] == list(range(6))
    for n, value in expected.adapter.tensors.items():
        assert torch.allclose(found.adapter.tensors[n], value, rtol=0, atol=1e-5), n
    assert any(not torch.equal(value, adapter.tensors[n]) for n, value in found.adapter.tensors.items())


@pytest.mark.parametrize("cohorts", [None, 3])
@pytest.mark.parametrize("kind", ["keys", "shares", "train", "unmask"])
@pytest.mark.parametrize("fault", ["silent", "down", "error"])
def test_a_third_may_be_lost_at_any_message(world, kind, fault, cohorts):
    """Two of six; the round is that of the others, and of those, too, who are lost after their vector came.

    What fewer than three of them trained stays as it was.
    """
    network, engine, masked, local, method, adapter = world(cohorts=cohorts)
    broken = (lambda reply: {"error": "failed", "detail": "the disk is full"}) if fault == "error" else fault
    for k in (1, 4):
        network.faults[f"client-{k}", kind] = [broken]
    found, record = play(adapter, engine, masked)
    assert record.failed is None
    left = [0, 2, 3, 5] if kind != "unmask" else list(range(6))
    assert [one.client for one in record.clients] == left

    def those(tasks):
        return (reply for reply in local.train(tasks) if reply.client in left)

    expected, plain = algorithm.round(algorithm.init(adapter), local.federation, method, those, None)
    few = [block for block, count in enumerate(plain.contributors) if 0 < count < 3]
    assert bool(few) == bool(record.flags) == (kind != "unmask")
    for n, value in expected.adapter.tensors.items():
        value = adapter.tensors[n] if adapter.block_of[n] in few else value
        assert torch.allclose(found.adapter.tensors[n], value, rtol=0, atol=1e-5), n


@pytest.mark.parametrize("poisson", [False, True])
def test_under_poisson_sampling_all_who_are_asked_count_however_many_they_are(world, poisson):
    """Else who answers first would decide whose contribution is in the sum."""
    _, engine, _, _, method, adapter = world()
    engine.federation = replace(engine.federation, clients_per_round=4, poisson=poisson)
    contexts = [AllocationContext(client, engine.federation, 0) for client in engine.federation.clients]
    tasks = [method.send(adapter, method.allocate(context), context) for context in contexts]
    told = []
    engine.observer = type("Ears", (Observer,), {"on_client": lambda self, *what: told.append(what)})()
    counted = [reply.client for reply in engine.train(tasks) if isinstance(reply, Update)]
    assert sorted(k for k, phase in told if phase == "sent") == counted
    assert len(counted) == (6 if poisson else 4)


@pytest.mark.parametrize("kind", ["keys", "shares", "train", "unmask"])
def test_where_more_are_lost_the_attempt_fails_and_the_next_one_succeeds(world, kind):
    network, engine, masked, _, _, adapter = world()
    for k in (0, 1, 4):
        network.faults[f"client-{k}", kind] = ["silent"]
    state, record = play(adapter, engine, masked)
    assert record.failed is not None and state.adapter is adapter
    state, record = algorithm.round(state, engine.federation, masked, engine.train, None)
    assert record.failed is None and state.round == 1


def test_no_message_tells_of_one_client(world):
    """The replies of a round are keys, encrypted shares, vectors that look random, and shares; no loss or count."""
    network, engine, masked, *_, adapter = world()
    replies = []
    for k in range(6):
        for kind in ("keys", "shares", "train", "unmask"):
            network.faults[f"client-{k}", kind] = [lambda reply, kind=kind: replies.append((kind, reply)) or reply]
    play(adapter, engine, masked)
    assert {(kind, *sorted(reply)) for kind, reply in replies} == {
        ("keys", "keys"), ("shares", "commitments", "shares"), ("train", "masked"), ("unmask", "shares"),
    }  # fmt: skip
    vectors = [np.frombuffer(reply["masked"], "u1") for kind, reply in replies if kind == "train"]
    assert len(vectors) == 6 and len({len(vector) for vector in vectors}) == 1
    for vector in vectors:
        assert abs(np.unpackbits(vector).mean() - 0.5) < 5 * 0.5 / (8 * len(vector)) ** 0.5


def test_a_client_of_a_secure_run_masks_whatever_it_is_asked_for(world):
    """A server that leaves the exchange out gets no update, no statistics and no scores."""
    network, _, _, local, *_ = world()
    for kind, fields in requests_without_an_exchange(local).items():
        reply = network.workers["client-0"].answer(kind, fields)
        assert reply.keys() == {"error"}


def changed(network, engine, change):
    """What client 0 answers, as errors by kind, in a round whose messages to it are changed on the way."""
    plain, found = network.workers["client-0"].answer, []

    def answer(kind, fields):
        reply = plain(kind, fields | change(kind, fields))
        found.append((kind, reply))
        return reply

    network.workers["client-0"].answer = answer
    list(engine.train(remote_tasks_of(engine)))
    return {kind: reply.get("error") for kind, reply in found}


def remote_tasks_of(engine):
    adapter = engine.agreed.adapter
    return [Task(k, 0, Allocation((0, 1)), adapter) for k in range(6)]


def test_a_client_refuses_what_its_owner_does_not_allow_and_what_others_are_not_told(world):
    """A plan with fewer clients than the consent asks; a task that is not the plan's; a plan for it alone."""
    network, engine, *_ = world()
    network.workers["client-0"]._masks = Masks(engine.agreed, least=5)
    assert changed(network, engine, lambda kind, fields: {}) == {"keys": None, "shares": "not allowed"}

    network, engine, *_ = world()
    other = encode_task(Task(0, 0, Allocation((0,)), engine.agreed.adapter))
    found = changed(network, engine, lambda kind, fields: {"task": other} if kind == "train" else {})
    assert found == {"keys": None, "shares": None, "train": "not allowed"}

    network, engine, *_ = world()
    found = changed(network, engine, lambda kind, fields: {"plan": fields["plan"] + " "} if kind == "shares" else {})
    assert found == {"keys": None, "shares": None, "train": "not allowed"}


def test_a_server_that_invents_a_client_gets_nothing_of_those_who_trust_the_others_alone(world, tmp_path):
    """Six real clients sum; where a seventh's key stands for one of them, all who look refuse."""
    files = [make_client_key(f"client-{k}", tmp_path) for k in range(7)]
    trusted = tmp_path / "trusted"
    trusted.write_text("".join(public.read_text() for _, public in files[:6]))
    network, engine, masked, *_, adapter = world()

    def enrol(keys):
        for k in range(6):
            vouching = read_vouching(str(files[keys[k]][0]), trusted)
            network.workers[f"client-{k}"]._masks = Masks(engine.agreed, vouching=vouching)

    enrol([0, 1, 2, 3, 4, 5])
    _, record = play(adapter, engine, masked)
    assert record.failed is None and len(record.clients) == 6
    enrol([0, 1, 2, 6, 4, 5])
    said = []
    engine.note = said.append
    _, record = play(adapter, engine, masked)
    assert "expected 4 clients to stay in a secure sum; found 0" in record.failed
    assert len(said) == 6 and all("its owner does not allow" in line for line in said)


def requests_without_an_exchange(local):
    task = encode_task(remote_tasks(local)[0])
    work = {"client": 0, "task": task, "seconds": 60.0, "run": "this-run"}
    return {
        "train": work,
        "sums": {"client": 0, "run": "this-run"},
        "scores": work | {"samples": 4, "batch_size": 4},
    }


def test_head_statistics_are_those_of_the_local_engine_bit_for_bit(world):
    network, engine, _, local, *_ = world()
    network.faults["client-3", "sums"] = ["silent"]
    (found,) = engine.head_sums()
    assert found.clients == (0, 1, 2, 4, 5)
    expected = add_up([one.sums for one in local.head_sums([0, 1, 2, 4, 5])], Moments())
    assert all(torch.equal(getattr(found.sums, part), getattr(expected, part)) for part in PARTS)
    for k in range(4):
        network.faults[f"client-{k}", "sums"] = ["silent"]
    with pytest.raises(PrivacyError, match="expected 4 clients to stay in a secure sum; found 2"):
        list(engine.head_sums())


def test_fisher_scores_are_those_of_the_local_engine(world):
    _, engine, _, local, _, adapter = world()
    request = ScoreRequest(adapter, local.federation.clients, 0, 0, samples=4)
    expected = mean_scores([reply.sums for reply in local.block_scores(request)])
    (reply,) = engine.block_scores(request)
    assert reply.clients == (0, 1, 2, 3, 4, 5)
    found = mean_scores([reply.sums])
    assert found == pytest.approx(expected, abs=1e-9)
