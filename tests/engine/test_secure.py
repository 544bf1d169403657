"""Secure aggregation on the local engine: the same round, of which the server sees masked vectors alone."""

from dataclasses import replace
from functools import partial
from math import prod

import numpy as np
import pytest
import torch

from fedhello import algorithm
from fedhello.client.scoring import ScoreRequest, mean_scores
from fedhello.client.settings import TrainingSettings
from fedhello.engine.local import LocalEngine
from fedhello.engine.secure import STEPS, SecureEngine
from fedhello.methods import METHODS
from fedhello.model.statistics import PARTS, Moments, add_up
from fedhello.privacy.masking import threshold
from fedhello.privacy.secure import MASKED, SecureRound, SecureSettings, secure_mean
from fedhello.types import Allocation, Budget, Client, Federation, Rejection, Update

SETTINGS = TrainingSettings(
    rounds=4, epochs=1, batch_size=4, optimizer="adamw", lr=1e-2, lr_schedule="constant", lr_decay=1.0,
    weight_decay=0.0, momentum=0.0, loss="restricted", autocast="none",
)  # fmt: skip

BLOCKS, RANKS = (1, 2, 3, 2, 3, 3), (1, 2, 2, 1, 2, 2)
MASKABLE = sorted(
    name for name, m in METHODS.items() if m.needs == "sum" and not (m.pooled or m.server_alone or name == "head-only")
)


ONE_FACTOR = {"ffa-lora", "hralora", "rolora"}
"""Under which A does not train in the first round."""


@pytest.fixture
def world(tiny_model, random_examples):
    """A local engine of six clients that hold different classes, and a method with its secure counterpart."""

    def build(name="rgd-hla", blocks=BLOCKS, **settings):
        method = METHODS[name].bind()
        model, ranks = tiny_model(blocks=3), METHODS[name].allocates == "ranks"
        tiers = tuple(Budget(rank=n) if ranks else Budget(blocks=n) for n in (RANKS if ranks else blocks))
        data = {k: random_examples(samples=10 + k, seed=k) for k in range(6)}
        classes = {k: tuple(sorted(set(one.labels.tolist()))) for k, one in data.items()}
        clients = tuple(Client(k, k, tiers[k], 10 + k, classes[k]) for k in range(6))
        rows = tuple(name for name in model.head_names)
        federation = Federation(clients, tiers, 3, 6, seed=5, rank=2, class_rows=rows)
        plain = LocalEngine(model, federation, data, SETTINGS)
        adapter = model.snapshot(share_head=True)
        agreed = SecureRound(method.aggregate, federation, adapter, SecureSettings(**settings))
        masked = SecureEngine(plain, agreed)
        secure = replace(method, aggregate=partial(secure_mean, agreed=agreed, unmask=masked.unmask))
        return plain, masked, method, secure, adapter

    return build


def play(adapter, engine, method, seen=None):
    def train(tasks):
        for reply in engine.train(tasks):
            if seen is not None:
                seen.append(reply)
            yield reply

    def distil(models, how, round):
        return models

    score = (lambda state, clients: (1.0, 2.0, 3.0)) if METHODS[method.name].uses_scores else None
    return algorithm.round(algorithm.init(adapter), engine_of(engine).federation, method, train, score, distil)


def engine_of(engine):
    return engine.inner if isinstance(engine, SecureEngine) else engine


@pytest.mark.parametrize("cohorts", [None, 3])
@pytest.mark.parametrize("name", MASKABLE)
def test_the_round_is_the_plain_one_within_the_bound(world, name, cohorts):
    plain, masked, method, secure, adapter = world(name, cohorts=cohorts)
    expected, _ = play(adapter, plain, method)
    found, record = play(adapter, masked, secure)
    assert record.failed is None and record.train_loss > 0
    encoding = masked.agreed.encoding(Allocation((0,), factors="B" if name in ONE_FACTOR else "AB"))
    bound = encoding.error / 10 + 1e-7  # at least one client, whose weight is 10 or more; float32
    if name in ("fedra", "fedra-mask"):
        bound = encoding.error + 1e-7
    for n, value in expected.adapter.tensors.items():
        assert torch.allclose(found.adapter.tensors[n], value, rtol=0, atol=3 * bound), n
    assert any(not torch.equal(value, adapter.tensors[n]) for n, value in found.adapter.tensors.items())


