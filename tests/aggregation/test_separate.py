from dataclasses import replace

import pytest
import torch

from fedhello.aggregation.separate import (
    distil_between_ranks,
    keep_own_models,
    models_by_client,
    models_by_rank,
    remembered,
    send_model_of_rank,
    send_own_model,
)
from fedhello.state import RunState
from fedhello.strategy import AllocationContext
from fedhello.types import LORA_A, LORA_B, Adapter, Allocation, Update

Q, V = "layer.0.q", "layer.1.v"


class Teacher:
    """Stands in for distillation: notes what it is asked and adds 1 to everything."""

    def __init__(self):
        self.calls = []

    def __call__(self, models, how, t):
        self.calls.append((models, how, t))
        return [Adapter({n: v + 1 for n, v in m.tensors.items()}, m.block_of) for m in models]


def test_each_rank_has_a_model_which_learns_from_the_others(a_round):
    a, distil = a_round((2, 4, 2)), Teacher()
    a = replace(a, context=replace(a.context, distil=distil))
    outcome = a.played(distil_between_ranks, teachers="all", temperature=2.0, distil_epochs=3, distil_lr=0.1)
    ((models, how, t),) = distil.calls
    assert (how.teachers, how.temperature, how.epochs, how.lr, how.batch_size, t) == ("all", 2.0, 3, 0.1, 32, 2)
    assert [m.rank for m in models] == [2, 4]
    low = [a.updates[0], a.updates[2]]
    for name, value in models[0].tensors.items():
        expected = sum(u.samples * u.tensors[name].double() for u in low) / sum(u.samples for u in low)
        assert torch.allclose(value.double(), expected, rtol=1e-6)
        assert torch.equal(outcome.method_state[f"rank/2/{name}"], value + 1)
    for name, value in a.updates[1].tensors.items():
        assert torch.equal(models[1].tensors[name], value)
        assert torch.equal(outcome.adapter.tensors[name], value + 1)  # the highest rank's model is the global one
    found = models_by_rank(RunState(3, outcome.adapter, method_state=outcome.method_state), a.context.federation)
    assert {name: m.rank for name, m in found.items()} == {"rank 2": 2, "rank 4": 4}
    assert torch.equal(found["rank 2"].tensors[Q + LORA_A], models[0].tensors[Q + LORA_A] + 1)


def test_a_rank_that_is_not_there_in_a_round_goes_on_learning(a_round):
    a, distil = a_round((2, 4)), Teacher()
    context = replace(a.context, distil=distil)
    method_state = replace(a, context=context).played(distil_between_ranks).method_state
    later = replace(context, method_state=method_state, allocations={0: context.allocations[0]})
    outcome = replace(a, context=later).played(distil_between_ranks, a.updates[:1])
    models = distil.calls[1][0]
    assert torch.equal(models[0].tensors[Q + LORA_A], a.updates[0].tensors[Q + LORA_A])
    assert torch.equal(models[1].tensors[Q + LORA_A], method_state[f"rank/4/{Q + LORA_A}"])
    assert torch.equal(outcome.method_state[f"rank/4/{Q + LORA_A}"], method_state[f"rank/4/{Q + LORA_A}"] + 1)


def test_one_model_alone_has_nobody_to_learn_from(a_round):
    a, distil = a_round((4, 4)), Teacher()
    outcome = replace(a, context=replace(a.context, distil=distil)).played(distil_between_ranks)
    assert distil.calls == []
    assert outcome.adapter.tensors[Q + LORA_A].numpy() == pytest.approx(a.mean(Q + LORA_A), rel=1e-6)


def test_distillation_needs_a_public_set(a_round):
    with pytest.raises(ValueError, match="public set"):
        a_round((2,)).played(distil_between_ranks)


def test_nobody_distils_where_nobody_can_train(a_round):
    """As in round 0, when the budgets of all who were drawn do not afford a rank."""
    a = a_round((2,))
    context = replace(a.context, distil=Teacher(), allocations={})
    assert replace(a, context=context).played(distil_between_ranks, []).adapter == context.adapter


def test_a_rank_that_comes_later_finds_components_that_can_learn(a_round):
    """Before the first client of rank 4 comes, the global model is that of rank 2; the rest of A must stay random."""
    a = a_round((2,), tiers=(4,), fresh=True)
    outcome = replace(a, context=replace(a.context, distil=Teacher())).played(distil_between_ranks)
    world = a.context.federation
    at = AllocationContext(world.clients[1], world, 3, method_state=outcome.method_state)
    task = send_model_of_rank(outcome.adapter, Allocation((0, 1), ranks=(4, 4)), at)
    A, B = a.factors(task.adapter, Q)
    assert (A[2:].any(axis=1) | B[:, 2:].any(axis=0)).all()


def test_a_client_starts_from_the_model_of_its_rank_or_else_from_the_global_ones_part(a_round):
    a = a_round((1, 2))
    world = a.context.federation
    method_state = {f"rank/10/{Q + LORA_A}": torch.ones(10, 7), f"rank/1/{Q + LORA_A}": torch.full((1, 7), 5.0)}
    assert remembered(method_state, "rank/1", (Q + LORA_A, Q + LORA_B)).keys() == {Q + LORA_A}  # 10 begins with 1, too

    def sent(k):
        at = AllocationContext(world.clients[k], world, 4, method_state=method_state)
        return send_model_of_rank(a.context.adapter, a.context.allocations[k], at)

    assert (sent(0).client, sent(0).round) == (0, 4)
    assert sent(0).adapter.tensors[Q + LORA_A].tolist() == [[5.0] * 7]
    for k, r in ((0, 1), (1, 2)):
        assert torch.equal(sent(k).adapter.tensors[V + LORA_B], a.context.adapter.tensors[V + LORA_B][:, :r])
    assert torch.equal(sent(1).adapter.tensors[Q + LORA_A], a.context.adapter.tensors[Q + LORA_A][:2])


def test_local_models_stay_with_their_clients(a_round):
    a = a_round((4, 4))
    first = Update(0, 2, 3, {n: v for n, v in a.updates[0].tensors.items() if n.startswith(Q)})
    outcome = a.played(keep_own_models, [first])
    assert outcome.adapter.tensors == a.context.adapter.tensors
    world = a.context.federation
    models = models_by_client(RunState(3, outcome.adapter, method_state=outcome.method_state), world)
    assert models.keys() == {"client 0", "client 1"}
    assert models["client 1"].tensors == a.context.adapter.tensors
    task = send_own_model(
        outcome.adapter,
        Allocation((0, 1)),
        AllocationContext(world.clients[0], world, 3, method_state=outcome.method_state),
    )
    assert task.known == task.adapter.tensors.keys()  # nothing travels
    for model in (models["client 0"], task.adapter):
        assert torch.equal(model.tensors[Q + LORA_B], first.tensors[Q + LORA_B])
        assert model.tensors[V + LORA_B] is a.context.adapter.tensors[V + LORA_B]
