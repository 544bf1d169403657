import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedhello import algorithm
from fedhello.aggregation.robust import Defence, clipped, combine, defended, screened, update_norms
from fedhello.methods import METHODS
from fedhello.strategy import AggregationContext, AggregationResult
from fedhello.types import Adapter, Allocation, Budget, Client, Federation, Rejection, Update

A, B = "0.q.lora_A.weight", "0.q.lora_B.weight"
finite = st.floats(-1e3, 1e3, width=32)
MEDIAN, TRIMMED, KRUM = (Defence(rule=rule, byzantine=1) for rule in ("median", "trimmed-mean", "multi-krum"))


def one_number(values, defence=MEDIAN):
    """Combine one number per client; the stand-in for the mean says −1."""
    adapter = Adapter({"x": torch.zeros(1)}, {"x": 0})
    context = AggregationContext(adapter, Federation((), (), 1, 1, 0), 0, {})
    updates = [Update(k, 0, 1, {"x": torch.tensor([float(v)])}) for k, v in enumerate(values)]

    def mean(context, updates):
        return context.then({"x": torch.tensor([-1.0])})

    outcome = combine(context, updates, aggregate=mean, defence=defence)
    return float(outcome.adapter.tensors["x"]), outcome.flags


# the rules by hand


@pytest.mark.parametrize(
    ("defence", "values", "expected"),
    [
        (MEDIAN, [1, 100, 3], 3),
        (MEDIAN, [1, 100, 3, 5], 4),
        (TRIMMED, [1, 100, 3], 3),
        (TRIMMED, [1, 100, 3, 5, 7], 5),
        (replace(TRIMMED, byzantine=2), [1, 100, 3, 5, 7, 9, 0], 5),
        (replace(TRIMMED, byzantine=0), [1, 2, 6], 3),
        # scores of 0, 1, 2, 10, 50 over 2 neighbours: 5, 2, 5, 145, …: the two least odd are 1 and 0
        (KRUM, [0, 1, 2, 10, 50], 0.5),
    ],
)
def test_rules_by_hand(defence, values, expected):
    assert one_number(values, defence) == (pytest.approx(expected), ())


@pytest.mark.parametrize(("defence", "fewest"), [(MEDIAN, 3), (TRIMMED, 3), (KRUM, 5)])
def test_below_the_fewest_holders_the_mean_stands_and_is_flagged(defence, fewest):
    assert one_number(range(fewest), defence)[1] == ()
    for n in range(1, fewest):
        value, (flag,) = one_number(range(n), defence)
        assert value == -1
        assert flag == f"{defence.rule} with byzantine: 1 needs {fewest} holders; plain mean of block 0 ({n})"
    assert "mean of clipped updates of block 0 (1)" in one_number([1], replace(defence, clip=1.0))[1][0]


def test_only_the_block_with_few_holders_falls_back():
    adapter = Adapter(
        {"x": torch.zeros(1), "y": torch.zeros(1), "head": torch.zeros(1)}, {"x": 0, "y": 1, "head": None}
    )
    context = AggregationContext(adapter, Federation((), (), 2, 1, 0), 0, {})
    updates = [Update(k, 0, 1, {"x": torch.tensor([float(k)]), "head": torch.ones(1)}) for k in range(5)]
    updates[4] = replace(updates[4], tensors={**updates[4].tensors, "y": torch.ones(1)})
    mean = METHODS["full"].bind().aggregate
    outcome = combine(context, updates, aggregate=mean, defence=MEDIAN)
    assert [float(outcome.adapter.tensors[n]) for n in ("x", "y", "head")] == [2, 1, 1]
    assert outcome.flags == ("median with byzantine: 1 needs 3 holders; plain mean of block 1 (1)",)


def test_components_are_outvoted_by_those_who_hold_them():
    """Ranks 2, 2, 2 and 1: component 0 has four holders, component 1 three."""
    R = 2
    adapter = Adapter({A: torch.zeros(R, 3), B: torch.zeros(4, R)}, {A: 0, B: 0})
    ranks = [2, 2, 2, 1]
    context = AggregationContext(
        adapter, Federation((), (), 1, 1, 0, rank=R), 0, {k: Allocation((0,), ranks=(r,)) for k, r in enumerate(ranks)}
    )
    updates = [
        Update(k, 0, 1, {A: torch.full((r, 3), 1.0 + k), B: torch.full((4, r), 10.0 * k)}) for k, r in enumerate(ranks)
    ]
    found = combine(context, updates, aggregate=METHODS["rbla"].bind().aggregate, defence=MEDIAN)
    assert found.adapter.tensors[A].tolist() == [[2.5] * 3, [2.0] * 3]
    assert found.adapter.tensors[B].tolist() == [[15.0, 10.0]] * 4
    assert found.flags == ()
    few = combine(context, updates, aggregate=METHODS["rbla"].bind().aggregate, defence=replace(TRIMMED, byzantine=2))
    assert few.flags == ("trimmed-mean with byzantine: 2 needs 5 holders; plain mean of block 0 (3), block 0 (4)",)


