"""Small models and federations that every test can afford."""

import os
from collections.abc import Callable

import numpy as np
import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["FEDHELLO_CACHE"] = ""

from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForSequenceClassification

from fedhello.data.batches import Examples
from fedhello.model.adapter import LoraModel, attach_lora
from fedhello.model.loading import FoundationModel, ModelSource
from fedhello.types import Budget, Client, Federation


@pytest.fixture
def tiny_model() -> Callable[..., LoraModel]:
    """A BERT classifier with random weights: L blocks of width 8, C classes, LoRA of rank 2."""

    def build(
        blocks: int = 3,
        classes: int = 3,
        dropout: float = 0.0,
        seed: int = 0,
        width: int = 8,
        attention: str = "sdpa",
    ) -> LoraModel:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            config = BertConfig(
                vocab_size=50,
                hidden_size=width,
                num_hidden_layers=blocks,
                num_attention_heads=2,
                intermediate_size=2 * width,
                max_position_embeddings=32,
                hidden_dropout_prob=dropout,
                attention_probs_dropout_prob=dropout,
                num_labels=classes,
                attn_implementation=attention,
            )
            base = FoundationModel(BertForSequenceClassification(config), None, ModelSource("tiny", "tiny"))
        return attach_lora(base, classes=classes, rank=2, alpha=2, dropout=0.0, targets="attention-qv", seed=seed)

    return build


@pytest.fixture
def tiny_decoder() -> Callable[..., LoraModel]:
    """A Llama classifier with random weights: L blocks, heads that share keys in pairs, LoRA of rank 2."""

    def build(blocks: int = 3, attention: str = "sdpa", width: int = 16) -> LoraModel:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            config = LlamaConfig(
                vocab_size=50,
                hidden_size=width,
                num_hidden_layers=blocks,
                num_attention_heads=4,
                num_key_value_heads=2,
                intermediate_size=2 * width,
                max_position_embeddings=64,
                pad_token_id=0,
                num_labels=3,
                attn_implementation=attention,
            )
            base = FoundationModel(LlamaForSequenceClassification(config), None, ModelSource("tiny", "tiny"))
        return attach_lora(base, classes=3, rank=2, alpha=2, dropout=0.0, targets="attention-qv", seed=0)

    return build


@pytest.fixture
def random_examples() -> Callable[..., Examples]:
    """Random token sequences of 3 to 9 tokens with random labels."""

    def build(samples: int = 12, classes: int = 3, seed: int = 0) -> Examples:
        rng = np.random.default_rng(seed)
        tokens = tuple(rng.integers(1, 50, size=rng.integers(3, 10)) for _ in range(samples))
        return Examples(tokens, rng.integers(classes, size=samples), pad=0)

    return build


@pytest.fixture
def federation() -> Callable[..., Federation]:
    """One client per capacity given, each its own tier unless capacities repeat."""

    def build(capacities: list[int], blocks: int, clients_per_round: int | None = None, seed: int = 0) -> Federation:
        tiers = sorted(set(capacities))
        clients = tuple(
            Client(k, tiers.index(c), Budget(c), samples=10 + k, classes=(0, 1)) for k, c in enumerate(capacities)
        )
        return Federation(clients, tuple(Budget(c) for c in tiers), blocks, clients_per_round or len(clients), seed)

    return build
