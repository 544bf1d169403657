"""Predicted over measured bytes of a training step, saved ones and their peak, for every supported architecture.

    python benchmarks/memory_prediction.py [--model NAME …] [--dtype float32 bfloat16] [--batches 1 4 16]
                                           [--lengths 5 20 100 256] [--rules keep recompute] [--frozen-head]

Models have random weights, 4 blocks of width 256 (ALBERT's is one, run 4 times), LoRA r 8 on the attention, and 256
positions. Each is calibrated once per number type, as at a run's start, without one of its blocks. Each case is a round
of two steps of the library's own local training on random texts of one length, but for the last, which is 2 tokens
shorter. All blocks train; of batches of up to 1,000 tokens also the first, the second and the last, the upper half, the
last, and the head alone. Language models learn responses of half the length. Images have one size, so there is one
length.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import transformers as t

from fedhello.allocation.needs import needs
from fedhello.allocation.planner import OPTIONS, fixed_policies
from fedhello.client.calibration import calibrate, check_calibrated, with_optimizer
from fedhello.client.settings import TrainingSettings
from fedhello.client.training import Assignment, local_training
from fedhello.costs import KEEP, ActivationRule
from fedhello.data.batches import Examples, Images, Samples
from fedhello.data.ragged import Ragged
from fedhello.errors import FedhelloError
from fedhello.model.adapter import LoraModel
from fedhello.model.injection import attach_lora
from fedhello.model.loading import FoundationModel
from fedhello.model.pooling import fresh_head
from fedhello.model.sources import ModelSource
from fedhello.runs.summarise import versions
from fedhello.types import Allocation

CLASSES, WORDS, WIDTH, BLOCKS, HEADS, POSITIONS, PIXELS = 4, 4000, 256, 4, 4, 256, 64
LENGTHS, BATCHES, DTYPES = (5, 20, 100, POSITIONS), (1, 4, 16), ("float32", "bfloat16")
SETTINGS = TrainingSettings(
    rounds=1, epochs=2, batch_size=64, optimizer="adamw", lr=1e-3, lr_schedule="constant", lr_decay=1.0,
    weight_decay=0.0, momentum=0.0, loss="cross_entropy", autocast="none",
)  # fmt: skip

ENCODER = {
    "vocab_size": WORDS, "hidden_size": WIDTH, "num_hidden_layers": BLOCKS, "num_attention_heads": HEADS,
    "intermediate_size": 4 * WIDTH, "max_position_embeddings": POSITIONS,
}  # fmt: skip
DECODER = {**ENCODER, "num_key_value_heads": 2, "intermediate_size": 3 * WIDTH, "pad_token_id": 0}
PICTURE = {
    "hidden_size": WIDTH, "num_hidden_layers": BLOCKS, "num_attention_heads": HEADS, "intermediate_size": 4 * WIDTH,
    "image_size": PIXELS, "patch_size": 8,
}  # fmt: skip
DEBERTA = {**ENCODER, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "max_relative_positions": -1}
DEBERTA_V3 = {
    **DEBERTA, "position_buckets": 128, "share_att_key": True, "norm_rel_ebd": "layer_norm",
    "position_biased_input": False, "pooler_hidden_size": WIDTH,
}  # fmt: skip
GPT2 = {
    "vocab_size": WORDS, "n_embd": WIDTH, "n_layer": BLOCKS, "n_head": HEADS, "n_positions": POSITIONS,
    "pad_token_id": 0,
}  # fmt: skip
OPT = {
    "vocab_size": WORDS, "hidden_size": WIDTH, "num_hidden_layers": BLOCKS, "num_attention_heads": HEADS,
    "ffn_dim": 4 * WIDTH, "max_position_embeddings": POSITIONS, "word_embed_proj_dim": WIDTH, "pad_token_id": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Architecture:
    """How a model of an architecture is made.

    Attributes:
        kind: Class of its configuration.
        shape: The configuration's options.
        task: What it learns.
        lora: Options of the adapter that differ.
        pooling: How features are pooled, if not by the model itself.
    """

    kind: Callable[..., Any]
    shape: dict[str, Any]
    task: str = "text-classification"
    lora: dict[str, Any] = field(default_factory=dict)
    pooling: str = ""


ALL = {"targets": "attention"}
MODELS = {
    "bert": Architecture(t.BertConfig, ENCODER),
    "bert, eager": Architecture(t.BertConfig, {**ENCODER, "attn_implementation": "eager"}),
    "bert, mean pooling": Architecture(t.BertConfig, ENCODER, pooling="mean"),
    "roberta": Architecture(t.RobertaConfig, {**ENCODER, "max_position_embeddings": POSITIONS + 2, "pad_token_id": 1}),
    "distilbert": Architecture(
        t.DistilBertConfig,
        {"vocab_size": WORDS, "dim": WIDTH, "n_layers": BLOCKS, "n_heads": HEADS, "hidden_dim": 4 * WIDTH},
    ),
    "albert": Architecture(t.AlbertConfig, {**ENCODER, "embedding_size": 128}),
    "deberta-v2": Architecture(t.DebertaV2Config, DEBERTA),
    "deberta-v3": Architecture(t.DebertaV2Config, DEBERTA_V3),
    "bert, 12 blocks": Architecture(t.BertConfig, {**ENCODER, "num_hidden_layers": 12}),
    "deberta-v3, 12 blocks": Architecture(t.DebertaV2Config, {**DEBERTA_V3, "num_hidden_layers": 12}),
    "gpt2": Architecture(t.GPT2Config, GPT2, lora=ALL),
    "llama": Architecture(t.LlamaConfig, DECODER),
    "qwen2": Architecture(t.Qwen2Config, DECODER),
    "qwen3": Architecture(t.Qwen3Config, {**DECODER, "head_dim": 64}),
    "mistral": Architecture(t.MistralConfig, {**DECODER, "sliding_window": 128}),
    "opt": Architecture(t.OPTConfig, OPT),
    "vit": Architecture(t.ViTConfig, PICTURE, "image-classification"),
    "deit": Architecture(t.DeiTConfig, PICTURE, "image-classification"),
    "dinov2": Architecture(t.Dinov2Config, PICTURE, "image-classification"),
    "gpt2, language": Architecture(t.GPT2Config, GPT2, "causal-lm", ALL),
    "llama, language": Architecture(t.LlamaConfig, DECODER, "causal-lm"),
    "qwen2, language": Architecture(t.Qwen2Config, {**DECODER, "tie_word_embeddings": True}, "causal-lm"),
    "qwen3, language": Architecture(t.Qwen3Config, {**DECODER, "head_dim": 64}, "causal-lm"),
    "mistral, language": Architecture(t.MistralConfig, {**DECODER, "sliding_window": None}, "causal-lm"),
    "opt, language": Architecture(t.OPTConfig, OPT, "causal-lm"),
    "bert, dora": Architecture(t.BertConfig, ENCODER, lora={"dora": True}),
    "llama, dora": Architecture(t.LlamaConfig, DECODER, lora={"dora": True, "targets": "all-linear"}),
    "bert, rslora": Architecture(t.BertConfig, ENCODER, lora={"rslora": True, "targets": "all-linear", "dropout": 0.1}),
}

AUTO = {
    "text-classification": t.AutoModelForSequenceClassification,
    "image-classification": t.AutoModelForImageClassification,
    "causal-lm": t.AutoModelForCausalLM,
}


def build(name: str) -> LoraModel:
    """Return a model with random weights and its adapter."""
    made = MODELS[name]
    torch.manual_seed(0)
    config = made.kind(**made.shape, num_labels=CLASSES, architectures=[])
    classes = None if made.task == "causal-lm" else CLASSES
    module = (t.AutoModel if made.pooling else AUTO[made.task]).from_config(config)
    base = FoundationModel(module, None, ModelSource(name, name), made.task)
    if made.pooling:
        base = base.with_head(made.pooling, fresh_head(config, CLASSES))
    options = {"rank": 8, "alpha": 8, "dropout": 0.0, "targets": "attention-qv", "seed": 0, **made.lora}
    return attach_lora(base, num_labels=classes, **options)


def samples(model: LoraModel, count: int, tokens: int) -> Samples:
    """Return random samples of one length but for the last one."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % CLASSES
    if model.takes_images:
        pixels = rng.integers(0, 256, (count, 3, PIXELS, PIXELS), dtype=np.uint8)
        return Images(pixels, np.arange(count), labels, (0.5,) * 3, (0.5,) * 3)
    lengths = [tokens] * max(1, count - 1) + [max(3, tokens - 2)] * (count > 1)
    answers = np.array([max(1, n // 2) for n in lengths]) if model.kind == "causal-lm" else None
    return Examples(Ragged.of(rng.integers(2, WORDS, n) for n in lengths), labels, pad=0, answers=answers)


def compare(
    name: str,
    dtype: str,
    batches: Sequence[int] = BATCHES,
    lengths: Sequence[int] = LENGTHS,
    rules: Sequence[ActivationRule] = ("keep",),
    train_head: bool = True,
) -> list[dict[str, Any]]:
    """Return a row for each case of one architecture in one number type."""
    model = build(name)
    L, adapter = model.blocks.count, model.snapshot(share_head=train_head)
    settings = replace(SETTINGS, autocast="bfloat16" if dtype == "bfloat16" else "none")
    answer = max(lengths) // 2 if model.kind == "causal-lm" else None
    begin = time.process_time()
    policies = sorted({KEEP, *(policy for rule in rules for options in OPTIONS[rule].values() for policy in options)})
    costs = calibrate(model, dtype == "bfloat16", policies, answer, train_head)
    seconds = time.process_time() - begin
    costs = with_optimizer(costs, model, settings, train_head)
    check_calibrated(costs, model)
    costs = costs if train_head else replace(costs, head_bytes=0)
    parts = (0,), tuple(sorted({L // 4, L - 1})), tuple(range(L // 2, L)), (L - 1,), ()
    rows = []
    for tokens in (1,) if model.takes_images else lengths:
        for count in batches:
            data = samples(model, count, tokens)
            for rule in rules:
                large = count * tokens > 1000
                for blocks in dict.fromkeys((tuple(range(L)), *(() if large else parts))):
                    if not blocks and not (model.head_names and train_head):
                        continue
                    allocation = Allocation(blocks, fixed_policies(rule, blocks, L))
                    names = adapter.names(allocation)
                    work = Assignment(0, 0, names, data, tuple(range(CLASSES)), seed=0, policies=allocation.policies)
                    _, found = local_training(model, work, settings)
                    model.write(adapter.tensors)
                    labels = [int(found["widest_labels"])] if "widest_labels" in found else []
                    predicted = needs(costs.at((count, tokens, *labels)), allocation)
                    rows.append(
                        {
                            "model": name, "dtype": dtype, "samples": count, "tokens": tokens, "rule": rule,
                            "blocks": blocks, "predicted": predicted.peak_bytes, "measured": found["peak_bytes"],
                            "ratio": predicted.peak_bytes / found["peak_bytes"],
                            "saved_ratio": predicted.saved_bytes / found["saved_bytes"],
                            "calibration_seconds": seconds, "error": costs.error,
                        }
                    )  # fmt: skip
    return rows


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the extremes of the rows of one architecture in one number type, and the cases that they are of."""
    low, high = (pick(rows, key=lambda row: row["ratio"]) for pick in (min, max))
    saved = [row["saved_ratio"] for row in rows]
    case = ("samples", "tokens", "rule", "blocks")
    return {
        "model": low["model"], "dtype": low["dtype"], "cases": len(rows),
        "lowest": low["ratio"], "lowest_in": {key: low[key] for key in case},
        "highest": high["ratio"], "highest_in": {key: high[key] for key in case},
        "saved_lowest": min(saved), "saved_highest": max(saved),
        "calibration_seconds": low["calibration_seconds"], "error_of_calibration": low["error"],
    }  # fmt: skip


def main() -> None:
    """Read the arguments, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="*", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--dtype", nargs="*", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--batches", nargs="*", type=int, default=list(BATCHES))
    parser.add_argument("--lengths", nargs="*", type=int, default=list(LENGTHS))
    parser.add_argument("--rules", nargs="*", default=["keep"])
    parser.add_argument("--frozen-head", action="store_true")
    arguments = parser.parse_args()
    found, refused = [], {}
    for name in arguments.model:
        for dtype in arguments.dtype:
            try:
                rows = compare(
                    name, dtype, arguments.batches, arguments.lengths, arguments.rules, not arguments.frozen_head
                )
            except FedhelloError as error:
                refused[f"{name}, {dtype}"] = str(error)
                print(f"{name}, {dtype}: refused: {error}", file=sys.stderr, flush=True)
                continue
            found.append(summary(rows))
            print(json.dumps(found[-1]), file=sys.stderr, flush=True)
    result = {
        "benchmark": "memory_prediction",
        "arguments": vars(arguments),
        "cases": sum(row["cases"] for row in found),
        "lowest": min((row["lowest"] for row in found), default=None),
        "highest": max((row["highest"] for row in found), default=None),
        "goal": [0.98, 1.10],
        "saved_lowest": min((row["saved_lowest"] for row in found), default=None),
        "saved_highest": max((row["saved_highest"] for row in found), default=None),
        "refused": refused,
        "rows": found,
        "versions": versions(),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
