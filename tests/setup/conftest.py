"""What tests of images share."""

import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification

DIGITS = """
model: {name: ./seer, lora: {rank: 4, alpha: 8}}
data:
  name: embedded:digits
  samples: 600
  clients: 6
  proxy: 20
  partition: {kind: pathological, classes_per_client: 4, minimum: 4}
clients: {tiers: [{share: 1/2, blocks: 1}, {share: 1/2, blocks: 2}]}
train: {rounds: 3, clients_per_round: 3, lr: 1e-2}
"""


@pytest.fixture(scope="module")
def digits_place(tmp_path_factory):
    """A folder with a tiny vision transformer and the configuration of a federation on digits."""
    place = tmp_path_factory.mktemp("images")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = ViTConfig(
            image_size=8, patch_size=2, num_channels=1, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=64, hidden_dropout_prob=0.0,
        )  # fmt: skip
        ViTForImageClassification(config).save_pretrained(place / "seer")
    (place / "digits.yaml").write_text(DIGITS)
    return place
