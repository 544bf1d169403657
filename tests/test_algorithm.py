import inspect
from dataclasses import replace

import pytest
import torch

from fedhello import algorithm
from fedhello.methods import METHODS
from fedhello.types import Adapter, Budget, Update


def number_adapter(blocks: int) -> Adapter:
    """One number per block, named like real tensors, and a head."""
    tensors = {f"layer.{b}.lora_A": torch.zeros(1) for b in range(blocks)} | {"head": torch.zeros(1)}
    return Adapter(tensors, {**{f"layer.{b}.lora_A": b for b in range(blocks)}, "head": None})


def trainer(federation, log=None):
    """Training that adds the client's id plus one to whatever is allocated."""
    samples = {client.id: client.samples for client in federation.clients}

    def train(tasks):
        for task in tasks:
            k, t, adapter = task.client, task.round, task.adapter
            if log is not None:
                log.append((t, k, task.allocation))
            names = adapter.names(task.allocation)
            yield Update(k, t, samples[k], {n: adapter.tensors[n] + k + 1 for n in names}, {"loss": 0.0, "batches": 1})

    return train


def test_algorithm_1_fits_on_a_page_and_imports_only_the_core():
    source = inspect.getsource(algorithm)
    assert source.count("\n") <= 150
    imported = {line.split()[1] for line in source.splitlines() if line.startswith("from fedhello")}
    assert imported == {
        "fedhello.allocation.needs",
        "fedhello.randomness",
        "fedhello.state",
        "fedhello.strategy",
        "fedhello.types",
    }
    assert "torch" not in [line.split()[1] for line in source.splitlines() if line.startswith(("import", "from"))]


def test_a_round_leaves_the_state_before_it_alone(federation):
    world = federation([1, 3], blocks=3)
    before = algorithm.init(number_adapter(3))
    after, _ = algorithm.round(before, world, METHODS["gd-hla"].bind(), trainer(world), None)
    assert before.round == 0
    assert all(float(value) == 0 for value in before.adapter.tensors.values())
    assert after.round == 1


def test_blocks_that_nobody_trained_keep_their_bits(federation):
    world = federation([1, 2], blocks=4)
    before = algorithm.init(number_adapter(4))
    method = METHODS["gd-hla"].bind(pattern="triangle")
    after, record = algorithm.round(before, world, method, trainer(world), None)
    assert record.contributors == (2, 1, 0, 0)
    for block in (2, 3):
        assert after.adapter.tensors[f"layer.{block}.lora_A"] is before.adapter.tensors[f"layer.{block}.lora_A"]
    # block 1: client 1 alone; head: (10·1 + 11·2)/21
    assert float(after.adapter.tensors["layer.1.lora_A"]) == 2.0
    assert float(after.adapter.tensors["head"]) == pytest.approx(32 / 21)


def test_scores_are_computed_when_due_and_persist_until_the_next(federation):
    world = federation([1, 2], blocks=3)
    method = METHODS["fed-hello"].bind(warmup=2, refresh=3)
    calls = []

    def score(state, clients):
        assert [client.id for client in clients] == [0, 1]
        calls.append(float(state.adapter.tensors["head"]))
        return (1.0, 2.0, float(len(calls)))

    state, used = algorithm.init(number_adapter(3)), []
    for _ in range(7):
        state, record = algorithm.round(state, world, method, trainer(world), score)
        used.append((record.scored, record.scores))
    first, second = (1.0, 2.0, 1.0), (1.0, 2.0, 2.0)
    assert used == [
        (False, None), (False, None), (True, first), (False, first), (False, first), (True, second), (False, second),
    ]  # fmt: skip
    assert len(set(calls)) == 2


def test_a_method_that_needs_scores_says_so(federation):
    world = federation([1], blocks=3)
    with pytest.raises(ValueError, match="expected a score function"):
        algorithm.round(algorithm.init(number_adapter(3)), world, METHODS["fim-hla"].bind(), trainer(world), None)


def test_sampling_is_without_replacement_sorted_and_fair(federation):
    world = federation([1] * 10, blocks=3, clients_per_round=4)
    counts = [0] * 10
    for t in range(1000):
        ids = [client.id for client in algorithm.sample_clients(world, t)]
        assert ids == sorted(set(ids))
        assert len(ids) == 4
        for k in ids:
            counts[k] += 1
    assert max(counts) - min(counts) < 80  # 400 ± 5 standard deviations of 15.5


