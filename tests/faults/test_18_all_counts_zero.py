"""Case 18: all sample counts are zero."""

from fedhello.algorithm import init, round
from fedhello.engine.wire import decode, encode_update, expect
from fedhello.methods import METHODS
from fedhello.types import Update


def test_the_round_fails_with_a_reason_and_the_model_stays(toy):
    world, adapter = toy(clients=3, quorum=2)

    def train(tasks):
        for task in tasks:
            values = {n: v + 1 for n, v in task.adapter.tensors.items()}
            lying = encode_update(Update(task.client, task.round, 0, values, {}), "r")
            yield decode(lying, expect(task, 10, "r", 0))

    before = init(adapter)
    state, record = round(before, world, METHODS["full"].bind(), train, None)
    assert record.failed == "0 of 3 updates count; the quorum is 2"
    assert {r.reason for r in record.rejections} == {"wrong count"}
    assert state.adapter is adapter
    assert (state.round, state.attempt) == (0, 1)
