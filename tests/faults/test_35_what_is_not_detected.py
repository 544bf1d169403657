"""Case 35: a backdoor with usual norms passes, and the documentation says so."""

from pathlib import Path

import torch

from fedhello.aggregation.robust import Defence, defended
from fedhello.algorithm import init, round
from fedhello.methods import METHODS
from fedhello.types import Update

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "defend-a-run.md"


def test_another_direction_of_the_same_norm_is_taken(toy):
    world, adapter = toy(clients=5)

    def train(tasks):
        for task in tasks:
            change = torch.tensor([[1.0, 0.0]] if task.client else [[0.0, 1.0]])
            yield Update(task.client, 0, 10, {n: v + change for n, v in task.adapter.tensors.items()})

    method = defended(METHODS["full"].bind(), Defence(screen=2.0, clip=10.0))
    state, record = round(init(adapter), world, method, train, None)
    assert not record.rejections
    assert float(state.adapter.tensors["0.lora_A.weight"][0, 1]) > 0


def test_the_page_says_so():
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert "A backdoor whose update has usual norms, and poisoned data, are **not detected**." in text
