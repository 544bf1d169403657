"""What freezing blocks saves: bytes saved for backward, peak bytes and upload, by pattern and capacity.

    python benchmarks/freezing.py [--model minilm|bert-base]

One training step per allocation through the library's own local training. ``minilm`` has its real weights and a
batch of demo headlines; ``bert-base`` has the shape of BERT-base with random weights and 16 × 64 tokens.
"""

import argparse
import json

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification

from fedhello.allocation.geometric import PATTERNS, allocate_blocks
from fedhello.client.training import Assignment, TrainingSettings, local_training
from fedhello.data.batches import Examples
from fedhello.engine.wire import encode_update
from fedhello.model.adapter import LoraModel, attach_lora
from fedhello.model.loading import FoundationModel, ModelSource
from fedhello.run.config import load_config
from fedhello.run.session import prepare
from fedhello.run.summary import versions
from fedhello.types import Allocation, Update

SETTINGS = TrainingSettings(
    rounds=1, epochs=1, batch_size=16, optimizer="adamw", lr=1e-3, lr_schedule="constant", lr_decay=1.0,
    weight_decay=0.0, momentum=0.0, loss="cross_entropy", autocast="none",
)  # fmt: skip


def main() -> None:
    """Read the arguments, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["minilm", "bert-base"], default="minilm")
    model, data = {"minilm": minilm, "bert-base": bert_base}[parser.parse_args().model]()
    L = model.blocks.count

    full = measure(model, data, tuple(range(L)))
    rows = []
    for pattern in PATTERNS:
        for c in range(L + 1):
            row = measure(model, data, allocate_blocks(pattern, c, L))
            rows.append(
                {"pattern": pattern, "capacity": c, "saved_ratio": row["saved_bytes"] / full["saved_bytes"], **row}
            )
    inverted = [row for row in rows if row["pattern"] == "inverted_triangle"]
    print(
        json.dumps(
            {
                "benchmark": "freezing",
                "model": model.source.base_name,
                "blocks": L,
                "worst_inverted_excess": max(row["saved_ratio"] - row["capacity"] / L for row in inverted),
                "goal_inverted_excess": 0.02,
                "worst_upload_overhead": max(row["upload_overhead"] for row in rows if row["capacity"]),
                "worst_upload_overhead_head_only": max(row["upload_overhead"] for row in rows),
                "goal_upload_overhead": 0.02,
                "rows": rows,
                "versions": versions(),
            },
            indent=2,
        )
    )


def measure(model: LoraModel, data: Examples, blocks: tuple[int, ...]) -> dict[str, float]:
    """Train one step under an allocation, from the same values each time, and return what it took."""
    adapter = model.snapshot(share_head=True)
    names = adapter.names(Allocation(blocks))
    values, metrics = local_training(model, Assignment(0, 0, names, data, (0, 1), seed=0), SETTINGS)
    model.write(adapter.tensors)
    tensor_bytes = sum(value.numel() * value.element_size() for value in values.values())
    sent = len(encode_update(Update(0, 0, len(data), values, metrics)))
    return {
        "saved_bytes": metrics["saved_bytes"],
        "peak_bytes": metrics["peak_bytes"],
        "upload_bytes": sent,
        "tensor_bytes": tensor_bytes,
        "upload_overhead": sent / tensor_bytes - 1,
    }


def minilm() -> tuple[LoraModel, Examples]:
    """MiniLM and 16 headlines of about equal length."""
    session = prepare(load_config(None))
    test = session.server.test
    return session.model, test.subset(np.argsort(test.lengths(), kind="stable")[200:216])


def bert_base() -> tuple[LoraModel, Examples]:
    """BERT-base's shape with random weights, LoRA r 16, 16 samples of 64 tokens."""
    torch.manual_seed(0)
    base = FoundationModel(
        BertForSequenceClassification(BertConfig(num_labels=5)), None, ModelSource("bert-base shape", "bert-base shape")
    )
    model = attach_lora(base, classes=5, rank=16, alpha=16, dropout=0.0, targets="attention-qv", seed=0)
    rng = np.random.default_rng(0)
    return model, Examples(tuple(rng.integers(1, 30000, 64) for _ in range(16)), rng.integers(5, size=16), pad=0)


if __name__ == "__main__":
    main()