def test_the_server_sees_masked_vectors_of_one_length_alone(world):
    """Not its tensors, loss, samples or seconds; and what it sees of a client looks the same in all rounds."""
    _, masked, _, secure, adapter = world()
    seen, again = [], []
    play(adapter, masked, secure, seen)
    play(adapter, masked, secure, again)
    assert {update.tensors.keys() == {MASKED} for update in seen} == {True}
    assert all(not update.metrics for update in seen)
    assert len({update.tensors[MASKED].shape for update in seen}) == 1
    for one, other in zip(seen, again, strict=True):
        share = float((one.tensors[MASKED] == other.tensors[MASKED]).float().mean())
        assert share < 0.01
        bits = np.unpackbits(one.tensors[MASKED].numpy().view("u1"))
        assert abs(bits.mean() - 0.5) < 5 * 0.5 / len(bits) ** 0.5


@pytest.mark.parametrize("cohorts", [None, 3])
def test_a_third_may_leave_at_any_step(world, monkeypatch, cohorts):
    """The round is that of the clients whose vectors came, which includes those who leave after that."""
    plain, masked, method, secure, adapter = world(cohorts=cohorts)
    leaves = {0: "share", 3: "unmask"}
    monkeypatch.setattr(SecureEngine, "_leaves", lambda self, who, client: leaves.get(client))
    found, record = play(adapter, masked, secure)
    assert [rejection.client for rejection in record.rejections] == [0]
    assert [report.client for report in record.clients] == [1, 2, 3, 4, 5]

    def without_0(tasks):
        for reply in plain.train(tasks):
            yield Rejection(0, 0, "lost") if reply.client == 0 else reply

    expected, _ = algorithm.round(algorithm.init(adapter), plain.federation, method, without_0, None)
    for n, value in expected.adapter.tensors.items():
        assert torch.allclose(found.adapter.tensors[n], value, rtol=0, atol=1e-6), n


def test_below_the_threshold_the_attempt_fails_and_nothing_is_learnt(world, monkeypatch):
    _, masked, _, secure, adapter = world()
    for step in STEPS:
        gone = range(6 - threshold(6) + 1) if step != "advertise" else range(4)
        monkeypatch.setattr(
            SecureEngine, "_leaves", lambda self, who, k, gone=gone, step=step: step if k in gone else None
        )
        state, record = play(adapter, masked, secure)
        assert record.failed is not None and state.round == 0 and state.attempt == 1
        assert state.adapter is adapter


def test_a_client_that_fails_is_one_that_left(world, monkeypatch):
    _, masked, _, secure, adapter = world()
    train_one = LocalEngine._train_one

    def failing(self, task, client, names, start):
        if client.id == 4:
            raise RuntimeError("the disk is full")
        return train_one(self, task, client, names, start)

    monkeypatch.setattr(LocalEngine, "_train_one", failing)
    _, record = play(adapter, masked, secure)
    assert record.failed is None
    assert [(r.client, r.reason) for r in record.rejections] == [(4, "failed")]


def test_what_is_beyond_the_limit_is_cut_off_and_said(world):
    _, masked, _, secure, adapter = world(limit=1e-3)
    found, record = play(adapter, masked, secure)
    assert len(record.flags) == 1 and "were beyond privacy.limit = 0.001, and count as that much" in record.flags[0]
    changes = [(found.adapter.tensors[n] - value).abs().max() for n, value in adapter.tensors.items()]
    assert max(changes) < 1.01e-3 * 15 / 10


@pytest.mark.parametrize("group", [50, 3])
def test_head_statistics_are_those_of_the_plain_engine_bit_for_bit(world, group):
    plain, masked, *_ = world(group=group)
    expected = add_up([one.sums for one in plain.head_sums()], Moments())
    (found,) = masked.head_sums()
    assert found.clients == (0, 1, 2, 3, 4, 5)
    assert all(torch.equal(getattr(found.sums, part), getattr(expected, part)) for part in PARTS)


