"""Case 28: the fewer blocks train from the bottom up, the less a client measures and sends.

That frozen means ``requires_grad`` is False, without gradient or optimiser state: ``tests/client/test_training.py``.
"""

from itertools import pairwise

from fedhello.engine.local import LocalEngine
from fedhello.types import Allocation, Task


def test_memory_and_bytes_fall_strictly_with_every_frozen_block(
    tiny_model, random_examples, federation, local_settings
):
    model = tiny_model(blocks=5)
    world = federation([5], blocks=5)
    engine = LocalEngine(model, world, {0: random_examples()}, local_settings)
    adapter = model.snapshot(share_head=True)
    updates = [
        next(iter(engine.train([Task(0, 0, Allocation(tuple(range(lowest, 5))), adapter)]))) for lowest in range(6)
    ]
    for measured in (
        [u.metrics["peak_bytes"] for u in updates],
        [u.metrics["saved_bytes"] for u in updates],
        [u.bytes_up for u in updates],
    ):
        assert all(more > less for more, less in pairwise(measured)), measured