def factor_adapter(blocks: int, R: int = 6) -> Adapter:
    """One targeted module per block, with factors of rank R, and a head."""
    generator = torch.Generator().manual_seed(0)
    tensors = {f"layer.{b}.q.lora_A.weight": torch.randn(R, 5, generator=generator) for b in range(blocks)}
    tensors |= {f"layer.{b}.q.lora_B.weight": torch.zeros(7, R) for b in range(blocks)}
    tensors["head"] = torch.zeros(1)
    return Adapter(tensors, {n: None if n == "head" else int(n.split(".")[1]) for n in tensors})


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_repeats_bit_for_bit_and_differs_by_seed(name, federation):
    def play(seed):
        world = federation([1, 2, 3, 4, 5, 6], blocks=6, clients_per_round=3, seed=seed)
        tiers = tuple(Budget(blocks=c, rank=c) for c in range(1, 7))
        clients = tuple(replace(k, budget=tiers[k.tier]) for k in world.clients)
        world = replace(world, tiers=tiers, clients=clients, rank=6)
        state, seen = algorithm.init(factor_adapter(6)), []
        for _ in range(15):
            state, record = algorithm.round(
                state,
                world,
                METHODS[name].bind(),
                trainer(world),
                lambda *_: (1.0, 2.0, 3.0, 4.0, 5.0, 6.0),
                lambda models, how, t: models,
            )
            seen.append(record)
        return {n: v.tolist() for n, v in (state.adapter.tensors | state.method_state).items()}, seen

    assert play(0) == play(0)
    if METHODS[name].server_alone:
        assert play(0) == play(1), "nobody is drawn for anything"
        assert not any(record.clients for record in play(0)[1])
    else:
        assert play(0) != play(1)


def test_a_run_can_stop_and_go_on(federation):
    world = federation([1, 2, 3, 4], blocks=4, clients_per_round=2)
    method = METHODS["rgd-hla"].bind()

    def play(state, rounds):
        for _ in range(rounds):
            state, _ = algorithm.round(state, world, method, trainer(world), None)
        return state

    whole = play(algorithm.init(number_adapter(4)), 6)
    half = play(algorithm.init(number_adapter(4)), 3)
    kept = algorithm.RunState(half.round, half.adapter, half.scores)
    assert {n: float(v) for n, v in play(kept, 3).adapter.tensors.items()} == {
        n: float(v) for n, v in whole.adapter.tensors.items()
    }


def test_clients_that_take_turns_are_in_one_of_so_many_rounds(federation):
    world = replace(federation([1] * 8, blocks=1), clients_per_round=2, cycle=3)
    rounds = [{client.id for client in algorithm.sample_clients(world, t)} for t in range(9)]
    assert all(len(one) == 2 for one in rounds)
    for t in range(7):
        assert len(set.union(*rounds[t : t + 3])) == 6
    again = {client.id for client in algorithm.sample_clients(world, 4, attempt=1)}
    assert not again & (rounds[3] | rounds[5])
    everyone = set().union(
        *({k.id for k in algorithm.sample_clients(world, t, a)} for t in range(3) for a in range(20))
    )
    assert everyone == set(range(8))


def test_poisson_sampling_takes_each_client_by_itself_and_rounds_may_be_empty(federation):
    """Sizes are binomial, clients independent; an empty round is committed and changes nothing."""
    everyone = replace(federation([1] * 8, blocks=1), clients_per_round=2, poisson=True)
    drawn = [{client.id for client in algorithm.sample_clients(everyone, t)} for t in range(2000)]
    sizes = [len(one) for one in drawn]
    assert sum(sizes) / 2000 == pytest.approx(2, abs=0.15)
    assert sum(size == 0 for size in sizes) / 2000 == pytest.approx(0.75**8, abs=0.03)
    assert sum({0, 1} <= one for one in drawn) / 2000 == pytest.approx(1 / 16, abs=0.02)
    empty = sizes.index(0)
    state = replace(algorithm.init(number_adapter(1)), round=empty)
    for name, method in METHODS.items():
        if method.needs != "sum" or method.uses_scores or method.distils:
            continue
        after, report = algorithm.round(state, everyone, method.bind(), trainer(everyone), None)
        assert (after.round, report.failed, report.clients) == (empty + 1, None, ()), name
        assert after.adapter.tensors == state.adapter.tensors
