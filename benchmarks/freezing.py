"""What freezing blocks saves: bytes saved for backward, peak bytes and upload, by pattern and capacity.

    python benchmarks/freezing.py [--model minilm|bert-base]

One training step per allocation through the library's own local training. ``minilm`` has its real weights and a
batch of demo headlines; ``bert-base`` has the shape of BERT-base with random weights and 16 × 64 tokens.
"""

import argparse
import json

from fedhello.allocation.geometric import PATTERNS, allocate_blocks
from fedhello.client.training import Assignment, local_training
from fedhello.data.batches import Samples
from fedhello.engine.wire import encode_update
from fedhello.model.adapter import LoraModel
from fedhello.runs.summarise import versions
from fedhello.types import Allocation, Update
from models import MODELS, SETTINGS


def main() -> None:
    """Read the arguments, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(MODELS), default="minilm")
    model, data = MODELS[parser.parse_args().model]()
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


def measure(model: LoraModel, data: Samples, blocks: tuple[int, ...]) -> dict[str, float]:
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


if __name__ == "__main__":
    main()
