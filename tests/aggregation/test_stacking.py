import math
from dataclasses import replace

import pytest
import torch

from fedhello.aggregation.stacking import fresh_A, stack, stack_fits
from fedhello.types import LORA_A, LORA_B, Budget, Client

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
