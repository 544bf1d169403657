"""SCAFFOLD: by hand, where it leads, and that clients need nothing but their task."""

from dataclasses import replace

import pytest
import torch

from fedhello.aggregation.control import with_control_variates
from fedhello.algorithm import init, round
from fedhello.client.settings import TrainingSettings, steps_of
from fedhello.client.training import Assignment, local_training
from fedhello.engine.wire import decode_task, encode_task
from fedhello.errors import UpdateError
from fedhello.methods import METHODS
from fedhello.types import Adapter, Allocation, Budget, Client, Federation, Task, Update

STEPS, RATE = 10, 0.05
SGD = TrainingSettings(1, 2, 4, "sgd", 0.1, "constant", 1.0, 0.0, 0.0, "cross_entropy", "none", scaffold=True)


def distance(samples, round, name, lr):
    return STEPS * (lr or RATE)


def parabolas(method, rounds, clients_per_round=2, lr=None):
    """Clients 0 and 1 minimise ½ a_k (y − b_k)² by plain descent from θ = 0; return the states and c − c_k sent."""
    a, b = (1.0, 4.0), (0.0, 1.0)  # the sum's minimum is at 0.8
    budget = Budget(blocks=1)
    clients = tuple(Client(k, 0, budget, samples=1) for k in range(2))
    federation = Federation(clients, (budget,), 1, clients_per_round, seed=0)
    sent = []

    def train(tasks):
        for task in tasks:
            y, shift = task.adapter.tensors["x"].double(), task.correction.get("x", torch.zeros(1)).double()
            sent.append((task.client, float(shift)))
            for _ in range(STEPS):
                y = y - (task.lr or RATE) * (a[task.client] * (y - b[task.client]) + shift)
            yield Update(task.client, task.round, 1, {"x": y})

    state = replace(init(Adapter({"x": torch.zeros(1, dtype=torch.float64)}, {"x": 0})), lr=lr)
    for _ in range(rounds):
        state, _ = round(state, federation, method, train, None)
    return state, sent


def test_drift_moves_the_mean_from_the_optimum_and_control_variates_bring_it_back():
    method = METHODS["gd-hla"].bind()
    drifting, _ = parabolas(method, 200)
    corrected, _ = parabolas(with_control_variates(method, distance), 200)
    assert abs(float(drifting.adapter.tensors["x"]) - 0.8) > 0.05
    assert float(corrected.adapter.tensors["x"]) == pytest.approx(0.8, abs=1e-9)
    # At the optimum each client's c_k is its own gradient there, and c, their mean, is zero.
    assert float(corrected.method_state["scaffold/0/x"]) == pytest.approx(0.8, abs=1e-9)
    assert float(corrected.method_state["scaffold/1/x"]) == pytest.approx(4 * (0.8 - 1), abs=1e-9)
    assert float(corrected.method_state["scaffold/mean/x"]) == pytest.approx(0, abs=1e-9)


def test_the_first_round_by_hand():
    _, sent = parabolas(with_control_variates(METHODS["gd-hla"].bind(), distance), 2)
    # Client 0 starts at its minimum and stays, so c_0 = 0; client 1 goes to 1 − 0.8¹⁰, and c_1 is minus that over K η.
    c_1 = -(1 - 0.8**10) / (STEPS * RATE)
    assert sent == [(0, 0), (1, 0), (0, pytest.approx(c_1 / 2 - 0)), (1, pytest.approx(c_1 / 2 - c_1))]
    # With a state's own rate of 0.025 each step goes half as far, and c_1 is the mean of its gradients there.
    _, sent = parabolas(with_control_variates(METHODS["gd-hla"].bind(), distance), 2, lr=RATE / 2)
    assert sent[2] == (0, pytest.approx(-(1 - 0.9**10) / (STEPS * RATE / 2) / 2))


def test_a_client_that_was_not_there_is_not_corrected_and_counts_for_nothing():
    method = with_control_variates(METHODS["gd-hla"].bind(), distance)
    state, sent = parabolas(method, 1, clients_per_round=1)
    (k, _), own = sent[0], state.method_state
    assert set(own) == {f"scaffold/{k}/x", "scaffold/mean/x"}
    assert torch.equal(own[f"scaffold/{k}/x"], own["scaffold/mean/x"])


def test_local_steps_are_those_of_the_formula(tiny_model, random_examples):
    """One parameter's correction is taken off η times after each step; for SGD it is as if the gradient had it."""

    def trained(correction):
        model = tiny_model()
        names = model.snapshot(share_head=True).names(Allocation((0, 1)))
        data = random_examples()
        work = Assignment(0, 0, names, data, (0, 1, 2), seed=0, correction=correction)
        before = model.read(names)
        after, metrics = local_training(model, work, SGD)
        assert metrics["steps"] == steps_of(SGD, len(data))
        return before, after, metrics

    before, plain, metrics = trained({})
    # An A whose B is zero has next to no gradient: it goes where the correction alone leads it.
    name = next(n for n in plain if n.endswith("lora_A.weight"))
    shift = torch.full_like(before[name], 0.5)
    _, corrected, more = trained({name: shift})
    wanted = plain[name] - metrics["steps"] * SGD.lr * shift
    assert torch.allclose(corrected[name], wanted, atol=2e-3)
    assert more["peak_bytes"] == metrics["peak_bytes"] + shift.nbytes


def corrected_task(**changes):
    adapter = Adapter({"a": torch.ones(2), "b": torch.ones(3)}, {"a": 0, "b": 1})
    task = Task(3, 7, Allocation((0,)), adapter, correction={"a": torch.tensor([1.0, -2.0])})
    return replace(task, **changes), adapter.block_of


def test_a_correction_travels_and_is_checked():
    task, block_of = corrected_task()
    found = decode_task(encode_task(task), 3, block_of)
    assert torch.equal(found.correction["a"], task.correction["a"]) and found.adapter.tensors.keys() == {"a", "b"}
    for wrong in (
        {"b": torch.ones(3)},
        {"a": torch.ones(3)},
        {"a": torch.tensor([1.0, torch.inf])},
        {"z": torch.ones(2)},
    ):
        with pytest.raises(UpdateError, match="expected a task for this model"):
            decode_task(encode_task(corrected_task(correction=wrong)[0]), 3, block_of)


def test_a_learning_rate_travels_and_is_checked():
    task, block_of = corrected_task(lr=0.1 + 0.2)
    assert decode_task(encode_task(task), 3, block_of).lr == task.lr
    assert decode_task(encode_task(corrected_task()[0]), 3, block_of).lr is None
    for wrong in (0.0, -1.0, float("inf"), float("nan"), "fast"):
        with pytest.raises(UpdateError, match="expected a task for this model"):
            decode_task(encode_task(corrected_task(lr=wrong)[0]), 3, block_of)
