"""Adapters whose factors change their rank, and products merged into frozen weights."""

import json

import pytest
import torch
from peft import PeftModel
from transformers import GPT2Config, GPT2ForSequenceClassification

from fedhello.errors import ModelError
from fedhello.factors import held_part, pairs, unmerged
from fedhello.model.injection import attach_lora
from fedhello.model.loading import FoundationModel
from fedhello.model.saving import load_adapter, save_adapter
from fedhello.model.sources import ModelSource
from fedhello.types import LORA_A, LORA_B, MERGED, MERGED_A, MERGED_B, Allocation

IDS = torch.randint(1, 50, (4, 7), generator=torch.Generator().manual_seed(0))


def base_of(tiny_model, **shape):
    return tiny_model(**shape).module.unload()


def attached(base, targets="attention-qv"):
    """LoRA of rank 2 with the scale 1/2, so that a scale forgotten or used twice shows."""
    source = ModelSource("tiny", "tiny")
    return attach_lora(
        FoundationModel(base, None, source), num_labels=3, rank=2, alpha=1, dropout=0.0, targets=targets, seed=0
    )


@pytest.fixture
def model(tiny_model):
    return attached(base_of(tiny_model, blocks=2))


def random_adapter(model, rank, merged=(), seed=0):
    """Random values of some rank, and products of rank 3 to be merged into some of the modules."""
    rng, tensors = torch.Generator().manual_seed(seed), {}
    start = model.snapshot(share_head=True)
    for name, value in start.tensors.items():
        shape = list(value.shape)
        if name.endswith((LORA_A, LORA_B)):
            shape[0 if name.endswith(LORA_A) else 1] = rank
        tensors[name] = 0.4 * torch.randn(shape, generator=rng)
    for module, _, A, B in pairs(start):
        if module.endswith(tuple(merged)):
            tensors[module + MERGED_A] = 0.4 * torch.randn(3, A.shape[1], generator=rng)
            tensors[module + MERGED_B] = 0.4 * torch.randn(B.shape[0], 3, generator=rng)
    return start.with_tensors(tensors)


def as_matrices(adapter):
    """The same adapter whose products to be merged are matrices."""
    factors = [module for module in adapter.modules if module + MERGED_A in adapter.tensors]
    products = {m + MERGED: adapter.tensors[m + MERGED_B] @ adapter.tensors[m + MERGED_A] for m in factors}
    return adapter.with_tensors(products)


def logits(module):
    module.eval()
    with torch.no_grad():
        return module(input_ids=IDS).logits


def dense_logits(base, adapter):
    """Logits of the plain model with W₀ + s B A + Q P in the place of W₀, and the adapter's head."""
    with torch.no_grad():
        for module, _, A, B in pairs(adapter):
            weight = base.get_submodule(module.removeprefix("base_model.model.")).weight
            change = 0.5 * B.double() @ A.double()
            if module + MERGED_A in adapter.tensors:
                change += adapter.tensors[module + MERGED_B].double() @ adapter.tensors[module + MERGED_A].double()
            weight.copy_((weight.double() + (change if base.config.model_type == "bert" else change.T)).float())
        for name, block in adapter.block_of.items():
            if block is None:
                base.get_parameter(name.removeprefix("base_model.model.")).copy_(adapter.tensors[name])
    return logits(base)


EVERYWHERE = ("query", "value")


@pytest.mark.parametrize("rank", [1, 2, 5])
@pytest.mark.parametrize("merged", [(), ("query",), EVERYWHERE])
def test_what_is_written_computes_as_the_dense_weights_do(rank, merged, model, tiny_model):
    adapter = random_adapter(model, rank, merged)
    model.write(random_adapter(model, 3, EVERYWHERE, seed=1).tensors)  # whatever was there before
    model.write(adapter.tensors)
    expected = dense_logits(base_of(tiny_model, blocks=2), adapter)
    assert torch.allclose(logits(model.module), expected, atol=1e-5)
    read = model.read(model.block_of)
    assert all(torch.equal(read[name], adapter.tensors[name]) for name in read)


def test_writing_without_a_product_restores_the_frozen_weights_bit_for_bit(model):
    def frozen():
        return {n: p.clone() for n, p in model.module.named_parameters() if "base_layer" in n}

    before = frozen()
    for seed in range(5):
        model.write(random_adapter(model, 2, EVERYWHERE, seed).tensors)
    changed = frozen()
    assert sum(not torch.equal(changed[n], before[n]) for n in before) == 4
    model.write(random_adapter(model, 2, ("query",)).tensors)
    again = frozen()
    assert all(torch.equal(again[n], before[n]) for n in before if "value" in n)
    model.write(random_adapter(model, 2).tensors)
    again = frozen()
    assert all(torch.equal(again[n], before[n]) for n in before)


