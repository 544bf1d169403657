"""Laws of a private round: sensitivity, a divisor that knows nobody, noise where nobody trained."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from fedhello.aggregation.mean import WeightedMean
from fedhello.client.scoring import BlockSums, as_shares
from fedhello.methods import METHODS
from fedhello.privacy import rounds
from fedhello.privacy.banded import summed_noise
from fedhello.privacy.rounds import (
    CLIP,
    INSIDE,
    PrivateRounds,
    add_clipped,
    anonymous_federation,
    clipped_update,
    noise_over_clip,
    planned_counts,
    private_method,
    released_scores,
)
from fedhello.privacy.secure import MASKED, Opened, SecureRound, SecureSettings, secure_mean
from fedhello.state import Release
from fedhello.strategy import AggregationContext, AllocationContext
from fedhello.types import Adapter, Budget, Client, Federation, Task, Update

L, R, D = 3, 2, 4
TIERS = (Budget(blocks=1), Budget(blocks=3))
CLIENTS = tuple(Client(k, k % 2, TIERS[k % 2], samples=10 + k) for k in range(4))
FEDERATION = Federation(CLIENTS, TIERS, L, clients_per_round=2, seed=0, rank=R, quorum=0)


def adapter():
    drawn = torch.Generator().manual_seed(0)
    shapes = {"lora_A": (R, D), "lora_B": (D, R)}
    tensors = {f"{l}.{end}.weight": torch.randn(shapes[end], generator=drawn) for l in range(L) for end in shapes}
    return Adapter(tensors | {"head": torch.ones(2)}, {name: int(name[0]) for name in tensors} | {"head": None})


START = adapter()


def settings(noise=1e-9, rate=0.5, **changes):
    return PrivateRounds(Release("rounds", noise, rate), rate, **{"clip": 1.0, "adapts": False, **changes})


def bound(how, name="gd-hla"):
    return private_method(METHODS[name].bind(pattern="inverted_triangle"), how)


def context_of(method, clients=(), method_state=None, federation=FEDERATION):
    state = method_state or {}
    found = {
        k: method.allocate(AllocationContext(federation.clients[k], federation, 0, method_state=state)) for k in clients
    }
    return AggregationContext(START, federation, 0, found, state)


def update(context, k, size=1.0, seed=0):
    """New values whose change has length ``size``."""
    drawn = torch.Generator().manual_seed(seed + k)
    moved = {n: torch.randn(START.tensors[n].shape, generator=drawn) for n in START.names(context.allocations[k])}
    length = math.sqrt(sum(float(value.square().sum()) for value in moved.values()))
    values = {name: START.tensors[name] + value * (size / length) for name, value in moved.items()}
    return Update(k, 0, 1, values)


def test_without_noise_a_round_adds_clipped_changes_over_the_planned_number_of_clients():
    method = bound(settings())
    context = context_of(method, (0, 1))
    updates = [update(context, 0, 5.0), update(context, 1, 0.5)]
    after = method.aggregate(context, updates).adapter.tensors
    # Tier 0 trains the last block alone, tier 1 all: K p is 4 in block 2 and 2 in blocks 0 and 1; q is a half.
    for l, planned in ((0, 2), (1, 2), (2, 4)):
        name = f"{l}.lora_B.weight"
        change = sum(
            (one.tensors[name] - START.tensors[name]) * (0.2 if one.client == 0 else 1.0)
            for one in updates
            if name in one.tensors
        )
        assert torch.allclose(after[name], START.tensors[name] + change / (0.5 * planned), atol=1e-5)
        assert after[f"{l}.lora_A.weight"] is START.tensors[f"{l}.lora_A.weight"]
    assert after["head"] is START.tensors["head"]


@pytest.mark.parametrize("size", [1e-3, 0.999, 1.0, 7.0, 1e9, math.nan, math.inf])
@pytest.mark.parametrize("adapts", [False, True])
def test_one_client_changes_the_sum_by_at_most_c_whatever_it_sends(size, adapts):
    how = settings(clip=0.3, adapts=adapts)
    context = context_of(bound(how), (1,))
    sums = WeightedMean()
    add_clipped(context, update(context, 1, size), sums, settings=how)
    length = math.sqrt(sum(float(value.square().sum()) for value in sums.sums.values()))
    assert length <= 0.3 * how.joint * (1 + 1e-12)
    assert (INSIDE in sums.sums) is adapts


def test_a_client_without_the_last_blocks_trains_the_last_one_that_its_model_has():
    plain = METHODS["gd-hla"].bind(pattern="triangle")
    lacks = replace(plain, allocate=lambda context: replace(plain.allocate(context), absent=(2,)))
    how = settings(last_blocks=1)
    for method, expected in ((plain, (2,)), (lacks, (1,))):
        found = private_method(method, how).allocate(AllocationContext(CLIENTS[0], FEDERATION, 0))
        assert (found.blocks, found.factors, found.head) == (expected, "B", False)


def test_with_a_band_the_noise_of_rounds_is_taken_back_in_part():
    """After twelve rounds in which nobody came, the model's noise is as long as ``summed_noise`` says."""
    ratios = {}
    for band in (1, 4):
        how, state, sizes = settings(noise=2.0, clip=0.5, band=band, adapts=True), {}, []
        method = bound(how)
        for _ in range(100):
            context, state = context_of(method), {}
            for _ in range(12):
                result = method.aggregate(replace(context, method_state=state), [])
                state = dict(result.method_state) | {CLIP: torch.tensor(0.5)}
                context = replace(context, adapter=result.adapter)
            sizes.append(context.adapter.tensors["2.lora_B.weight"] - START.tensors["2.lora_B.weight"])
        ratios[band] = float(torch.stack(sizes).std())
    assert ratios[1] == pytest.approx(2.0 * 0.5 * how.joint / 2 * math.sqrt(12), rel=0.2)
    assert ratios[4] / ratios[1] == pytest.approx(summed_noise(4, 12), rel=0.25)


