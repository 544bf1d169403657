"""Weights that are rounded once: the results of autocast, bit for bit."""

import sys
from pathlib import Path

import pytest
import torch

from fedhello.client.calibration import made_up
from fedhello.model import number_type
from fedhello.model.forward import predictions
from fedhello.model.number_type import in_bfloat16, rounded_weights
from fedhello.types import LORA_A, LORA_B, MERGED

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from memory_prediction import MODELS, build

QUICK = ["bert", "deberta-v3", "gpt2", "vit", "llama, language", "bert, dora"]


def gradients(model, context):
    """Logits and gradients of all LoRA factors and the head; B is not zero, so A has gradients, too."""
    batch = made_up(model, 3, 1 if model.takes_images else 7, 3 if model.kind == "causal-lm" else None)
    if model.takes_images:
        batch.inputs["pixel_values"].normal_(generator=torch.Generator().manual_seed(0))
    parameters = model.set_trainable(model.block_of)
    model.module.eval()
    with rounded_weights(model, context is in_bfloat16):
        with context(model) if context is in_bfloat16 else torch.autocast("cpu", torch.bfloat16):
            found = predictions(model, batch)
        return [found.z, *torch.autograd.grad(found.z.logsumexp(dim=1).sum(), parameters, allow_unused=True)]


def with_values(name):
    model = build(name)
    torch.manual_seed(1)
    model.write({n: torch.randn_like(v) / 20 for n, v in model.read(model.block_of).items() if LORA_B in n})
    return model


def same(one, other):
    assert all((a is None and b is None) or torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in MODELS if "12" not in n]
)
def test_results_are_those_of_autocast(name):
    model = with_values(name)
    before = {n: (p.data_ptr(), p.dtype) for n, p in model.module.named_parameters()}
    same(gradients(model, torch.autocast), gradients(model, in_bfloat16))
    assert {n: (p.data_ptr(), p.dtype) for n, p in model.module.named_parameters()} == before


def test_frozen_weights_alone_are_rounded_and_once():
    model = with_values("bert")
    with rounded_weights(model):
        held = {n: p for n, p in model.module.named_parameters() if p.dtype == torch.bfloat16}
        block = [n for n in held if ".layer.0." in n]
        assert len(block) == 12 and not any("lora" in n or "LayerNorm" in n or "embeddings" in n for n in held)
    with rounded_weights(model):
        assert all(p is held[n] for n, p in model.module.named_parameters() if n in held)


def test_a_product_that_is_merged_later_is_in_the_copy():
    model = with_values("bert")
    gradients(model, in_bfloat16)
    A = next(n for n in model.block_of if n.endswith(LORA_A))
    module, d = A.removesuffix(LORA_A), model.read([A])[A].shape[1]
    model.write({**model.read([A]), module + MERGED: torch.ones(d, d)})
    same(gradients(model, torch.autocast), gradients(model, in_bfloat16))


def test_weights_are_put_back_if_rounding_fails_on_the_way(monkeypatch):
    model, rounded, before = with_values("bert"), number_type._rounded, [3]

    def fails(copies, weight):
        before[0] -= 1
        if before[0] < 0:
            raise torch.OutOfMemoryError("none is left")
        return rounded(copies, weight)

    monkeypatch.setattr(number_type, "_rounded", fails)
    with pytest.raises(torch.OutOfMemoryError), rounded_weights(model):
        pass
    assert {p.dtype for p in model.module.parameters()} == {torch.float32}


def test_copies_that_are_made_without_autograd_serve_a_backward_pass():
    model = with_values("bert")
    with torch.inference_mode(), in_bfloat16(model):
        predictions(model, made_up(model, 2, 5))
    same(gradients(with_values("bert"), torch.autocast), gradients(model, in_bfloat16))
