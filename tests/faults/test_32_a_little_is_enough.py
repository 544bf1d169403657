"""Case 32: many small shifts within what honest clients differ by: bounded, not defeated, and the page says so."""

from pathlib import Path

import torch

from fedhello.aggregation.robust import Defence, defended
from fedhello.algorithm import init, round
from fedhello.methods import METHODS
from fedhello.types import Update

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "defend-a-run.md"
CLIP, ROUNDS = 0.5, 20


def test_the_drift_is_at_most_the_clip_in_each_round_and_is_not_nothing(toy):
    world, adapter = toy(clients=9)
    method = defended(METHODS["full"].bind(), Defence(rule="median", byzantine=3, clip=CLIP))
    draw = torch.Generator().manual_seed(0)

    def train(tasks):
        for task in tasks:
            shift = 0.1 if task.client < 3 else 0.1 * torch.randn((), generator=draw)
            yield Update(task.client, task.round, 10, {n: v + shift for n, v in task.adapter.tensors.items()})

    state = init(adapter)
    for _ in range(ROUNDS):
        state, _ = round(state, world, method, train, None)
    drift = float(sum((v - adapter.tensors[n]).square().sum() for n, v in state.adapter.tensors.items())) ** 0.5
    assert 0.1 < drift <= CLIP * ROUNDS


def test_the_page_does_not_claim_to_defeat_it():
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert '("a little is enough", Baruch et al., NeurIPS 2019), move every rule somewhat' in text
