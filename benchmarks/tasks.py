"""Samples (tokens) per second of whole local rounds, for each task, against a bare PyTorch loop over the same batches.

    python benchmarks/tasks.py [--repeats 5] [--only TASK]

Models have random weights of real shapes: MiniLM's for texts and pairs, ViT-S/16's for images that are decoded from PNG
files in every batch, and SmolLM2-135M's with a third of its blocks for instructions. Both ways train everything on one
client's data, from the same values and in the same order, and take turns; ``ratio`` is ours / bare, the goal is 0.90.
"""

import argparse
import io
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import cross_entropy
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM, ViTConfig
from transformers import ViTForImageClassification as Vit

from fedhello.client.training import Assignment, local_training
from fedhello.data.batches import IGNORED, Batch, Examples, Images, Samples, training_batches
from fedhello.data.dataset import Picture
from fedhello.data.pictures import DecodedLater
from fedhello.data.ragged import Ragged
from fedhello.model.adapter import LoraModel
from fedhello.model.injection import attach_lora
from fedhello.model.loading import FoundationModel
from fedhello.model.sources import Kind, ModelSource
from fedhello.randomness import generator
from fedhello.runs.summarise import versions
from models import SETTINGS

SAMPLES, BATCH_SIZE, CLASSES = 64, 16, 5


def main() -> None:
    """Read the arguments, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=TASKS)
    arguments = parser.parse_args()
    rows = []
    for name in [arguments.only] if arguments.only else TASKS:
        rows.append(measure(name, TASKS[name], arguments.repeats))
        print(json.dumps(rows[-1]), file=sys.stderr)
    result = {"benchmark": "tasks", "threads": torch.get_num_threads(), "goal": 0.9, "rows": rows}
    print(json.dumps(result | {"versions": versions()}, indent=1))


def measure(name: str, make: Callable[[], tuple[LoraModel, Samples]], repeats: int) -> dict[str, Any]:
    """Time both ways in turns."""
    model, data = make()
    adapter = model.snapshot(share_head=True)
    settings = replace(SETTINGS, batch_size=BATCH_SIZE, measure_memory=False)
    ours, bare = [], []
    for turn in range(repeats + 1):
        seconds = []
        for way in (library, loop):
            model.write(adapter.tensors)
            begin = time.perf_counter()
            way(model, data, settings)
            seconds.append(time.perf_counter() - begin)
        if turn:  # the first turn warms up
            ours.append(seconds[0])
            bare.append(seconds[1])
    tokens = int(data.lengths().sum())
    return {
        "task": name,
        "samples_per_second": SAMPLES / statistics.median(ours),
        "tokens_per_second": tokens / statistics.median(ours) if tokens > SAMPLES else None,
        "bare_samples_per_second": SAMPLES / statistics.median(bare),
        "ratio": statistics.median(b / o for b, o in zip(bare, ours, strict=True)),
    }


def library(model: LoraModel, data: Samples, settings: Any) -> None:
    """One round of one client."""
    work = Assignment(0, 0, tuple(model.block_of), data, tuple(range(CLASSES)), seed=0)
    local_training(model, work, settings)


def loop(model: LoraModel, data: Samples, settings: Any) -> None:
    """What anybody would write: the same batches, PyTorch alone."""
    parameters = model.set_trainable(model.block_of)
    optimizer = torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=settings.weight_decay)
    model.module.train()
    for positions in training_batches(data.lengths(), BATCH_SIZE, generator(0, "order", 0, 0, 0)):
        loss = bare_loss(model.module, data.batch(positions))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def bare_loss(module: Any, batch: Batch) -> torch.Tensor:
    """Return the loss as transformers' own heads take it."""
    z = module(**batch.inputs).logits
    if batch.labels.dim() == 1:
        return cross_entropy(z, batch.labels)
    return cross_entropy(z[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten(), ignore_index=IGNORED)


def texts(pairs: bool) -> tuple[LoraModel, Samples]:
    """MiniLM's shape."""
    config = BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536, num_labels=CLASSES
    )
    rng = np.random.default_rng(0)
    tokens = ragged(rng, 16, 64, 30000)
    segments = Ragged.of(np.arange(len(t)) > len(t) // 2 for t in tokens) if pairs else None
    data = Examples(tokens, np.arange(SAMPLES) % CLASSES, pad=0, segments=segments)
    return adapted(BertForSequenceClassification(config), "text-classification"), data


def pictures() -> tuple[LoraModel, Samples]:
    """ViT-S/16's shape, on PNG files of 64 × 64 pixels."""
    config = ViTConfig(hidden_size=384, num_attention_heads=6, intermediate_size=1536, num_labels=CLASSES)
    rng = np.random.default_rng(0)
    files = []
    for i in range(SAMPLES):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(file, "PNG")
        files.append(Picture(file.getvalue(), str(i)))
    pixels = DecodedLater(tuple(files), (224, 224))
    half = (0.5, 0.5, 0.5)
    return adapted(Vit(config), "image-classification"), Images(
        pixels, np.arange(SAMPLES), np.arange(SAMPLES) % CLASSES, half, half
    )


def instructions() -> tuple[LoraModel, Samples]:
    """SmolLM2-135M's shape with 10 of its 30 blocks; the last quarter of each sample is its response."""
    config = LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=10, num_attention_heads=9,
        num_key_value_heads=3, tie_word_embeddings=True, pad_token_id=0,
    )  # fmt: skip
    tokens = ragged(np.random.default_rng(0), 32, 96, 49000)
    answers = np.array([len(t) * 3 // 4 for t in tokens])
    return adapted(LlamaForCausalLM(config), "causal-lm"), Examples(
        tokens, np.zeros(SAMPLES, dtype=int), pad=0, answers=answers
    )


def ragged(rng: np.random.Generator, shortest: int, longest: int, words: int) -> Ragged:
    """Random tokens of different lengths."""
    return Ragged.of(rng.integers(1, words, n) for n in rng.integers(shortest, longest, SAMPLES))


def adapted(module: torch.nn.Module, kind: Kind) -> LoraModel:
    """Attach LoRA to a model with random weights."""
    base = FoundationModel(module, None, ModelSource("random", "random"), kind)
    classes = None if kind == "causal-lm" else CLASSES
    return attach_lora(base, num_labels=classes, rank=8, alpha=8, dropout=0.0, targets="attention-qv", seed=0)


TASKS: dict[str, Callable[[], tuple[LoraModel, Samples]]] = {
    "texts": lambda: texts(pairs=False),
    "pairs of texts": lambda: texts(pairs=True),
    "images": pictures,
    "instructions": instructions,
}


if __name__ == "__main__":
    main()
