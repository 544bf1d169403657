import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from fedhello.client.activations import activation_policies
from fedhello.client.memory import StepMemory
from fedhello.data.batches import Examples
from fedhello.data.ragged import Ragged


def warm(model):
    tensors = model.snapshot(share_head=True).tensors
    generator = torch.Generator().manual_seed(1)
    model.write({name: 0.5 * torch.randn(v.shape, generator=generator) for name, v in tensors.items()})
    return model


def gradients(model, data, policies, seed=0):
    """Gradients of all LoRA factors and the head under policies."""
    model.module.train()
    parameters = model.set_trainable(model.block_of)
    batch = data.batch(np.arange(len(data)))
    torch.manual_seed(seed)
    blocks = model.block_modules()
    with activation_policies(blocks, policies, lambda _: None):
        loss = cross_entropy(model.module(**batch.inputs).logits, batch.labels)
        result = torch.autograd.grad(loss, parameters)
    assert all("forward" not in block.__dict__ for block in blocks)
    return result


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("policies", [("recompute",) * 3, ("keep", "recompute", "keep")])
def test_recomputed_gradients_are_the_same_bits(tiny_model, random_examples, policies, dropout):
    model, data = warm(tiny_model(dropout=dropout)), random_examples()
    kept, recomputed = gradients(model, data, ("keep",) * 3), gradients(model, data, policies)
    assert all(torch.equal(one, other) for one, other in zip(kept, recomputed, strict=True))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_recomputed_gradients_of_a_decoder_are_the_same_bits(tiny_decoder, random_examples, attention):
    """A block that runs again must not find the keys and values of its first run in a cache."""
    model, data = warm(tiny_decoder(attention=attention)), random_examples()
    kept, recomputed = gradients(model, data, ("keep",) * 3), gradients(model, data, ("recompute",) * 3)
    assert all(torch.equal(one, other) for one, other in zip(kept, recomputed, strict=True))


def test_compressed_gradients_of_a_decoder_are_close(tiny_decoder, random_examples):
    model, data = warm(tiny_decoder()), random_examples(samples=30)
    exact = torch.cat([g.flatten() for g in gradients(model, data, ("keep",) * 3)])
    rough = torch.cat([g.flatten() for g in gradients(model, data, ("compress",) * 3)])
    assert 0 < float((exact - rough).norm() / exact.norm()) < 0.05


def test_recomputation_runs_the_blocks_twice(tiny_model, random_examples):
    model = warm(tiny_model())
    calls = []
    query = model.module.get_base_model().bert.encoder.layer[1].attention.self.query
    query.register_forward_hook(lambda *_: calls.append(1))
    gradients(model, random_examples(), ("keep", "recompute", "keep"))
    assert len(calls) == 2


def test_compressed_gradients_are_close_but_not_the_same(tiny_model, random_examples):
    model, data = warm(tiny_model()), random_examples(samples=30)
    exact = torch.cat([g.flatten() for g in gradients(model, data, ("keep",) * 3)])
    rough = torch.cat([g.flatten() for g in gradients(model, data, ("compress",) * 3)])
    error = float((exact - rough).norm() / exact.norm())
    assert 0 < error < 0.05


def saved_bytes(model, data, policies):
    model.module.train()
    model.set_trainable(model.block_of)
    batch = data.batch(np.arange(len(data)))
    memory = StepMemory(model.module.parameters())
    with activation_policies(model.block_modules(), policies, memory.note), memory:
        cross_entropy(model.module(**batch.inputs).logits, batch.labels).backward()
    return memory.saved_bytes, memory.peak_bytes


def test_recomputed_blocks_hold_their_input_and_nothing_else(tiny_model, random_examples):
    model, data = warm(tiny_model()), random_examples(samples=20)
    hidden = 20 * int(data.lengths().max()) * 8 * 4
    one, _ = saved_bytes(model, data, ("keep", "recompute", "recompute"))
    two, _ = saved_bytes(model, data, ("recompute", "recompute", "recompute"))
    first_block, _ = saved_bytes(model, data, ("keep", "keep", "keep"))
    assert two < one < first_block
    outside = two - 3 * hidden
    assert 0 <= outside < hidden  # the head


def test_compressed_blocks_hold_about_a_third(tiny_model, random_examples):
    model, data = warm(tiny_model()), random_examples(samples=20)
    kept, _ = saved_bytes(model, data, ("keep",) * 3)
    compressed, _ = saved_bytes(model, data, ("compress",) * 3)
    # One byte instead of four, plus a scale for every row of 8 numbers (real models have hundreds).
    assert 0.25 * kept < compressed < 0.65 * kept


@pytest.mark.parametrize("samples", [4, 5])
def test_weights_that_autocast_copies_are_never_compressed_and_activations_are(tiny_model, samples):
    model, tokens = warm(tiny_model(width=24)), np.arange(1, 7)
    weights = {tuple(p.shape): p.detach() for block in model.block_modules() for p in block.parameters()}
    data = Examples(
        Ragged.of([tokens] * samples), np.arange(samples) % 3, pad=0
    )  # 4 × 6 tokens are as many as a weight's rows
    noted = []
    model.module.train()
    parameters = model.set_trainable(model.block_of)
    batch = data.batch(np.arange(samples))
    with (
        activation_policies(model.block_modules(), ("compress",) * 3, noted.append),
        torch.autocast("cpu", torch.bfloat16),
    ):
        loss = cross_entropy(model.module(**batch.inputs).logits.float(), batch.labels)
    torch.autograd.grad(loss, parameters)
    kept = [held for held in noted if held.dtype == torch.bfloat16 and held.shape == (24, 24)]
    # Of the four of block 0 only the output: below it nothing needs a gradient.
    assert len({held.data_ptr() for held in kept}) == 9
    assert (24, 24) in weights
    compressed = {tuple(held.shape) for held in noted if held.dtype == torch.int8}
    assert (6 * samples, 24) in compressed
    assert not compressed & {(48, 24), (24, 48)}
