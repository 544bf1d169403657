"""Case 60: an adapter that an earlier release saved still loads and computes what it did then.

``tests/golden/adapter-0.1`` was written by ``python tests/faults/test_60_golden_adapter.py`` with fedhello 0.1.0 and
PEFT 0.21.2. A later release adds a folder of its own and leaves the earlier ones as they are.
"""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import BertConfig, BertForSequenceClassification

from fedhello.model.injection import attach_lora
from fedhello.model.loading import FoundationModel
from fedhello.model.saving import load_adapter, save_adapter
from fedhello.model.sources import ModelSource
from fedhello.types import LORA_B

GOLDEN = Path(__file__).parents[1] / "golden"
IDS = torch.arange(1, 25).reshape(4, 6)


def fill(tensor, k):
    """Write values that no random generator of some version makes."""
    n = torch.arange(tensor.numel(), dtype=torch.float64)
    tensor.copy_(torch.sin(n * (k + 1) + k).reshape(tensor.shape))


def base():
    config = BertConfig(
        vocab_size=30, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=16, num_labels=3,
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    with torch.no_grad():
        for k, (_, parameter) in enumerate(sorted(model.named_parameters())):
            fill(parameter, k)
    return model


def attached():
    source = FoundationModel(base(), None, ModelSource("golden", "golden"))
    return attach_lora(source, num_labels=3, rank=2, alpha=1, dropout=0.0, targets="attention-qv", seed=0)


def logits(module):
    module.eval()
    with torch.inference_mode():
        return module(input_ids=IDS).logits


def write(folder):
    """Save an adapter of rank 3 and scale 1/2, and the logits of the model with it."""
    model = attached()
    tensors = model.snapshot(share_head=True).tensors
    for k, name in enumerate(sorted(tensors)):
        shape = [3 if size == 2 else size for size in tensors[name].shape]
        tensors[name] = torch.empty(shape)
        fill(tensors[name], 100 + k)
    model.write(tensors)
    save_adapter(model, folder)
    (folder / "logits.json").write_text(json.dumps(logits(model.module).tolist()) + "\n")


@pytest.fixture(params=sorted(GOLDEN.glob("adapter-*")), ids=lambda folder: folder.name)
def golden(request):
    return request.param, torch.tensor(json.loads((request.param / "logits.json").read_text()))


def test_there_is_a_golden_adapter():
    assert (GOLDEN / "adapter-0.1" / "adapter_model.safetensors").is_file()


def test_fedhello_loads_it(golden):
    folder, expected = golden
    model = attached()
    load_adapter(model, folder)
    assert torch.allclose(logits(model.module), expected, atol=1e-5)
    model.write({n: torch.zeros_like(v) for n, v in model.read(model.block_of).items() if n.endswith(LORA_B)})
    assert not torch.allclose(logits(model.module), expected, atol=1e-2), "the factors count, not only the head"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_peft_loads_it(golden):
    folder, expected = golden
    assert torch.allclose(logits(PeftModel.from_pretrained(base(), str(folder))), expected, atol=1e-5)


if __name__ == "__main__":
    write(GOLDEN / "adapter-0.1")