def test_rows_of_the_head_are_outvoted_by_those_who_hold_the_class():
    """Clients 0 … 3 have class 0, clients 0 … 2 class 1, nobody class 2; a median over all would keep the row of 1."""
    budget = Budget(blocks=1)
    classes = [(0, 1), (0, 1), (0, 1), (0,)]
    clients = tuple(Client(k, 0, budget, 1, own) for k, own in enumerate(classes))
    adapter = Adapter({"head": torch.zeros(3, 2)}, {"head": None})
    world = Federation(clients, (budget,), 1, 4, 0, class_rows=("head",))
    updates = []
    for k, own in enumerate(classes):
        value = torch.zeros(3, 2)
        value[list(own)] = 1.0 + k
        updates.append(Update(k, 0, 1, {"head": value}))
    context = AggregationContext(adapter, world, 0, {})
    found = combine(context, updates, aggregate=METHODS["rgd-hla"].bind().aggregate, defence=MEDIAN)
    assert found.adapter.tensors["head"].tolist() == [[2.5] * 2, [2.0] * 2, [0.0] * 2]
    everybody = replace(context, federation=replace(world, class_rows=()))
    found = combine(everybody, updates, aggregate=METHODS["rgd-hla"].bind().aggregate, defence=MEDIAN)
    assert found.adapter.tensors["head"].tolist() == [[2.5] * 2, [1.5] * 2, [0.0] * 2]


# the screen


def moved(scale, factor_A=1.0, factor_B=1.0):
    draw = torch.Generator().manual_seed(0)
    return {
        A: factor_A * torch.randn(2, 3, generator=draw),
        B: scale * factor_B * torch.randn(4, 2, generator=draw),
    }


START = Adapter({A: torch.randn(2, 3, generator=torch.Generator().manual_seed(1)), B: torch.zeros(4, 2)}, {A: 0, B: 0})


def passing(*updates, times=5.0):
    replies = [Update(k, 0, 1, tensors) for k, tensors in enumerate(updates)]
    return [r.client for r in screened(replies, lambda _: START, 2.0, times) if isinstance(r, Update)]


def test_norms_are_those_of_the_products_without_ever_making_one():
    start = Adapter({A: torch.randn(2, 3), B: torch.randn(4, 2)}, {A: 0, B: 0})
    new = moved(1.0)
    norms = update_norms(new, start, 2.0)
    change = 2.0 * (new[B] @ new[A] - start.tensors[B] @ start.tensors[A])
    assert norms["the change of 0.q"] == pytest.approx(float(change.norm()), rel=1e-6)
    assert norms[f"‖{A}‖"] == pytest.approx(float(new[A].norm()))
    only_B = update_norms({B: new[B]}, start, 2.0)
    assert only_B["the change of 0.q"] == pytest.approx(
        float(2 * ((new[B] - start.tensors[B]) @ start.tensors[A]).norm())
    )


def test_a_product_never_takes_a_square_of_the_models_width():
    wide = {A: torch.randn(2, 50_000), B: torch.randn(50_000, 2)}  # the product would take 10 GB
    assert math.isfinite(update_norms(wide, Adapter(wide, {A: 0, B: 0}), 1.0)["the change of 0.q"])


def test_an_update_beyond_the_median_is_rejected_with_the_reason():
    assert passing(moved(1), moved(1.1), moved(100), moved(0.9)) == [0, 1, 3]
    replies = [Update(k, 7, 1, moved(s), bytes_down=5, bytes_up=6) for k, s in enumerate([1, 1, 100])]
    *_, last = screened(replies, lambda _: START, 2.0, 5.0)
    assert isinstance(last, Rejection)
    assert (last.client, last.round, last.reason, last.bytes_down, last.bytes_up) == (2, 7, "out of bounds", 5, 6)
    assert "expected the change of 0.q to be at most" in last.detail


def test_a_screen_lets_pass_what_it_cannot_judge():
    assert passing(moved(1), moved(100)) == [0, 1], "two holders cannot outvote each other"
    assert passing(moved(0), moved(0), moved(0), moved(1)) == [0, 1, 2, 3], "most have not moved"
    assert passing(moved(1), moved(1), moved(1e-12)) == [0, 1, 2], "little does no harm"


