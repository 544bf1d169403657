"""The server's step: by hand, and what it must leave alone."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from fedhello.aggregation.layerwise import average_layerwise
from fedhello.aggregation.robust import Defence, defended
from fedhello.aggregation.server import ServerStep, searched, stepped, with_server_step
from fedhello.algorithm import init, round
from fedhello.methods import METHODS
from fedhello.runs import checkpoint
from fedhello.strategy import ALL_OR_NOTHING, STEPS, AggregationContext
from fedhello.types import LORA_A, LORA_B, Adapter, Allocation, Budget, Client, Federation, Update

ADAPTING = ["adagrad", "adam", "yogi"]


def no_loss(_):
    raise AssertionError("nobody asks for the validation loss")


def scalars(theta, method_state=None):
    """A context of two clients and tensors of one number each, block by block."""
    budget = Budget(blocks=len(theta))
    clients = tuple(Client(k, 0, budget, samples=1) for k in range(2))
    adapter = Adapter({n: torch.tensor([x]) for n, x in theta.items()}, {n: l for l, n in enumerate(theta)})
    allocations = {k: Allocation(tuple(range(len(theta)))) for k in range(2)}
    return AggregationContext(
        adapter, Federation(clients, (budget,), len(theta), 2, seed=0), 0, allocations, method_state or {}
    )


def update(k, **tensors):
    return Update(k, 0, 1, {name: torch.tensor([value]) for name, value in tensors.items()})


def play(step, context, *updates):
    outcome = stepped(context, iter(updates), aggregate=average_layerwise, step=step)
    return {n: float(value) for n, value in outcome.adapter.tensors.items()}, outcome


@pytest.mark.parametrize(
    ("name", "m", "v", "after"),
    [
        ("avgm", 2.0, None, 1 + 0.1 * 2),
        ("adagrad", 1.0, 13.0, 1 + 0.1 * 1 / (math.sqrt(13) + 3)),
        ("adam", 1.0, 7.75, 1 + 0.1 * 1 / (math.sqrt(7.75) + 3)),
        ("yogi", 1.0, 8.0, 1 + 0.1 * 1 / (math.sqrt(8) + 3)),
    ],
)
def test_a_first_step_by_hand(name, m, v, after):
    """θ = 1 and clients at 2 and 4, so Δ = 2; with β₁ = 1/2, β₂ = 3/4 and τ = 3, so v was 9."""
    step = ServerStep(name, lr=0.1, beta1=0.5, beta2=0.75, tau=3.0)
    found, outcome = play(step, scalars({"x": 1.0}), update(0, x=2.0), update(1, x=4.0))
    assert found["x"] == pytest.approx(after)
    assert float(outcome.method_state["server/m/x"]) == m
    assert (float(outcome.method_state["server/v/x"]) if v else None) == v
    assert set(outcome.method_state) == ({"server/m/x", "server/v/x"} if v else {"server/m/x"})


def test_a_second_step_goes_on_with_what_is_remembered():
    step = ServerStep("adam", lr=0.1, beta1=0.5, beta2=0.75, tau=1.0)
    method_state = {"server/m/x": torch.tensor([3.0]), "server/v/x": torch.tensor([4.0])}
    found, outcome = play(step, scalars({"x": 1.0}, method_state), update(0, x=0.0))
    assert float(outcome.method_state["server/m/x"]) == 1.0  # (3 − 1)/2
    assert float(outcome.method_state["server/v/x"]) == 3.25  # (3·4 + 1)/4
    assert found["x"] == pytest.approx(1 + 0.1 / (math.sqrt(3.25) + 1))  # up, although Δ points down


@pytest.mark.parametrize(("v", "after"), [(9.0, 8.0), (1.0, 2.0), (4.0, 4.0)])
def test_yogi_goes_towards_the_square_by_its_own_step(v, after):
    method_state = {"server/m/x": torch.tensor([0.0]), "server/v/x": torch.tensor([v])}
    _, outcome = play(ServerStep("yogi", beta2=0.75), scalars({"x": 0.0}, method_state), update(0, x=2.0))
    assert float(outcome.method_state["server/v/x"]) == after  # v ∓ 4/4


def test_without_momentum_and_with_a_rate_of_1_avgm_is_the_mean_bit_for_bit(a_round):
    played = a_round([4, 2, 1, 3])
    plain = played.played(average_layerwise)
    found = played.played(partial(stepped, aggregate=average_layerwise, step=ServerStep("avgm", lr=1.0, beta1=0.0)))
    assert all(torch.equal(found.adapter.tensors[n], value) for n, value in plain.adapter.tensors.items())


@pytest.mark.parametrize("name", ["avgm", *ADAPTING])
def test_what_nobody_trained_stays_the_same_object_with_its_moments(name):
    step = ServerStep(name)
    first = play(step, scalars({"x": 1.0, "y": 2.0}), update(0, x=2.0, y=5.0))[1]
    context = replace(scalars({}), adapter=first.adapter, method_state=first.method_state)
    second = play(step, context, update(1, x=3.0))[1]
    assert second.adapter.tensors["y"] is first.adapter.tensors["y"]
    for key, value in first.method_state.items():
        assert torch.equal(second.method_state[key], value) == key.endswith("/y")


@pytest.mark.parametrize("name", ["avgm", *ADAPTING])
def test_components_that_nobody_holds_stay_in_spite_of_their_momentum(name, a_round):
    step = partial(stepped, aggregate=average_layerwise, step=ServerStep(name))
    all_held, two_held = a_round([4, 4]), a_round([2, 1], seed=1)
    first = all_held.played(step)
    context = replace(two_held.context, adapter=first.adapter, method_state=first.method_state)
    second = step(context, iter(two_held.updates))
    for n, value in second.adapter.tensors.items():
        before = first.adapter.tensors[n]
        rest = (slice(2, None),) if n.endswith(LORA_A) else (slice(None), slice(2, None))
        held = (slice(0, 2),) if n.endswith(LORA_A) else (slice(None), slice(0, 2))
        if n.endswith((LORA_A, LORA_B)):
            assert torch.equal(value[rest], before[rest])
            assert torch.equal(second.method_state[f"server/m/{n}"][rest], first.method_state[f"server/m/{n}"][rest])
            assert not bool((value[held] == before[held]).any())


def test_a_robust_rule_comes_before_the_step():
    """The median of 1, 2 and 100 is 2, so Δ = 2."""
    step = ServerStep("avgm", lr=0.5, beta1=0.0)
    method = with_server_step(defended(METHODS["full"].bind(), Defence(rule="median")), step, no_loss)
    context = scalars({"x": 0.0})
    context = replace(context, allocations={k: Allocation((0,)) for k in range(3)})
    context = replace(context, federation=replace(context.federation, quorum=3))
    outcome = method.aggregate(context, iter([update(k, x=x) for k, x in enumerate((1.0, 2.0, 100.0))]))
    assert float(outcome.adapter.tensors["x"]) == 1.0


def test_none_is_the_very_same_method():
    method = METHODS["full"].bind()
    assert with_server_step(method, ServerStep(), no_loss) is method


@pytest.mark.parametrize("name", ["avgm", *ADAPTING])
def test_a_run_goes_on_from_a_checkpoint_bit_for_bit(name):
    method = with_server_step(METHODS["rgd-hla"].bind(), ServerStep(name, lr=0.3), no_loss)
    tiers = (Budget(blocks=1), Budget(blocks=2))
    clients = tuple(Client(k, k % 2, tiers[k % 2], samples=k + 1) for k in range(4))
    world = Federation(clients, tiers, num_blocks=3, clients_per_round=2, seed=0)
    theta = Adapter({n: torch.full((2, 3), 0.1) for n in "abc"}, {"a": 0, "b": 1, "c": 2})

    def train(tasks):
        for task in tasks:
            values = {
                n: task.adapter.tensors[n] * 0.7 + 0.1 * (task.client + task.round)
                for n in task.adapter.names(task.allocation)
            }
            yield Update(task.client, task.round, clients[task.client].samples, values)

    def go_on(state, rounds):
        for _ in range(rounds):
            state, _ = round(state, world, method, train, None)
        return state

    whole = go_on(init(theta), 6)
    half = checkpoint.Checkpoint(3, go_on(init(theta), 3))
    resumed = go_on(checkpoint.decode(checkpoint.encode(half)).state, 3)
    assert whole.method_state.keys() == resumed.method_state.keys() != set()
    assert all(torch.equal(resumed.method_state[n], value) for n, value in whole.method_state.items())
    assert all(torch.equal(resumed.adapter.tensors[n], value) for n, value in whole.adapter.tensors.items())


@pytest.mark.parametrize(
    ("losses", "step", "after"),
    [
        ({1.0: [9, 9], 3.0: [1, 1], 4.0: [2, 2], 2.0: [3, 3]}, 1.0, 3.0),
        ({1.0: [9, 9], 3.0: [2, 2], 4.0: [1, 1], 2.0: [3, 3]}, 1.5, 4.0),
        ({1.0: [9, 9], 3.0: [8, 8], 4.0: [9, 9], 2.0: [3, 3]}, 0.5, 2.0),
        ({1.0: [1, 1], 3.0: [2, 2], 4.0: [2, 2], 2.0: [2, 2]}, 0.0, 1.0),
        ({1.0: [1, 1], 3.0: [1, 1], 4.0: [1, 1], 2.0: [1, 1]}, 0.0, 1.0),
        ({1.0: [7, 7], 3.0: [math.nan, 0], 4.0: [-math.inf, 0], 2.0: [math.inf, 0]}, 0.0, 1.0),
        # Falls of 0 and 4 are 2 ± 2; those of 1 and 2 are 1.5 ± 0.5, which is surer.
        ({1.0: [5, 5], 3.0: [5, 1], 4.0: [9, 0], 2.0: [4, 3]}, 0.5, 2.0),
        ({1.0: [5, 5], 3.0: [5, 1], 4.0: [9, 0], 2.0: [6, 3]}, 0.0, 1.0),
    ],
)
def test_the_search_goes_as_far_as_the_validation_data_speaks_for(losses, step, after):
    """θ = 1 and the clients' mean is 3, so α = ½, 1, 1½ lead to 2, 3, 4; y is nobody's and stays the same object."""
    context = scalars({"x": 1.0, "y": 5.0})
    found = {x: torch.tensor([float(loss) for loss in both]) for x, both in losses.items()}
    search = partial(searched, aggregate=average_layerwise, losses=lambda adapter: found[float(adapter.tensors["x"])])
    outcome = search(context, iter([update(0, x=2.0), update(1, x=4.0)]))
    assert (outcome.step, float(outcome.adapter.tensors["x"])) == (step, after)
    assert outcome.adapter.tensors["y"] is context.adapter.tensors["y"]
    assert (outcome.adapter is context.adapter) == (step == 0)


def test_where_nothing_lies_between_a_round_counts_or_leaves_everything_as_it_was():
    """Without ½ among the steps the best of them is not taken, and what was to be remembered is not either."""

    def remembering(context, updates):
        return replace(average_layerwise(context, updates), method_state={"seen": torch.tensor(1)})

    losses = {1.0: 5.0, 2.0: 1.0, 3.0: 9.0}
    for after, step, kept in ((9.0, 0.0, set()), (3.0, 1.0, {"seen"})):
        measured = losses | {3.0: after}
        context = scalars({"x": 1.0})
        outcome = searched(
            context,
            iter([update(0, x=2.0), update(1, x=4.0)]),
            aggregate=remembering,
            losses=lambda adapter, measured=measured: torch.full((2,), measured[float(adapter.tensors["x"])]),
            steps=ALL_OR_NOTHING,
        )
        assert (outcome.step, set(outcome.method_state)) == (step, kept)
        assert (outcome.adapter is context.adapter) == (step == 0)


def test_what_a_method_averages_decides_which_steps_there_are():
    steps = {name: method.steps for name, method in METHODS.items()}
    assert steps["rgd-hla"] == steps["fed-plora"] == STEPS
    assert steps["flexlora"] == steps["helora-pad"] == ALL_OR_NOTHING
    assert {name for name, found in steps.items() if not found} == {"flora", "fedex-lora", "local-only", "helora-kd"}