def test_the_divisor_does_not_depend_on_who_came():
    method = bound(settings())
    counts = [planned_counts(context_of(method, who), method.allocate) for who in ((), (0,), (0, 1, 2, 3))]
    assert all(one.keys() == counts[0].keys() for one in counts)
    assert all(torch.equal(one[name], counts[0][name]) for one in counts for name in one)


def test_of_many_clients_alike_some_stand_for_all():
    clients = tuple(Client(k, k % 2, TIERS[k % 2], samples=10) for k in range(8000))
    many, asked = replace(FEDERATION, clients=clients), []
    random = private_method(METHODS["rgd-hla"].bind(pattern="uniform"), settings())
    for method, held in ((bound(settings()), (4000, 4000, 8000)), (random, (4000 + 4000 / 3,) * 3)):

        def allocate(context, method=method):
            asked.append(context.client.id)
            return method.allocate(context)

        counts = planned_counts(context_of(method, federation=many), allocate)
        found = [float(counts[f"{l}.lora_B.weight"].max()) for l in range(L)]
        assert found == pytest.approx(held, rel=0.05 if method is random else 0) and sum(found) == 16_000
    assert len(asked) == 4000 == 2 * len({*asked})  # the same of each tier, of its 4000, in either


def test_a_block_that_nobody_trained_is_distributed_like_noise_and_one_outside_the_plan_does_not_change():
    how = settings(noise=2.0, clip=0.5, last_blocks=2)
    method = bound(how)
    context = context_of(method, (0,))  # trains block 2 alone
    drawn = [method.aggregate(context, [update(context, 0)]).adapter.tensors for _ in range(200)]
    empty = torch.stack([one["1.lora_B.weight"] - START.tensors["1.lora_B.weight"] for one in drawn])
    assert kstest((empty / (2.0 * 0.5 / (0.5 * 2))).flatten().numpy(), "norm").pvalue > 1e-4
    assert all(one["0.lora_B.weight"] is START.tensors["0.lora_B.weight"] for one in drawn)
    nobody = method.aggregate(context_of(method), []).adapter.tensors  # an empty round is released all the same
    assert not torch.equal(nobody["2.lora_B.weight"], START.tensors["2.lora_B.weight"])


def test_the_clip_follows_the_median_of_the_lengths():
    method = bound(settings(adapts=True, rate=1.0, clip=10.0, noise=0.05))
    state, sizes = {}, (0.2, 0.8, 1.2, 5.0)
    for t in range(60):
        context = context_of(method, range(4), state)
        state = method.aggregate(context, [update(context, k, sizes[k], t) for k in range(4)]).method_state
    assert 0.8 * 0.8 < float(state[CLIP]) < 1.2 * 1.2
    task = method.send(START, context.allocations[0], AllocationContext(CLIENTS[0], FEDERATION, 1, method_state=state))
    assert task.clip == float(state[CLIP])


