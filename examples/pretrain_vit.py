"""Pretrain a small vision transformer on one half of Fashion-MNIST's classes, and leave the other half for federation.

    python examples/pretrain_vit.py fashion-vit [--classes 0 2 4 6 8] [--epochs 3] [--images 12000]

Writes ``fashion-vit/model`` (transformers) and ``fashion-vit/other-classes`` (one folder of PNG files per class), which
``examples/fashion-mnist.yaml`` names. The classes in which the model is tested afterwards were never seen here.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import cross_entropy
from transformers import ViTConfig, ViTForImageClassification

from fedhello.data.dataset import DataSet, Picture
from fedhello.data.sources import load

SIDE = 28
BATCH_SIZE = 128


def main() -> None:
    """Read the arguments, pretrain, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", default="embedded:fashion-mnist")
    parser.add_argument("--classes", type=int, nargs="*", default=[0, 2, 4, 6, 8])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--images", type=int, default=12000, help="of the classes to pretrain on")
    parser.add_argument("--left", type=int, default=6000, help="images to leave of the other classes")
    arguments = parser.parse_args()
    data = load(arguments.data)
    rng = np.random.default_rng(0)
    seen = np.isin(data.labels, arguments.classes)
    chosen, left = (
        rng.permutation(np.flatnonzero(which))[:count]
        for which, count in ((seen, arguments.images), (~seen, arguments.left))
    )
    model = pretrain(data, chosen, arguments.classes, arguments.epochs, rng)
    model.save_pretrained(arguments.out / "model")
    for i in left.tolist():
        folder = arguments.out / "other-classes" / data.label_names[data.labels[i]].replace("/", "-")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(data, np.array([i]))[0]).save(folder / f"{i}.png")
    print(f"wrote {arguments.out / 'model'} and {len(left)} images of the other classes beside it")


def pretrain(
    data: DataSet, chosen: np.ndarray, classes: list[int], epochs: int, rng: np.random.Generator
) -> ViTForImageClassification:
    """Train a vision transformer from scratch, and print its accuracy on a tenth of the images that it never saw."""
    torch.manual_seed(0)
    held_out, train = np.split(chosen, [len(chosen) // 10])
    config = ViTConfig(
        image_size=SIDE, patch_size=4, num_channels=1, hidden_size=128, intermediate_size=256, num_hidden_layers=6,
        num_attention_heads=4, num_labels=len(classes), hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model = ViTForImageClassification(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    steps = epochs * -(-len(train) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=steps)
    number = {c: n for n, c in enumerate(classes)}
    for epoch in range(epochs):
        model.train()
        for x, y in batches(data, rng.permutation(train), number):
            loss = cross_entropy(model(pixel_values=x).logits, y)
            loss.backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
        print(f"epoch {epoch + 1} of {epochs}: accuracy {accuracy(model, data, held_out, number):.3f}", flush=True)
    return model


def accuracy(model: ViTForImageClassification, data: DataSet, held_out: np.ndarray, number: dict[int, int]) -> float:
    """Return the share of images that the model puts into the right class."""
    model.eval()
    with torch.inference_mode():
        right = sum(
            int((model(pixel_values=x).logits.argmax(dim=1) == y).sum()) for x, y in batches(data, held_out, number)
        )
    return right / len(held_out)


def batches(data: DataSet, order: np.ndarray, number: dict[int, int]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield images within −1 … 1, shape (b, 1, side, side), and their classes."""
    for part in np.array_split(order, -(-len(order) // BATCH_SIZE)):
        x = torch.from_numpy(pixels(data, part)).unsqueeze(1).float() / 127.5 - 1
        yield x, torch.tensor([number[c] for c in data.labels[part].tolist()])


def pixels(data: DataSet, positions: np.ndarray) -> np.ndarray:
    """Return grey images, uint8, shape (n, side, side)."""
    found = [data.inputs[i] for i in positions.tolist()]
    return np.stack([p.content for p in found if isinstance(p, Picture) and isinstance(p.content, np.ndarray)])


if __name__ == "__main__":
    main()
