import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers.activations import ACT2FN

from fedhello.client.activations import activation_policies
from fedhello.client.frugal import Frugal
from fedhello.client.memory import StepMemory


def run(block, inputs, frugal, seed=0):
    """Return what a block returns, and the gradients of its inputs."""
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    torch.manual_seed(seed)
    if frugal:
        with Frugal(block).operations(1):
            y = block(*inputs)
    else:
        y = block(*inputs)
    g = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    return y.detach(), torch.autograd.grad(y, inputs, g)


@pytest.mark.parametrize("name", ["gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "silu", "relu", "mish"])
def test_a_derivative_is_held_as_the_nearest_of_16_levels(name):
    module = nn.Sequential(ACT2FN[name])
    x = 1.5 * torch.randn(333, 77, generator=torch.Generator().manual_seed(2)) - 0.5
    (y, (exact,)), (same, (found,)) = run(module, [x], False), run(module, [x], True)
    assert torch.allclose(y, same, atol=1e-5)
    off = (found - exact) / torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    if name == "relu":
        assert float(off.abs().max()) < 1e-6
    else:
        assert float(off.abs().max()) < 0.12
        assert 0.001 < float(off.square().mean().sqrt()) < 0.03
    assert abs(float(off.mean())) < 1e-3  # the levels favour no side


def test_half_a_byte_an_element_is_saved_and_the_module_is_as_before():
    module, x = nn.GELU(), torch.randn(40, 50, requires_grad=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        with Frugal(module).operations(1):
            module(x)
        assert [t.nbytes for t in saved] == [1000]
        with Frugal(module).operations(3000):
            module(x)
    assert saved[1].data_ptr() == x.data_ptr()  # smaller than what it is worth for
    assert "forward" not in module.__dict__


def test_a_derivative_that_is_not_a_number_leaves_the_value_to_tell():
    (y, _) = run(nn.Sequential(nn.GELU()), [torch.tensor([[float("nan"), 1.0, float("inf")]])], True)
    assert y.isnan().tolist() == [[True, False, False]]


class SiLU(nn.Module):
    """A class of the user's own, whose function has parameters."""

    def forward(self, x):
        return x * 3


@pytest.mark.parametrize("module", [nn.ReLU(inplace=True), SiLU()])
def test_what_changes_its_input_or_is_not_torchs_own_stays(module):
    assert Frugal(nn.Sequential(module)).functions == []
    assert len(Frugal(nn.Sequential(nn.ReLU())).functions) == 1


def test_attention_may_be_called_by_name():
    class Named(nn.Module):
        def forward(self, q, k, v):
            return scaled_dot_product_attention(q, key=k, value=v)

    inputs = [torch.randn(1, 2, 5, 4) for _ in range(3)]
    (y, exact), (same, found) = (run(Named(), inputs, frugal) for frugal in (False, True))
    assert torch.equal(y, same) and all(torch.allclose(a, b, atol=1e-5) for a, b in zip(exact, found, strict=True))


def norm(width=20):
    module = nn.LayerNorm(width).requires_grad_(False)
    module.weight.copy_(torch.linspace(0.1, 2, width))
    module.bias.copy_(torch.linspace(-1, 1, width))
    return module


def test_a_normalisation_is_undone_in_backward():
    x = 3 * torch.randn(4, 5, 20, generator=torch.Generator().manual_seed(3)) + 1
    (y, (exact,)), (same, (found,)) = run(norm(), [x], False), run(norm(), [x], True)
    assert torch.equal(y, same)
    assert torch.allclose(found, exact, atol=1e-5)


def test_a_normalisation_saves_what_the_next_linear_module_saves():
    x, norm_, linear, saved = torch.randn(6, 5, 20, requires_grad=True), norm(), nn.Linear(20, 3), []
    with (
        torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t),
        Frugal(norm_).operations(1),
    ):
        linear(norm_(x))
    large = {t.untyped_storage().data_ptr() for t in saved if t.numel() == x.numel()}
    assert len(large) == 1
    assert x.data_ptr() not in large


def test_a_normalisation_with_a_weight_of_zero_has_finite_gradients():
    module = norm()
    module.weight[3] = 0
    x = torch.randn(8, 20)
    (_, (exact,)), (_, (found,)) = run(module, [x], False), run(module, [x], True)
    others = torch.arange(20) != 3
    assert torch.allclose(found[:, others], exact[:, others], atol=1e-5)
    assert bool(found.isfinite().all())


class Attention(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.options = options

    def forward(self, q, k, v):
        return scaled_dot_product_attention(q, k, v, **self.options)


HIDDEN = torch.rand(3, 1, 1, 7, generator=torch.Generator().manual_seed(4)) < 0.3
HIDDEN[0] = False


@pytest.mark.parametrize("mask", [None, ~HIDDEN, torch.zeros(HIDDEN.shape).masked_fill_(HIDDEN, -1e9)])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_attention_computed_again_has_the_same_gradients(mask, dropout):
    inputs = [torch.randn(3, 2, 7, 8, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    attention = Attention(attn_mask=mask, dropout_p=dropout)
    (y, exact), (same, found) = run(attention, inputs, False), run(attention, inputs, True)
    assert torch.allclose(y, same, atol=1e-6)
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(exact, found, strict=True))


@pytest.mark.parametrize("options", [{"is_causal": True}, {"enable_gqa": True, "scale": 0.3}])
def test_other_attention_too(options):
    inputs = [torch.randn(3, heads, 7, 8, generator=torch.Generator().manual_seed(heads)) for heads in (4, 2, 2)]
    inputs = inputs if "enable_gqa" in options else [inputs[0]] * 3
    (y, exact), (same, found) = (run(Attention(**options), inputs, frugal) for frugal in (False, True))
    assert torch.equal(y, same)
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(exact, found, strict=True))


def test_probabilities_are_not_saved(tiny_model, random_examples):
    """What remains of a long text's T² probabilities is the mask: a bit each."""
    model, data = tiny_model(dropout=0.2, width=8), random_examples(samples=40)
    batch, T = data.batch(np.arange(40)), int(data.lengths().max())
    model.set_trainable(model.block_of)
    model.module.train()
    sizes = []

    def saved(policy):
        memory = StepMemory(model.module.parameters())

        def note(x):
            sizes.append((policy, x.dtype, x.nbytes))
            return memory.note(x)

        with activation_policies(model.block_modules(), (policy,) * 3, note), memory:
            model.module(**batch.inputs).logits.sum().backward()
        return memory.saved_bytes

    assert saved("compress") < 0.3 * saved("keep")
    probabilities = 40 * 2 * T * T
    assert ("compress", torch.uint8, probabilities // 8) in sizes
    assert max(size for policy, _, size in sizes if policy == "compress") < probabilities
