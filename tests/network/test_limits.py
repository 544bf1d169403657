"""The shapes of every method's tasks pass; what a hostile server sends is in tests/faults/test_75 and test_76."""

import pytest
import torch

from fedhello.engine.wire import encode_task, encode_tensors
from fedhello.errors import UpdateError
from fedhello.network.consent import Consent
from fedhello.network.limits import Limits
from fedhello.network.refusals import RefusalError
from fedhello.types import Adapter, Allocation, Budget, Task


@pytest.fixture
def limits(tiny_model):
    return Limits(Consent(download=10**6), tiny_model(blocks=3), Budget(blocks=2, rank=1))


def task(limits, allocation, tensors=None, **more):
    adapter = limits.model.snapshot(share_head=True)
    return encode_task(Task(0, 0, allocation, adapter if tensors is None else adapter.with_tensors(tensors), **more))


def of_rank(limits, r):
    values = limits.model.snapshot(share_head=True).tensors
    return {n: v[:r] if "lora_A" in n else v[:, :r] for n, v in values.items() if "lora_" in n}


def test_the_rank_is_that_of_the_tensors_of_allotted_blocks(limits):
    small = of_rank(limits, 1)
    limits.check_train(task(limits, Allocation((0, 1)), small))
    with pytest.raises(RefusalError, match="at most 1 as the rank; found one of 2"):
        limits.check_train(task(limits, Allocation((0, 1))))
    with pytest.raises(RefusalError, match="at most 2 blocks; found one of 3"):
        limits.check_train(task(limits, Allocation((0, 1, 2)), small))
    limits.check_train(task(limits, Allocation((0,), components=(1,))))
    limits.check_train(task(limits, Allocation((0, 1), components=((1,), (0,), (0, 1)))))  # the last does not train
    with pytest.raises(RefusalError, match="at most 1 as the rank; found one of 2"):
        limits.check_train(task(limits, Allocation((0, 1), components=((1,), (0, 1), (0,)))))


def test_merged_products_and_corrections_pass_in_their_shapes(limits):
    small = of_rank(limits, 1)
    A = next(name for name in small if name.endswith("lora_A.weight"))
    module = A.removesuffix(".lora_A.weight")
    whole = {module + ".merged.weight": torch.zeros(8, 8)}
    pair = {module + ".merged_A.weight": torch.zeros(5, 8), module + ".merged_B.weight": torch.zeros(8, 5)}
    for merged in (whole, pair):
        limits.check_train(task(limits, Allocation((0,)), {**small, **merged}))
    limits.check_train(task(limits, Allocation((0,)), small, correction={A: small[A].clone()}))
    with pytest.raises(UpdateError, match="in their shapes"):
        limits.check_train(task(limits, Allocation((0,)), {**small, module + ".merged.weight": torch.zeros(9, 8)}))


def test_without_a_budget_of_its_owner_any_task_of_the_model_passes(tiny_model):
    free = Limits(Consent(), tiny_model(blocks=3))
    free.check_train(task(free, Allocation((0, 1, 2), ("keep",) * 3, factors="B", head=False)))
    free.check_sums(encode_tensors(free.model.snapshot(share_head=True).tensors))
    free.check_sums(b"")
    free.check_scores(task(free, Allocation(())), 32)
    with pytest.raises(UpdateError):
        free.check_sums(encode_tensors({"another": torch.zeros(1)}))
    with pytest.raises(RefusalError, match="samples in a batch"):
        free.check_scores(task(free, Allocation(())), 10**6)


def test_a_part_of_the_adapter_is_a_task_as_well(limits):
    tensors = of_rank(limits, 1)
    first = dict(list(tensors.items())[:2])
    adapter = Adapter(first, {name: limits.model.block_of[name] for name in first})
    limits.check_train(encode_task(Task(0, 0, Allocation((0,)), adapter)))
