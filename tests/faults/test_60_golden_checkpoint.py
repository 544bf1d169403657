"""A checkpoint that version 0.1.0 wrote is still read, to the last bit.

``tests/golden/checkpoint-1.safetensors`` is of format 1. A format that follows gets a file of its own beside it.
"""

from pathlib import Path

import torch

from fedhello.runs.checkpoint import Checkpoints, decode
from fedhello.state import RunState

GOLDEN = Path(__file__).parent.parent / "golden"


def test_format_1():
    found = decode((GOLDEN / "checkpoint-1.safetensors").read_bytes())
    state = found.state
    assert (found.lines, state.round, state.scores, state.excess) == (3, 2, (0.25, 1 / 3), {7: 1.25, 2: 1 / 3})
    assert state.adapter.block_of == {
        "layer.0.lora_A.weight": 0, "layer.0.lora_B.weight": 0, "layer.1.lora_A.weight": 1, "head.weight": None,
    }  # fmt: skip
    tensors = state.adapter.tensors
    assert tensors["layer.0.lora_A.weight"].equal(torch.arange(6.0).reshape(2, 3) / 7)
    assert tensors["layer.0.lora_B.weight"].equal(torch.tensor([[-0.0, 1e-40], [3e38, 1.5]]))
    assert tensors["layer.1.lora_A.weight"].equal(torch.tensor([[1 / 3, -2.0]], dtype=torch.bfloat16))
    assert tensors["head.weight"].equal(torch.ones(2, 2, dtype=torch.float16))
    assert state.method_state["rank 4/layer.0.lora_A.weight"].equal(torch.tensor([0.1, 0.2], dtype=torch.float64))
    assert state.personal_heads[5]["head.weight"].equal(torch.full((2, 2), 0.5))
    assert found.identity["configuration"]["train"]["lr"] == 0.002
    assert found.more["seconds"] == 1.5
    known = {"method_state": state.method_state, "personal_heads": state.personal_heads}
    assert state == RunState(2, state.adapter, (0.25, 1 / 3), {7: 1.25, 2: 1 / 3}, **known)


def test_it_is_found_in_a_folder(tmp_path):
    name = "checkpoint-000003.safetensors"
    (tmp_path / name).write_bytes((GOLDEN / "checkpoint-1.safetensors").read_bytes())
    assert Checkpoints(tmp_path).latest(lambda line: None).lines == 3