def test_a_client_sends_values_within_its_clip_and_no_number_besides():
    method = bound(settings())
    context = context_of(method, (1,))
    task = Task(1, 0, context.allocations[1], START, clip=0.25)
    trained = replace(update(context, 1, 3.0), samples=70, metrics={"loss": 0.3})
    sent = clipped_update(trained, task)
    moved = torch.cat([(value - START.tensors[name]).flatten() for name, value in sent.tensors.items()])
    assert float(moved.norm()) == pytest.approx(0.25, rel=1e-5)
    assert (sent.samples, sent.metrics) == (1, {})


@pytest.mark.parametrize("adapts", [False, True])
def test_masked_contributions_have_the_same_sum_and_neither_weights_nor_counts(monkeypatch, adapts):
    """The noise is left out on both sides, to compare what it is added to."""
    monkeypatch.setattr(rounds, "gaussian", lambda shape, deviation: torch.zeros(shape, dtype=torch.float64))
    federation = anonymous_federation(FEDERATION)
    method = bound(settings(adapts=adapts))
    state = {CLIP: torch.tensor(0.7)}
    context = context_of(method, range(4), state, federation)
    updates = [update(context, k, 0.3 + k) for k in range(4)]
    plain = method.aggregate(context, updates)
    agreed = SecureRound(method.aggregate, federation, START, SecureSettings())
    vectors = [agreed.vector(Task(u.client, 0, context.allocations[u.client], START, clip=0.7), u) for u in updates]
    sizes = sum(START.tensors[f"{l}.lora_B.weight"].numel() for l in range(L)) + adapts
    assert {len(vector) for vector in vectors} == {sizes}

    def unmask(found):
        return Opened(np.sum([vector for _, vector in found], axis=0, dtype="<u4"), np.zeros(0, dtype=int))

    masked = [
        replace(u, tensors={MASKED: torch.from_numpy(v.view("<i4"))}) for u, v in zip(updates, vectors, strict=True)
    ]
    secure = secure_mean(context, masked, agreed=agreed, unmask=unmask)
    error = agreed.encoding(context.allocations[0]).error * 2
    assert secure.train_loss is None and not secure.flags
    for name, value in plain.adapter.tensors.items():
        assert torch.allclose(secure.adapter.tensors[name], value, atol=error + 1e-6)
    after = float(secure.method_state[CLIP])
    assert after == pytest.approx(float(plain.method_state[CLIP]), rel=1e-4)
    assert adapts is (abs(after - 0.7) > 1e-3)


def test_noise_over_clip_is_what_a_round_without_clients_does():
    how = settings(noise=3.0, clip=0.5)
    method = bound(how)
    context = context_of(method)
    counts = planned_counts(context, method.allocate)
    sizes = {l: START.tensors[f"{l}.lora_B.weight"].numel() for l in range(L)}
    expected = noise_over_clip(3.0, 0.5, sizes, {int(name[0]): int(count.max()) for name, count in counts.items()})
    lengths = []
    for _ in range(100):
        after = method.aggregate(context, []).adapter.tensors
        lengths.append(math.sqrt(sum(float((after[n] - START.tensors[n]).square().sum()) for n in counts)) / 0.5)
    assert sum(length**2 for length in lengths) / 100 == pytest.approx(expected**2, rel=0.1)


def test_scores_are_mean_shares_with_noise_that_does_not_go_below_zero():
    """A client's shares have at most length 1, whatever its gradients; the divisor is q K, whoever came."""
    whole = [as_shares(BlockSums(torch.tensor(s), torch.tensor(70.0))) for s in ([1.0, 3.0], [0.0, 5e14])]
    assert [one.squares.tolist() for one in whole] == [[0.25, 0.75], [0.0, 1.0]]
    assert all(float(one.squares.norm()) <= 1 and float(one.count) == 1 for one in whole)
    for broken in ([0.0, 0.0], [math.nan, 1.0], [math.inf, 1.0]):
        assert as_shares(BlockSums(torch.tensor(broken), torch.tensor(2.0))).squares.tolist() == [0.0, 0.0]
    shares = [one.squares.double() for one in whole]
    assert released_scores(shares, Release("Fisher scores", 1e-9, 0.5), 2, 4) == pytest.approx((0.25 / 4, 1.75 / 4))
    noisy = [released_scores([], Release("Fisher scores", 3.0, 0.5), 2, 4) for _ in range(200)]
    assert min(min(one) for one in noisy) == 0 < max(max(one) for one in noisy)
