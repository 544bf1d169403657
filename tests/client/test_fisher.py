import numpy as np
import pytest
import torch
from torch.nn.functional import log_softmax

from fedhello.client.fisher import block_scores, squared_norms


def warm(model):
    tensors = model.snapshot(share_head=True).tensors
    generator = torch.Generator().manual_seed(1)
    model.write({name: 0.5 * torch.randn(v.shape, generator=generator) for name, v in tensors.items()})
    return model


def by_functional_jacobian(model, proxy):
    """An independent reference: one Jacobian of all samples' log-likelihoods per LoRA factor."""
    names = {n: p for n, p in model.module.named_parameters() if "lora_" in n}
    totals = np.zeros(model.blocks.count)
    model.module.eval()
    for name, parameter in names.items():
        block = int(name.split(".layer.")[1].split(".")[0])

        def likelihoods(value, name=name):
            rows = []
            for i in range(len(proxy)):
                batch = proxy.batch(np.array([i]))
                z = torch.func.functional_call(model.module, {name: value}, (), batch.inputs).logits
                rows.append(log_softmax(z, dim=1)[0, batch.labels[0]])
            return torch.stack(rows)

        jacobian = torch.autograd.functional.jacobian(likelihoods, parameter.detach())
        totals[block] += float(jacobian.double().square().sum())
    return totals / len(proxy)


def test_scores_are_the_mean_squared_gradients_of_the_log_likelihood(tiny_model, random_examples):
    model, proxy = warm(tiny_model(blocks=3)), random_examples(samples=7)
    assert block_scores(model, proxy) == pytest.approx(by_functional_jacobian(model, proxy), rel=1e-6)


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_batches_and_padding_change_nothing(tiny_model, random_examples, batch_size):
    model, proxy = warm(tiny_model()), random_examples(samples=10)
    assert len(set(proxy.lengths().tolist())) > 3
    one_by_one = [block_scores(model, proxy.subset(np.array([i])), batch_size=1) for i in range(10)]
    assert block_scores(model, proxy, batch_size) == pytest.approx(np.mean(one_by_one, axis=0), rel=1e-6)


def test_squared_norms_by_hand():
    # Sample 0: g xᵀ = [2·1 + 0·3, …] → G = [[2, 4]], ‖G‖² = 20. Sample 1: G = 1·[1, 0] + 1·[0, 1] → 2.
    x = torch.tensor([[[1.0, 2.0], [3.0, 3.0]], [[1.0, 0.0], [0.0, 1.0]]])
    g = torch.tensor([[[2.0], [0.0]], [[1.0], [1.0]]])
    assert squared_norms(x, g).tolist() == [20.0, 2.0]
    assert squared_norms(x[:, 0], g[:, 0]).tolist() == [20.0, 1.0]


def test_every_sample_counts_exactly_once(tiny_model, random_examples):
    model, proxy = warm(tiny_model()), random_examples(samples=6)
    singles = [block_scores(model, proxy.subset(np.array([i]))) for i in range(6)]
    assert block_scores(model, proxy) == pytest.approx(np.mean(singles, axis=0), rel=1e-6)


def test_scores_are_taken_in_evaluation_mode(tiny_model, random_examples):
    quiet, noisy = warm(tiny_model(dropout=0.0)), warm(tiny_model(dropout=0.5))
    noisy.module.train()
    proxy = random_examples(samples=4)
    assert block_scores(noisy, proxy) == pytest.approx(block_scores(quiet, proxy), rel=1e-6)


def test_scoring_changes_no_value_and_leaves_no_gradient(tiny_model, random_examples):
    model = warm(tiny_model())
    before = model.snapshot(share_head=True).tensors
    block_scores(model, random_examples())
    after = model.snapshot(share_head=True).tensors
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.grad is None for p in model.module.parameters())


def test_the_head_is_no_part_of_any_score(tiny_model, random_examples):
    model = warm(tiny_model())
    # With B = 0 and A = 0 no LoRA factor has a gradient, whatever the head does.
    names = [name for name, block in model.block_of.items() if block is not None]
    model.write({name: torch.zeros_like(model.read([name])[name]) for name in names})
    assert block_scores(model, random_examples()) == (0.0, 0.0, 0.0)


def test_a_model_that_shares_one_block_among_layers_has_no_scores(random_examples):
    from transformers import AlbertConfig, AlbertForSequenceClassification

    from fedhello.errors import ModelError
    from fedhello.model.injection import attach_lora
    from fedhello.model.loading import FoundationModel
    from fedhello.model.sources import ModelSource

    config = AlbertConfig(
        vocab_size=50, embedding_size=8, hidden_size=8, num_hidden_layers=3, num_attention_heads=2,
        intermediate_size=16, num_labels=3,
    )  # fmt: skip
    base = FoundationModel(AlbertForSequenceClassification(config), None, ModelSource("tiny", "tiny"))
    model = attach_lora(base, num_labels=3, rank=2, alpha=2, dropout=0.0, targets="attention-qv", seed=0)
    with pytest.raises(ModelError, match="once per forward pass"):
        block_scores(model, random_examples())