def test_factors_of_another_rank_train(model):
    """The parameters that train are those that the model computes with; a new one is as free or frozen as before."""
    adapter = random_adapter(model, 3, EVERYWHERE)
    names = adapter.names(Allocation((1,)))
    for rank in (3, 1):
        model.write(random_adapter(model, rank).tensors)
        if rank == 3:
            model.set_trainable(names)
        free = {n for n, p in model.module.named_parameters() if p.requires_grad}
        assert len(free) == len(names) == 6
        assert all(".layer.1." in n or "classifier" in n for n in free)
        model.module(input_ids=IDS).logits.square().sum().backward()
        live = dict(model.module.named_parameters())
        assert all(bool(live[n].grad.any()) and live[n].grad.shape == live[n].shape for n in free)
        assert {id(p) for p in model.set_trainable(names)} == {id(live[n]) for n in free}


@pytest.mark.parametrize("end", [LORA_A, LORA_B, "classifier.weight"])
def test_a_shape_that_differs_in_more_than_the_rank_is_refused(end, model):
    name = next(n for n in model.block_of if n.endswith(end))
    with pytest.raises(ModelError, match=r"or of another rank; found \(3, 3\)"):
        model.write({name: torch.zeros(3, 3)})


@pytest.mark.parametrize(("rank", "merged"), [(2, EVERYWHERE), (2, ("value",)), (1, ()), (5, ("query",))])
def test_peft_loads_what_is_saved_and_computes_the_same(rank, merged, model, tiny_model, tmp_path):
    adapter = random_adapter(model, rank, merged)
    model.write(adapter.tensors)
    expected = logits(model.module)
    save_adapter(model, tmp_path / "adapter")
    assert torch.allclose(logits(model.module), expected, atol=1e-5)  # saving changes no prediction
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["r"] == rank + (3 if merged else 0)
    loaded = PeftModel.from_pretrained(base_of(tiny_model, blocks=2), str(tmp_path / "adapter"))
    assert torch.allclose(logits(loaded), expected, atol=1e-5)
    fresh = attached(base_of(tiny_model, blocks=2))
    load_adapter(fresh, tmp_path / "adapter")
    assert torch.allclose(logits(fresh.module), expected, atol=1e-5)


@pytest.mark.parametrize("absent", [(1,), (0, 2), (1, 2, 3), ()])
def test_without_blocks_is_a_model_built_from_the_other_blocks(absent, tiny_model):
    model = attached(base_of(tiny_model, blocks=4))
    model.write(random_adapter(model, 2).tensors)
    whole, present = logits(model.module), [l for l in range(4) if l not in absent]
    small = attached(base_of(tiny_model, blocks=len(present)))
    with torch.no_grad():
        for name, value in small.module.state_dict().items():
            start, layer, rest = name.partition(".layer.")
            i, dot, end = rest.partition(".")
            value.copy_(model.module.state_dict()[f"{start}{layer}{present[int(i)]}{dot}{end}" if layer else name])
    with model.without_blocks(absent):
        assert torch.allclose(logits(model.module), logits(small.module), atol=1e-6)
        assert len(model.block_modules()) == 4
    assert torch.equal(logits(model.module), whole)
    with pytest.raises(KeyError), model.without_blocks(absent):
        raise KeyError
    assert torch.equal(logits(model.module), whole)


def test_a_sub_model_is_written_and_trained_through_the_same_names(tiny_model):
    model = attached(base_of(tiny_model, blocks=3))
    allocation = Allocation((0, 2), absent=(1,))
    mine = held_part(random_adapter(model, 2), allocation)
    before = model.read(model.block_of)
    model.write(mine.tensors)
    after = model.read(model.block_of)
    for name in model.block_of:
        assert torch.equal(after[name], mine.tensors.get(name, before[name]))
    model.set_trainable(mine.names(allocation))
    with model.without_blocks(allocation.absent):
        model.module(input_ids=IDS).logits.sum().backward()
    assert all(model._parameters[name].grad is not None for name in mine.names(allocation))
    assert all(p.grad is None for n, p in model.module.named_parameters() if ".layer.1." in n)


@pytest.mark.parametrize(
    "target",
    [
        "c_attn",
        "mlp.c_proj",
        "attn.c_proj",
    ],
)
def test_products_are_merged_into_layers_that_hold_the_transpose(target):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = GPT2Config(
            vocab_size=50, n_positions=16, n_embd=8, n_layer=1, n_head=2, num_labels=3, pad_token_id=0, bos_token_id=1,
            eos_token_id=2,
        )  # fmt: skip
        model = attached(GPT2ForSequenceClassification(config), targets=["c_attn", "c_proj"])
    adapter = random_adapter(model, 2, (target,))
    model.write(adapter.tensors)
    merged = logits(model.module)
    model.write(unmerged(adapter, 0.5).tensors)
    assert torch.allclose(logits(model.module), merged, atol=1e-5)
    model.write(as_matrices(adapter).tensors)
    assert torch.allclose(logits(model.module), merged, atol=1e-5)


def test_products_are_not_lost_in_coarse_weights(tiny_model):
    model = attached(base_of(tiny_model, blocks=2).to(torch.bfloat16))
    model.write(random_adapter(model, 2).tensors)
    with pytest.raises(ModelError, match=r"expected float32 weights .* found bfloat16 .* Set model\.dtype=float32"):
        model.write(random_adapter(model, 2, ("query",)).tensors)
