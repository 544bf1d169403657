"""Models and batches that the benchmarks share: real MiniLM, and shapes with random weights."""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    ViTConfig,
    ViTForImageClassification,
)

from fedhello.client.settings import TrainingSettings
from fedhello.config.load import load_config
from fedhello.data.batches import Examples, Images, Samples
from fedhello.data.ragged import Ragged
from fedhello.model.adapter import LoraModel
from fedhello.model.injection import attach_lora
from fedhello.model.loading import FoundationModel
from fedhello.model.sources import IMAGES, Kind, ModelSource
from fedhello.setup.prepare import prepare

SETTINGS = TrainingSettings(
    rounds=1, epochs=1, batch_size=64, optimizer="adamw", lr=1e-3, lr_schedule="constant", lr_decay=1.0,
    weight_decay=0.0, momentum=0.0, loss="cross_entropy", autocast="none",
)  # fmt: skip

CLASSES = 5


def minilm(samples: int = 16, tokens: int | None = None) -> tuple[LoraModel, Samples]:
    """MiniLM with its real weights; headlines of about equal length, or random tokens."""
    session = prepare(load_config(None, ["train.measure_memory=false"]))
    test = session.server.test
    begin = (len(test) - samples) // 2
    headlines = test.subset(np.argsort(test.lengths(), kind="stable")[begin : begin + samples])
    return session.model, headlines if tokens is None else texts(samples, tokens)


def bert_base(samples: int = 16, tokens: int = 64, **config: object) -> tuple[LoraModel, Samples]:
    """BERT-base's shape with random weights, LoRA r 16."""
    with_head = BertConfig(num_labels=CLASSES, **config)
    return _random(BertForSequenceClassification, with_head, "bert-base shape"), texts(samples, tokens)


def vit_b16(samples: int = 8, tokens: int = 1, **config: object) -> tuple[LoraModel, Samples]:
    """ViT-B/16's shape with random weights, LoRA r 16; images of 224 × 224."""
    with_head = ViTConfig(num_labels=CLASSES, **config)
    model = _random(ViTForImageClassification, with_head, "vit-b16 shape", IMAGES)
    return model, images(samples)


def llama(samples: int = 8, tokens: int = 48, **config: object) -> tuple[LoraModel, Samples]:
    """SmolLM2-135M's widths with random weights and 12 of its 30 blocks, as a classifier, LoRA r 16."""
    shape = {
        "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 12, "num_attention_heads": 9,
        "num_key_value_heads": 3, "vocab_size": 30522, "pad_token_id": 0,
    }  # fmt: skip
    shaped = LlamaConfig(num_labels=CLASSES, **(shape | config))
    return _random(LlamaForSequenceClassification, shaped, "llama shape, 12 blocks"), texts(samples, tokens)


MODELS: dict[str, Callable[..., tuple[LoraModel, Samples]]] = {
    "minilm": minilm,
    "bert-base": bert_base,
    "vit-b16": vit_b16,
    "llama": llama,
}


def texts(samples: int, tokens: int) -> Examples:
    """Random tokens, all of one length but the last, which is a little shorter, as in real batches."""
    rng = np.random.default_rng(0)
    lengths = [tokens] * (samples - 1) + [max(1, tokens - 2)]
    return Examples(
        Ragged.of(rng.integers(1, 30000, length) for length in lengths), np.arange(samples) % CLASSES, pad=0
    )


def images(samples: int) -> Images:
    """Random images."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (samples, 3, 224, 224), dtype=np.uint8)
    return Images(pixels, np.arange(samples), np.arange(samples) % CLASSES, (0.5,) * 3, (0.5,) * 3)


def _random(kind: type[nn.Module], config: object, name: str, task: Kind = "text-classification") -> LoraModel:
    torch.manual_seed(0)
    base = FoundationModel(kind(config), None, ModelSource(name, name), task)
    return attach_lora(base, num_labels=CLASSES, rank=16, alpha=16, dropout=0.0, targets="attention-qv", seed=0)
