import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from fedhello.model.injection import attach_lora
from fedhello.model.loading import FoundationModel
from fedhello.model.sources import ModelSource


def test_projections_outside_the_blocks_get_no_adapter():
    model = BertForSequenceClassification(
        BertConfig(
            num_hidden_layers=2, vocab_size=20, hidden_size=8, num_attention_heads=2, intermediate_size=16, num_labels=4
        )
    )
    model.bert.value = nn.Linear(8, 8)
    base = FoundationModel(model, None, ModelSource("tiny", "tiny"))
    lora = attach_lora(base, num_labels=4, rank=2, alpha=2, dropout=0.0, targets="attention-qv", seed=0)
    assert len(lora.block_of) == 2 * 4 + 2
    assert not any("bert.value" in name for name in lora.block_of)


def test_the_seed_decides_the_start_and_the_global_random_state_is_left_alone(tiny_model):
    torch.manual_seed(123)
    expected = torch.rand(1)
    torch.manual_seed(123)
    one, same, other = tiny_model(seed=1), tiny_model(seed=1), tiny_model(seed=2)
    assert torch.equal(torch.rand(1), expected)
    a, b, c = (m.snapshot(share_head=True).tensors for m in (one, same, other))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not all(torch.equal(a[name], c[name]) for name in a)
