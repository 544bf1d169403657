"""Write the pictures of five cameras, and the model that they begin with: `python make_data.py [FOLDER]`.

A plant stamps a digit on each part, and a camera on each line reads it. The pictures are scikit-learn's handwritten
digits. A vision transformer is trained on half of them as they are, as its maker would in the laboratory; the lines see
the other half as their cameras do: dim, turned, out of focus, grainy, and one as it should be. No two have the same
part.
"""

import csv
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy
from transformers import ViTConfig, ViTForImageClassification

CAMERAS = {
    "clean": lambda image, rng: image,
    "dim": lambda image, rng: 0.35 * image,
    "turned": lambda image, rng: ndimage.rotate(image, 60, reshape=False, order=1),
    "out of focus": lambda image, rng: ndimage.gaussian_filter(image, 1.0),
    "grainy": lambda image, rng: image + rng.normal(0, 60, image.shape),
}
"""What each camera makes of a picture of 8×8 pixels from 0 to 255."""

EPOCHS, BATCH_SIZE, HELD_OUT = 60, 64, 100


def main(folder: Path) -> None:
    """Train on one half, write the other half as the cameras see it."""
    torch.set_num_threads(1)  # the same sums on every machine with such a processor
    digits, rng = load_digits(), np.random.default_rng(0)
    images, labels = digits.images * (255 / 16), digits.target
    laboratory, lines = np.array_split(rng.permutation(len(labels)), 2)
    pretrain(images, labels, laboratory).save_pretrained(folder / "model")
    with (folder / "parts.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["picture", "digit", "camera"])
        for i, camera in zip(lines.tolist(), [*CAMERAS] * len(lines), strict=False):
            seen = CAMERAS[camera](images[i], rng).clip(0, 255).round().astype(np.uint8)
            name = f"pictures/{i}.png"
            (folder / name).parent.mkdir(exist_ok=True)
            Image.fromarray(seen).save(folder / name)
            writer.writerow([name, labels[i], camera])
    print(f"wrote {folder / 'model'} and {len(lines)} pictures of {len(CAMERAS)} cameras")


def pretrain(images: np.ndarray, labels: np.ndarray, chosen: np.ndarray) -> ViTForImageClassification:
    """Train a vision transformer from scratch, and print its accuracy on pictures that it never saw."""
    torch.manual_seed(0)
    model = ViTForImageClassification(
        ViTConfig(
            image_size=8, patch_size=2, num_channels=1, hidden_size=64, intermediate_size=128, num_hidden_layers=6,
            num_attention_heads=4, num_labels=10, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )
    )  # fmt: skip
    x = torch.from_numpy(images[chosen]).unsqueeze(1).float() / 127.5 - 1
    y = torch.from_numpy(labels[chosen])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    steps = EPOCHS * -(-(len(y) - HELD_OUT) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=steps)
    for _ in range(EPOCHS):
        for batch in (HELD_OUT + torch.randperm(len(y) - HELD_OUT)).split(BATCH_SIZE):
            cross_entropy(model(pixel_values=x[batch]).logits, y[batch]).backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
    with torch.inference_mode():
        right = (model(pixel_values=x[:HELD_OUT]).logits.argmax(dim=1) == y[:HELD_OUT]).float().mean()
    print(f"the laboratory's model reads {float(right):.2f} of {HELD_OUT} clean pictures right")
    return model


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "data"))
