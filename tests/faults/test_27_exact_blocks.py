"""Case 27: block 1 of twelve is block 1, not 10 or 11 as well: what the engine asks for, trains and takes."""

from dataclasses import replace

import torch

from fedhello import algorithm
from fedhello.engine.local import LocalEngine
from fedhello.methods import METHODS
from fedhello.types import Allocation


def test_a_round_on_block_1_changes_block_1_alone(tiny_model, random_examples, federation, local_settings):
    model = tiny_model(blocks=12)
    world = federation([1, 1], blocks=12)
    engine = LocalEngine(model, world, {k: random_examples(seed=k) for k in range(2)}, local_settings)
    before = algorithm.init(model.snapshot(share_head=False))
    method = replace(METHODS["full"].bind(), allocate=lambda context: Allocation((1,)))
    after, record = algorithm.round(before, world, method, engine.train, None)
    assert record.contributors == (0, 2, *[0] * 10)
    changed = [n for n, v in after.adapter.tensors.items() if not torch.equal(v, before.adapter.tensors[n])]
    assert changed
    assert all(".layer.1." in name for name in changed)
