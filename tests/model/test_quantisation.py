"""Frozen weights in 8 and 4 bits; what needs bitsandbytes runs where the extra ``quantised`` is installed."""

import dataclasses
import importlib.util

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, BertConfig, LlamaConfig

from fedhello.errors import MissingExtraError, ModelError
from fedhello.model.injection import attach_lora
from fedhello.model.loading import load_foundation
from fedhello.model.saving import save_merged

TEXT, LM = "text-classification", "causal-lm"
LABELS = ("one", "two", "three")
SMALL = {"vocab_size": 20, "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
BERT = BertConfig(**SMALL)
LLAMA = LlamaConfig(**SMALL, bos_token_id=1, eos_token_id=2)

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="needs the extra quantised"
)


def test_quantised_weights_need_a_package(saved, monkeypatch, hide):
    source = saved(BERT)
    hide("bitsandbytes")
    with pytest.raises(MissingExtraError, match=r"pip install 'fedhello\[quantised\]'"):
        load_foundation(source, TEXT, LABELS, 0, quantisation="8bit")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: name)
    packed = dataclasses.replace(source, gguf="some.gguf")
    with pytest.raises(ModelError, match="comes as a GGUF file; found 8bit"):
        load_foundation(packed, TEXT, LABELS, 0, quantisation="8bit")


@needs_bitsandbytes
@pytest.mark.parametrize("kind", [TEXT, LM])
def test_eight_bits_hold_the_blocks_and_the_adapter_trains(saved, tmp_path, kind):
    source = saved(LLAMA, of=AutoModelForCausalLM if kind == LM else AutoModelForSequenceClassification)
    base = load_foundation(source, kind, LABELS, 0, quantisation="8bit")
    classes = None if kind == LM else 3
    model = attach_lora(base, num_labels=classes, rank=2, alpha=2, dropout=0.0, targets="all-linear", seed=0)
    kinds = {p.dtype for n, p in model.module.named_parameters() if n.endswith("base_layer.weight")}
    assert kinds == {torch.int8}
    model.write({name: torch.rand_like(value) for name, value in model.read(model.block_of).items()})
    live = model.set_trainable(model.block_of)
    assert {p.dtype for p in live} == {torch.float32}
    loss = model.module(input_ids=torch.tensor([[5, 6, 7, 8]])).logits.square().sum()
    assert all(bool(g.any()) and bool(g.isfinite().all()) for g in torch.autograd.grad(loss, live))
    with pytest.raises(ModelError, match=r"quantised \(8bit\)\. Export the form adapter instead"):
        save_merged(model, tmp_path / "merged")


@needs_bitsandbytes
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", [TEXT, LM])
def test_four_bits_have_the_same_gradients_before_and_after_an_evaluation(saved, dtype, kind):
    """On a CPU bitsandbytes changes the layout of weights in the first evaluation, unless it is kept."""
    source = saved(LLAMA, of=AutoModelForCausalLM if kind == LM else AutoModelForSequenceClassification)
    base = load_foundation(source, kind, LABELS, 0, dtype=dtype, quantisation="4bit")
    classes = None if kind == LM else 3
    model = attach_lora(base, num_labels=classes, rank=2, alpha=2, dropout=0.0, targets="all-linear", seed=0)
    kinds = {p.dtype for n, p in model.module.named_parameters() if n.endswith("base_layer.weight")}
    assert kinds == {torch.uint8}
    model.write({name: torch.rand_like(value) for name, value in model.read(model.block_of).items()})
    live = model.set_trainable(model.block_of)

    def gradients():
        return torch.autograd.grad(model.module(input_ids=ids).logits.float().square().sum(), live)

    ids = torch.tensor([[5, 6, 7, 8]])
    model.module.train()
    before = gradients()
    model.module.eval()
    with torch.no_grad():
        model.module(input_ids=ids)
    after = gradients()
    model.module.train()
    assert all(bool(g.any()) for g in before)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before, gradients(), strict=True))
