import pytest
import torch
from torch import nn
from transformers import BartConfig, BertConfig, LlamaConfig, LlamaForCausalLM

from fedhello.errors import ModelError
from fedhello.model.blocks import Blocks
from fedhello.model.probe import (
    check_output_layer,
    ended,
    keep_statistics,
    made_up_inputs,
    probe,
    tried,
    without_cache,
)

SMALL = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 8}


class Twofold(nn.Linear):
    """A router: it returns several tensors."""

    def forward(self, x):
        return super().forward(x), x


class Grouped(nn.Linear):
    """Halves of its input, each with a half of its weight."""

    def forward(self, x):
        return x.unflatten(-1, (2, 4)) @ self.weight.unflatten(0, (2, 1)).flatten(1).T


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.called, self.router, self.read = nn.Linear(4, 4), Twofold(4, 4), nn.Linear(4, 4)
        self.grouped = Grouped(4, 2)

    def forward(self, x):
        self.grouped(x.repeat(1, 2))
        return self.router(self.called(x))[0] @ self.read.weight


class Odd(nn.Module):
    """Its blocks are called in another order than they are listed, and one of them for nothing."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(Block() for _ in range(3))

    def forward(self, x):
        self.layers[1](x)
        return {"logits": self.layers[0](self.layers[2](x))}


def test_blocks_that_matter_are_found_in_the_order_of_their_calls():
    model = Odd().train()
    model.layers[0].called.weight.requires_grad_(False)
    calls = probe(model, Blocks(("layers.0", "layers.1", "layers.2")), {"x": torch.ones(2, 4)})
    assert calls.blocks.paths == ("layers.2", "layers.0")
    assert calls.returning_tensors == {"layers.2", "layers.0"}
    assert calls.linear == {f"layers.{l}.called" for l in range(3)}  # no router, and no weight that is read directly
    assert model.training and not model.layers[0].called.weight.requires_grad
    assert all(weight.requires_grad for weight in model.layers[1].parameters())
    assert all(not part._forward_hooks and not part._forward_pre_hooks for part in model.modules())


def test_a_model_that_does_not_run_is_one_sentence():
    model, before = Odd(), torch.get_rng_state()
    with pytest.raises(ModelError, match=r"runs on x and y alone; Odd raises TypeError: .*'y'\. docs/reference/arch"):
        tried(model, {"x": torch.ones(2, 4), "y": torch.ones(2)})
    with pytest.raises(ModelError, match=r"depends on its blocks; that of Odd depends on none of layers"):
        probe(model, Blocks(("layers.1",)), {"x": torch.ones(2, 4)})
    assert torch.equal(torch.get_rng_state(), before)


def test_the_last_token_of_a_text_for_an_encoder_decoder_ends_it():
    ids, mask = torch.full((2, 4), 3), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    assert ended(BartConfig(eos_token_id=2), ids, mask).tolist() == [[3, 3, 3, 2], [3, 2, 3, 3]]
    assert ended(BertConfig(), ids, mask) is ids


def test_an_output_layer_makes_the_logits_of_each_token():
    model = LlamaForCausalLM(LlamaConfig(**SMALL, bos_token_id=1, eos_token_id=2))
    inputs = made_up_inputs(model, None)
    check_output_layer(model, inputs)
    model.get_output_embeddings = lambda: None
    with pytest.raises(ModelError, match="whose output layer computes the logits of each token once; LlamaForCausalLM"):
        check_output_layer(model, inputs)


def test_caches_are_switched_off_wherever_they_are_configured():
    model = LlamaForCausalLM(LlamaConfig(**SMALL, bos_token_id=1, eos_token_id=2))
    model.model.config = LlamaConfig(**SMALL)  # as the decoder of an encoder-decoder has one of its own
    used = without_cache(model)
    assert [value for _, value in used] == [True, True]
    assert not model.config.use_cache and not model.model.config.use_cache
    assert [value for _, value in without_cache(model)] == [False, False]


def test_statistics_of_batches_stay_as_they_are():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout())
    before = model[1].running_mean.clone()
    keep_statistics(model)
    model.train()
    model(torch.randn(8, 3, generator=torch.Generator().manual_seed(0)) + 5)
    assert torch.equal(model[1].running_mean, before)
    assert model[2].training
