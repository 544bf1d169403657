import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
import torch

from fedhello import algorithm
from fedhello.aggregation.stacking import fresh_A, stack, stack_fits
from fedhello.factors import merged_factors
from fedhello.methods import METHODS
from fedhello.types import LORA_A, LORA_B, MERGED_A, MERGED_B, Adapter, Budget, Client, Federation, Update

Q, V = "layer.0.q", "layer.1.v"


@pytest.mark.parametrize("ranks", [(4, 4), (1, 2, 4), (2,)])
def test_the_stack_is_merged_and_the_factors_start_afresh(ranks, a_round):
    a = a_round(ranks)
    after = a.played(stack).adapter
    for module in (Q, V):
        assert not after.tensors[module + LORA_B].any()
        # With B = 0, what is merged is all there is.
        assert a.dense(after, module) == pytest.approx(0.5 * a.mean_product(module), rel=1e-5, abs=1e-5)
        (more,) = {after.block_of[n] for n in after.tensors.keys() - a.context.adapter.tensors.keys() if module in n}
        assert more == a.context.adapter.block_of[module + LORA_A]
    assert after.tensors["head.weight"].numpy() == pytest.approx(a.mean("head.weight"), rel=1e-6)


def test_a_second_stack_adds_to_the_first(a_round):
    a = a_round((1, 2))
    once = a.played(stack).adapter
    twice = replace(a, context=replace(a.context, adapter=once)).played(stack).adapter
    for module, (d_out, d_in) in ((Q, (5, 7)), (V, (8, 6))):
        assert a.dense(twice, module) == pytest.approx(2 * a.dense(once, module), rel=1e-5, abs=1e-5)
        sizes = [v.numel() for n, v in twice.tensors.items() if n.startswith(f"{module}.merged")]
        assert 0 < sum(sizes) <= d_out * d_in


@pytest.mark.parametrize(("ranks", "q", "v"), [((2,), 24, 28), ((1, 2), 35, 42), ((4,), 35, 48)])
def test_what_is_merged_is_kept_in_the_form_of_fewer_numbers(ranks, q, v, a_round):
    """(5, 7): factors of rank m hold 12 m numbers, the matrix 35; (8, 6): 14 m and 48."""
    after = a_round(ranks).played(stack).adapter
    sizes = [sum(x.numel() for n, x in after.tensors.items() if n.startswith(f"{module}.merged")) for module in (Q, V)]
    assert sizes == [q, v]


def test_fresh_factors_come_from_the_runs_seed(a_round):
    a = a_round((2, 2))

    def drawn(**changes):
        context = replace(a.context, round=changes.get("round", 2))
        context = replace(context, federation=replace(context.federation, seed=changes.get("seed", 3)))
        after = replace(a, context=context).played(stack).adapter
        return tuple(tuple(after.tensors[module + LORA_A].flatten().tolist()) for module in (Q, V))

    state = torch.random.get_rng_state()
    assert drawn() == drawn()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert len({drawn(), drawn(round=3), drawn(seed=4)}) == 3
    one, other = (torch.tensor(A[:5]) for A in drawn())
    assert not torch.allclose(one * 7**0.5, other * 6**0.5)  # not the same numbers within other bounds


def test_fresh_factors_are_as_peft_starts_them():
    found, pefts = fresh_A(torch.zeros(64, 49), seed=1), torch.empty(64, 49)
    torch.nn.init.kaiming_uniform_(pefts, a=math.sqrt(5))
    for A in (found, pefts):
        assert float(A.abs().max()) == pytest.approx(1 / 7, rel=0.01)
        assert float(A.std()) == pytest.approx(1 / 7 / math.sqrt(3), rel=0.05)


@pytest.mark.parametrize(
    ("ranks", "tier_of", "invited", "total"),
    [
        ((1, 1), (0, 1), 2, None),
        ((2, 2), (0, 1), 2, None),
        ((4, 1), (0, 1), 2, None),  # 4 + 1, since there is one client of rank 4 only
        ((4, 1), (0, 0, 1), 2, 8),
        ((4, 1), (0, 1, 1), 3, 6),
        ((1, 4), (1, 0), 2, None),  # by client, in whatever order
        ((None, 1), (0, 0, 1), 2, 8),  # a tier of bytes may reach the full rank
    ],
)
def test_a_stack_larger_than_the_smallest_module_is_refused(ranks, tier_of, invited, total, a_round):
    a = a_round((1,))
    tiers = tuple(Budget(rank=r) for r in ranks)
    clients = tuple(Client(k, g, tiers[g], 1) for k, g in enumerate(tier_of))
    world = replace(a.context.federation, tiers=tiers, clients=clients, clients_per_round=invited)
    found = stack_fits(world, a.context.adapter)
    if total is None:
        assert found is None
    else:
        assert f"the {invited} clients of highest rank to sum to at most 5, since" in found
        assert f"found {total}." in found


