"""What cannot share a pass with others is refused."""

import pytest
import torch

import fedhello as fh
from fedhello.config.load import load_config
from fedhello.errors import ConfigError
from fedhello.setup import together

RANKS = "clients.tiers=[{share: 1/2, rank: 2}, {share: 1/2, rank: 4}]"
USUAL = ["train.rounds=2", "train.clients_per_round=4", "train.quorum=0.3", "train.measure_memory=false"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["clients.tiers=[{share: 1, memory: 1 GB}]", "train.measure_memory=true"], "a tier states memory"),
        (["clients.tiers=[{share: 1, blocks: 1, cache: 1 MB}]"], "a tier has a cache"),
        (["method.name=hetlora", RANKS], "hetlora's penalty"),
        (["method.name=full", "train.activations=forward"], "train.activations=forward"),
        (["method.name=rgd-hla", "privacy.epsilon=8", "train.sampling=poisson"], "privacy.epsilon bounds"),
    ],
)
def test_what_cannot_share_a_pass_is_refused(place, words, reason):
    with pytest.raises(ConfigError, match=rf"expected run\.engine=local, since .*{reason}.*; found batched\."):
        fh.prepare(load_config(place / "tiny.yaml", [*USUAL, "run.engine=batched", *words]))


def test_a_model_that_mixes_its_rows_is_recognised(tiny_model, random_examples):
    model = tiny_model()
    assert together.mixed_up(model, random_examples()) is None
    before, base = model.snapshot(share_head=True).tensors, model.base
    encoder = base.bert.encoder if hasattr(base, "bert") else base.encoder
    encoder.register_forward_pre_hook(lambda module, inputs: (inputs[0].flip(0), *inputs[1:]))
    assert "mixes them" in together.mixed_up(model, random_examples())
    after = model.snapshot(share_head=True).tensors
    assert all(torch.equal(before[name], after[name]) for name in before)
