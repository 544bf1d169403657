import pytest
import torch

from fedhello.client.loss import tail_products
from fedhello.client.settings import TrainingSettings
from fedhello.client.training import Assignment, local_training
from fedhello.factors import tail_regulariser
from fedhello.methods import METHODS
from fedhello.types import LORA_B, Allocation

SHAPES = [(8, 5, 7), (4, 6, 6), (1, 3, 3)]


def factors(seed=0):
    rng = torch.Generator().manual_seed(seed)
    return [
        tuple(
            torch.randn(*shape, generator=rng, dtype=torch.float64).requires_grad_()
            for shape in ((r, d_in), (d_out, r))
        )
        for r, d_out, d_in in SHAPES
    ]


@pytest.mark.parametrize(("shrink", "starts"), [(0.99, (7, 3, 1)), (0.5, (4, 2, 1)), (0.1, (1, 1, 1))])
def test_the_regulariser_and_its_gradient_are_those_of_the_formula(shrink, starts):
    """Σ ‖B[:, ⌊γr⌋:]‖_F ‖A[⌊γr⌋:, :]‖_F, entry by entry."""
    pairs = factors()
    expected = 0.0
    for (A, B), start in zip(pairs, starts, strict=True):
        if start < len(A):
            b = torch.stack([B[i, j] ** 2 for i in range(B.shape[0]) for j in range(start, B.shape[1])]).sum().sqrt()
            a = torch.stack([A[i, j] ** 2 for i in range(start, A.shape[0]) for j in range(A.shape[1])]).sum().sqrt()
            expected = expected + b * a
    found = tail_products(pairs, shrink)
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    inputs = [x for pair in pairs for x in pair]
    slopes = torch.autograd.grad(found, inputs, allow_unused=True)
    for one, other in zip(slopes, torch.autograd.grad(expected, inputs, allow_unused=True), strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.allclose(one, other)


def test_where_B_is_zero_nothing_is_infinite():
    A, B = torch.randn(4, 5, requires_grad=True), torch.zeros(6, 4, requires_grad=True)
    found = tail_products([(A, B)], 0.5)
    assert float(found.detach()) == 0
    slopes = torch.autograd.grad(found, (A, B))
    assert all(torch.equal(slope, torch.zeros_like(slope)) for slope in slopes)


def test_the_methods_options_reach_local_training():
    bound = METHODS["hetlora"].bind(penalty=0.3, shrink=0.5, rank_min=3)
    assert bound.local == tail_regulariser(penalty=0.3, shrink=0.5, rank_min=3)
    assert bound.local == {"tail_penalty": 0.3, "tail_from": 0.5, "tail_least": 3}


def test_a_step_follows_the_regularisers_gradient(tiny_model, random_examples):
    """One step of SGD: with the regulariser, tails move by −η λ times its gradient more; the rest moves alike."""
    rng, penalty, lr = torch.Generator().manual_seed(0), 0.7, 0.1

    def trained(tail_penalty):
        model = tiny_model(blocks=2)
        start = model.snapshot(share_head=True)
        values = {n: 0.3 * torch.randn(v.shape, generator=rng.manual_seed(0)) for n, v in start.tensors.items()}
        model.write(values)
        names = start.names(Allocation((1,)))
        settings = TrainingSettings(
            rounds=1, epochs=1, batch_size=12, optimizer="sgd", lr=lr, lr_schedule="constant", lr_decay=1.0,
            weight_decay=0.0, momentum=0.0, loss="cross_entropy", autocast="none", tail_penalty=tail_penalty,
            tail_from=0.5,
        )  # fmt: skip
        work = Assignment(0, 0, names, random_examples(), (0, 1, 2), seed=0)
        after, metrics = local_training(model, work, settings)
        return values, after, metrics["loss"]

    values, plain, loss = trained(0.0)
    _, tailed, same_loss = trained(penalty)
    assert loss == same_loss  # what is reported is the loss on the data
    for name, after in plain.items():
        shift = torch.zeros_like(after)
        if name.endswith("weight") and ".lora_" in name:
            is_B = name.endswith(LORA_B)
            other = values[name.replace("lora_B", "lora_A") if is_B else name.replace("lora_A", "lora_B")]
            x, y = (values[name][:, 1:], other[1:]) if is_B else (values[name][1:], other[:, 1:])
            slope = x / x.norm() * y.norm()
            shift[(slice(None), slice(1, None)) if is_B else (slice(1, None),)] = -lr * penalty * slope
        assert torch.allclose(tailed[name] - after, shift, atol=1e-6)