SHAPE = (24, 40)
"""Of the module W; factors of rank m hold 64 m numbers, the matrix 960."""


@dataclass
class Keepers:
    """Clients that keep what they have merged, and make the new from what travels; they train at random."""

    clients: tuple[Client, ...]
    lost: Sequence[int] = ()
    kept: dict[int, torch.Tensor] = field(default_factory=dict)
    sent: list[tuple[int, str, int]] = field(default_factory=list)

    def train(self, tasks):
        for task in tasks:
            whole = {n: v for n, v in task.adapter.tensors.items() if ".merged" in n}
            travels = {n: v for n, v in whole.items() if n not in task.known} | dict(task.missed)
            before = self.kept[task.client] if task.missed else torch.zeros(SHAPE)
            self.kept[task.client] = before + product_of(travels)
            kind = "missed" if task.missed else "nothing" if not whole else "matrix" if len(whole) == 1 else "factors"
            self.sent.append((task.client, kind, sum(v.numel() for v in travels.values())))
            Q, P = merged_factors(task.adapter, "W")
            assert torch.allclose(self.kept[task.client], Q @ P, atol=1e-5)
            if task.client in self.lost:
                continue
            rng = torch.Generator().manual_seed(100 * task.round + task.client)
            names = task.adapter.names(task.allocation)
            new = {n: torch.randn(task.adapter.tensors[n].shape, generator=rng) for n in names}
            yield Update(task.client, task.round, self.clients[task.client].samples, new)


def product_of(travels):
    """What travelled, as one matrix."""
    if "W" + MERGED_A in travels:
        return travels["W" + MERGED_B] @ travels["W" + MERGED_A]
    return sum(travels.values(), start=torch.zeros(SHAPE))


def played(rounds, lost=(), ranks=(1, 2, 3), clients=6, invited=2):
    """Rounds of FLoRA with clients that keep what they merged: the clients, and the state after."""
    tiers = tuple(Budget(rank=r) for r in ranks)
    everyone = tuple(Client(k, k % len(tiers), tiers[k % len(tiers)], 1 + k) for k in range(clients))
    world = Federation(everyone, tiers, 1, invited, seed=1, rank=max(ranks))
    start = {"W" + LORA_A: torch.ones(max(ranks), SHAPE[1]), "W" + LORA_B: torch.zeros(SHAPE[0], max(ranks))}
    state, keepers = algorithm.init(Adapter(start, dict.fromkeys(start, 0))), Keepers(everyone, lost)
    for _ in range(rounds):
        state, _ = algorithm.round(state, world, METHODS["flora"].bind(), keepers.train, None)
    return keepers, state


def test_what_a_client_kept_and_what_it_missed_is_everything():
    """Every task is checked in ``train``; all four forms of it occur, and none holds more numbers than the matrix."""
    keepers, _ = played(25)
    assert {kind for _, kind, _ in keepers.sent} == {"nothing", "factors", "matrix", "missed"}
    assert max(numbers for _, _, numbers in keepers.sent) == 24 * 40
    late = [numbers for _, kind, numbers in keepers.sent[20:] if kind == "missed"]
    assert late
    assert max(late) < 24 * 40


def test_a_client_whose_update_did_not_count_gets_everything():
    """Nobody knows what reached it."""
    keepers, state = played(25, lost=[0])
    assert {kind for k, kind, _ in keepers.sent if k == 0} <= {"nothing", "factors", "matrix"}
    assert {name for name in state.method_state if name.startswith("has/")} == {f"has/{k}" for k in range(1, 6)}


def test_no_stack_is_remembered_that_is_of_no_use():
    """All that are remembered together hold fewer numbers than the matrix, and the next older would make it more."""
    _, state = played(25)
    sizes = {}
    for name, value in state.method_state.items():
        if name.startswith("stack/"):
            t = int(name.split("/")[1])
            sizes[t] = sizes.get(t, 0) + value.numel()
    assert sorted(sizes) == list(range(min(sizes), 25))
    assert sum(sizes.values()) < 24 * 40
    assert min(sizes) > 0
    ranks = [size // 64 for size in sizes.values()]
    assert sum(ranks) + 6 > 24 * 40 // 64  # a round's two clients have rank 6 at most


def test_a_long_run_downloads_much_less_than_all_factors():
    """Of 20 clients 5 a round: the whole as factors of rank min(24, all so far) was what every client got."""
    keepers, _ = played(40, ranks=(1,), clients=20, invited=5)
    before = sum(64 * min(24, 5 * (i // 5)) for i in range(len(keepers.sent)))
    assert sum(numbers for _, _, numbers in keepers.sent) < 0.6 * before
