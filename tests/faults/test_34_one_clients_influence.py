"""Case 34: one client moves the global adapter by at most clip × its weight / Σ weights."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhello.aggregation.robust import Defence, defended
from fedhello.algorithm import init, round
from fedhello.methods import METHODS
from fedhello.types import Update

anything = st.floats(-(2.0**100), 2.0**100, width=32)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(sent=st.lists(anything, min_size=4, max_size=4), clip=st.floats(0.01, 100), others=st.integers(1, 6))
def test_whatever_it_sends(toy, sent, clip, others):
    world, adapter = toy(clients=others + 1)
    method = defended(METHODS["full"].bind(), Defence(clip=clip))

    def play(hostile):
        def train(tasks):
            for task in tasks:
                values = dict(adapter.tensors)
                if task.client == 0 and hostile:
                    values = {n: torch.tensor([sent[2 * i : 2 * i + 2]]) for i, n in enumerate(sorted(values))}
                yield Update(task.client, 0, 5 if task.client == 0 else 10, values)

        return round(init(adapter), world, method, train, None)[0].adapter.tensors

    one, other = play(True), play(False)
    moved = float(sum((one[n] - other[n]).double().square().sum() for n in one)) ** 0.5
    assert moved <= clip * 5 / (5 + 10 * others) * (1 + 1e-5) + 1e-6
