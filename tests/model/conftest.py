"""A language model with random weights and dialogues for it, and models saved with tokenizers."""

import copy
import importlib.util

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import (
    AutoModelForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from fedhello.data.batches import Examples
from fedhello.data.ragged import Ragged
from fedhello.model.injection import attach_lora
from fedhello.model.loading import FoundationModel
from fedhello.model.sources import ModelSource, resolve


@pytest.fixture
def speaker():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=40, hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2,
            max_position_embeddings=32, pad_token_id=0, tie_word_embeddings=True,
        )  # fmt: skip
        base = FoundationModel(LlamaForCausalLM(config), None, ModelSource("tiny", "tiny"), "causal-lm")
    model = attach_lora(base, num_labels=None, rank=2, alpha=2, dropout=0.0, targets="attention-qv", seed=0)
    values = model.snapshot(share_head=True).tensors
    generator = torch.Generator().manual_seed(1)
    model.write({name: 0.3 * torch.randn(value.shape, generator=generator) for name, value in values.items()})
    return model


@pytest.fixture
def dialogues():
    rng = np.random.default_rng(0)
    lengths = rng.integers(6, 15, 7)
    tokens = Ragged.of(rng.integers(1, 40, n) for n in lengths)
    return Examples(tokens, np.zeros(7, dtype=int), pad=0, answers=np.array([n // 2 for n in lengths]))


@pytest.fixture
def saved(tmp_path):
    """Save a model with a tokenizer; ``pad`` is its padding token."""

    def save(config, of=AutoModelForSequenceClassification, pad="<pad>", classes=2):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            config = copy.deepcopy(config)
            config.num_labels = classes
            of.from_config(config).save_pretrained(tmp_path / "model")
        words = {"<pad>": 0, "<s>": 1, "</s>": 2, **{f"w{i}": i for i in range(3, 20)}}
        tokenizer = Tokenizer(models.WordLevel(words, unk_token="w3"))
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token=pad)
        fast.save_pretrained(tmp_path / "model")
        return resolve(str(tmp_path / "model"))

    return save


@pytest.fixture
def hide(monkeypatch):
    """Let a package seem not to be installed."""

    def hidden(package):
        find = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name, *rest: None if name == package else find(name, *rest)
        )

    return hidden