def test_fisher_scores_are_those_of_the_plain_engine(world):
    plain, masked, _, _, adapter = world()
    request = ScoreRequest(adapter, plain.federation.clients, 0, 0, samples=4)
    expected = mean_scores([reply.sums for reply in plain.block_scores(request)])
    (reply,) = masked.block_scores(request)
    assert reply.clients == (0, 1, 2, 3, 4, 5)
    found = mean_scores([reply.sums])
    assert found == pytest.approx(expected, abs=1e-9)


def test_bytes_are_those_of_a_whole_adapter_and_of_the_protocol(world):
    _, masked, _, secure, adapter = world()
    seen = []
    play(adapter, masked, secure, seen)
    size = 4 * sum(value.numel() for value in adapter.tensors.values())
    for update in seen:
        assert isinstance(update, Update)
        assert size < update.bytes_up < 1.1 * size + 2000


FEW = (1, 1, 3, 3, 1, 2)
"""Budgets under which only the last block, of a method that trains the uppermost, is trained by three or more."""


@pytest.mark.parametrize(("cohorts", "few"), [(None, [0]), (3, [0]), (4, [0, 1])])
def test_what_fewer_clients_trained_is_withheld_and_said(world, cohorts, few):
    """Two clients train block 0, three block 1; a sum of so few is not opened, and the rest is the plain one."""
    plain, masked, method, secure, adapter = world("full", blocks=FEW, cohorts=cohorts)
    at = {k: Allocation(tuple(range(3 - count, 3))) for k, count in enumerate(FEW)}
    method, secure = (replace(one, allocate=lambda context: at[context.client.id]) for one in (method, secure))
    expected, _ = play(adapter, plain, method)
    found, record = play(adapter, masked, secure)
    assert record.contributors == (2, 3, 6)
    for n, value in expected.adapter.tensors.items():
        value = adapter.tensors[n] if adapter.block_of[n] in few else value
        assert torch.allclose(found.adapter.tensors[n], value, rtol=0, atol=1e-6), n
    numbers = sum(value.numel() for n, value in adapter.tensors.items() if adapter.block_of[n] in few)
    weights = len([n for n in adapter.tensors if adapter.block_of[n] in few]) * 2  # one for each of R = 2 components
    blocks = ", ".join(f"block {block}" for block in few)
    assert record.flags == (
        f"{numbers + weights} numbers of {blocks} were trained by fewer than {cohorts or 3} clients of a sum, so they "
        "are withheld, and stay as they were",
    )


def test_with_cohorts_a_client_uploads_its_own_blocks_alone(world):
    _, masked, _, secure, adapter = world(cohorts=3)
    seen = []
    _, record = play(adapter, masked, secure, seen)
    encoding = masked.agreed.encoding(Allocation((0,)))
    for update, report in zip(seen, record.clients, strict=True):
        own = adapter.names(Allocation(report.blocks))
        assert update.tensors[MASKED].numel() == 3 + sum(
            prod(shapes[n]) for shapes in (encoding.shapes, encoding.weight_shapes) for n in own
        )


@pytest.mark.parametrize(("cohorts", "spoilt"), [(None, {0, 1, 2, None}), (3, {2, None})])
def test_a_client_that_sends_garbage_spoils_the_parts_that_it_sends_alone(world, cohorts, spoilt):
    """Client 0 trains the last block and the head; with cohorts the other blocks are as if it had sent the truth."""
    plain, masked, method, secure, adapter = world("full", blocks=FEW, cohorts=cohorts)
    at = {k: Allocation((2,) if k == 0 else (0, 1, 2)) for k in range(6)}
    method, secure = (replace(one, allocate=lambda context: at[context.client.id]) for one in (method, secure))

    def train(tasks):
        for update in masked.train(tasks):
            vector = update.tensors[MASKED]
            garbage = torch.full_like(vector, 123_456_789)
            yield replace(update, tensors={MASKED: garbage}) if update.client == 0 else update

    expected, _ = play(adapter, plain, method)
    result, _ = algorithm.round(algorithm.init(adapter), plain.federation, secure, train, None)
    right = {
        block
        for block in (0, 1, 2, None)
        if all(
            torch.allclose(result.adapter.tensors[n], value, rtol=0, atol=1e-6)
            for n, value in expected.adapter.tensors.items()
            if adapter.block_of[n] == block
        )
    }
    assert right == {0, 1, 2, None} - spoilt