def test_rejections_pass_a_screen_and_a_clip_in_their_places():
    gone = Rejection(1, 0, "lost")
    replies = [Update(0, 0, 1, moved(1)), gone, Update(2, 0, 1, moved(1))]
    assert list(screened(replies, lambda _: START, 1.0, 2.0))[1] is gone
    assert list(clipped(replies, lambda _: START, 1.0))[1] is gone


# the clip


@given(st.lists(finite, min_size=3, max_size=3), st.floats(0.01, 10))
def test_a_clip_shortens_and_does_not_turn(change, most):
    start = Adapter({"x": torch.tensor([1.0, -2.0]), "y": torch.tensor([0.5])}, {"x": 0, "y": 1})
    change = torch.tensor(change)
    update = Update(
        0, 0, 1, {"x": start.tensors["x"] + change[:2], "y": start.tensors["y"] + change[2:]}, {"loss": 1.0}
    )
    (found,) = clipped([update], lambda _: start, most)
    after = torch.cat([found.tensors[n] - start.tensors[n] for n in ("x", "y")])
    sent = torch.cat([update.tensors[n] - start.tensors[n] for n in ("x", "y")])
    assert float(after.norm()) <= most * (1 + 1e-5) + 1e-6
    if float(sent.norm()) <= most:
        assert all(torch.equal(found.tensors[n], update.tensors[n]) for n in ("x", "y"))
    else:
        assert torch.allclose(after, sent * (most / sent.norm()), atol=1e-4)
    assert found.metrics == {"loss": 1.0, "update_norm": pytest.approx(float(sent.double().norm()), rel=1e-5)}


def test_a_clip_holds_one_update_at_a_time():
    def replies():
        for k in range(3):
            taken.append(k)
            yield Update(k, 0, 1, moved(k))

    taken = []
    stream = clipped(replies(), lambda _: START, 1.0)
    next(stream)
    assert taken == [0]


# in a round


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_screen_and_a_clip_work_with_every_method(name, federation):
    """Clients that move alike pass a screen, and a clip that is wide changes nothing."""
    world = replace(federation([1, 2, 3], blocks=3), rank=3)
    tiers = tuple(replace(budget, rank=budget.blocks) for budget in world.tiers)
    world = replace(world, tiers=tiers, clients=tuple(replace(k, budget=tiers[k.tier]) for k in world.clients))
    draw = torch.Generator().manual_seed(0)
    tensors = {f"{b}.q.lora_A.weight": torch.randn(3, 5, generator=draw) for b in range(3)}
    tensors |= {f"{b}.q.lora_B.weight": torch.zeros(4, 3) for b in range(3)} | {"head": torch.zeros(2)}
    adapter = Adapter(tensors, {n: None if n == "head" else int(n[0]) for n in tensors})

    def train(tasks):
        for task in tasks:
            values = {n: task.adapter.tensors[n] + 0.1 for n in task.adapter.names(task.allocation)}
            yield Update(task.client, task.round, 10, values, {"batches": 1.0})

    def play(method):
        state, records = algorithm.init(adapter), []
        for _ in range(3):
            state, record = algorithm.round(state, world, method, train, lambda *_: (1.0, 2.0, 3.0), lambda m, *_: m)
            records.append(record)
        return state, records

    plain, _ = play(METHODS[name].bind())
    guarded, records = play(defended(METHODS[name].bind(), Defence(screen=100.0, clip=100.0)))
    for before, after in ((plain.adapter.tensors, guarded.adapter.tensors), (plain.method_state, guarded.method_state)):
        assert all(torch.equal(before[n], after[n]) for n in before)
    assert not any(record.rejections for record in records)
    _, records = play(defended(METHODS[name].bind(), Defence(clip=0.01)))
    assert all(report.metrics["update_norm"] > 0.01 for report in records[0].clients)


@pytest.mark.parametrize("rule", ["median", "trimmed-mean", "multi-krum"])
def test_nobody_answers_and_nothing_changes(rule):
    adapter = Adapter({"x": torch.ones(1)}, {"x": 0})
    context = AggregationContext(adapter, Federation((), (), 1, 1, 0), 0, {})
    mean = METHODS["full"].bind().aggregate
    outcome = combine(context, [], aggregate=mean, defence=Defence(rule=rule))
    assert isinstance(outcome, AggregationResult)
    assert outcome.adapter.tensors["x"] is adapter.tensors["x"]
    assert outcome.flags == ()
