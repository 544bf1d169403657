"""Case 22: the order in which replies arrive changes no bit."""

import random
from dataclasses import replace

import pytest
import torch

from fedhello.aggregation.robust import Defence, defended
from fedhello.algorithm import init, round
from fedhello.engine.wire import encode_update, expect
from fedhello.methods import METHODS
from fedhello.network.inbox import Inbox
from fedhello.types import Update


@pytest.mark.parametrize("defence", [Defence(), Defence(5.0, 1.0), Defence(rule="median"), Defence(rule="multi-krum")])
def test_whoever_comes_first_the_round_ends_with_the_same_bits(toy, letter, defence):
    world, adapter = toy(clients=7)

    def play(seed):
        def train(tasks):
            tasks = {task.client: task for task in tasks}
            inbox = Inbox(0, {k: expect(task, 10, "r", 0) for k, task in tasks.items()})
            arriving = list(tasks)
            random.Random(seed).shuffle(arriving)
            replies = {}
            for k in arriving:
                draw = torch.Generator().manual_seed(k)
                values = {n: v + torch.randn(v.shape, generator=draw) for n, v in adapter.tensors.items()}
                sent = encode_update(Update(k, 0, 10 - k, values, letter.metrics), "r")
                replies[k] = inbox.take(k, sent)
            return [replies[k] for k in sorted(replies)]

        return round(init(adapter), world, defended(METHODS["full"].bind(), defence), train, None)

    (state, record), others = play(0), [play(seed) for seed in range(1, 6)]
    assert len(record.clients) == 7
    for other, other_record in others:
        assert all(torch.equal(value, other.adapter.tensors[n]) for n, value in state.adapter.tensors.items())
        assert replace(other_record, scores=None) == replace(record, scores=None)
