"""Case 29: a block's Fisher score of one sample is the squared norm of its gradient.

Means over samples, and the order of clusters: ``tests/client/test_fisher.py``, ``tests/allocation/test_fisher.py``.
"""

import pytest
import torch

from fedhello.client.fisher import block_scores


def test_one_sample_by_autograd(tiny_model, random_examples):
    model = tiny_model(blocks=2)
    draw = torch.Generator().manual_seed(0)
    model.write({n: torch.randn(v.shape, generator=draw) for n, v in model.snapshot(share_head=False).tensors.items()})
    sample = random_examples(samples=1)
    scores = block_scores(model, sample)
    factors = {n: p for n, p in model.module.named_parameters() if "lora_" in n}
    for p in factors.values():
        p.requires_grad_(True)
    batch = sample.batch(range(1))
    model.module.eval()
    torch.nn.functional.cross_entropy(model.module(**batch.inputs).logits, batch.labels).backward()
    for block in range(2):
        squares = [float(p.grad.square().sum()) for n, p in factors.items() if f".layer.{block}." in n]
        assert len(squares) == 4
        assert scores[block] == pytest.approx(sum(squares), rel=1e-6)
