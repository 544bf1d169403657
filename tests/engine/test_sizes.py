from dataclasses import replace

import torch

from fedhello.engine.sizes import task_bytes
from fedhello.engine.wire import encode_task
from fedhello.types import Adapter, Allocation, Task

TENSORS = {"a.lora_A.weight": torch.arange(6.0).reshape(2, 3) / 7, "b.lora_B.weight": torch.tensor([[1.0], [-2.0]])}


def test_the_bytes_of_a_task_are_known_without_making_it():
    adapter = Adapter({**TENSORS, "other": torch.ones(5)}, {**dict.fromkeys(TENSORS, 0), "other": 1})
    half = Adapter({"a.lora_A.weight": torch.ones(2, 3).bfloat16()}, {"a.lora_A.weight": 0})
    plain = Task(3, 5, Allocation((0,)), adapter)
    less = replace(plain, client=1000, known=frozenset({"other"}), missed={"x": torch.ones(7, 2)})
    tasks = [
        plain,
        less,
        replace(plain, correction={name: value + 1 for name, value in TENSORS.items()}, lr=0.25),
        replace(plain, adapter=half, round=10**6),
        plain,
    ]
    assert [task_bytes(task) for task in tasks] == [len(encode_task(task)) for task in tasks]
