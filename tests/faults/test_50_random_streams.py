"""No position of a random generator has to be restored: every draw comes from a stream of seed, purpose and round."""

import random

import numpy as np
import torch

# Dropout, sampling, allocation by lot, data order, Fisher scores and warm-up: all that draws is on.
WORDS = [
    "train.lr_schedule=constant", "model.lora.dropout=0.3", "method.warmup=1", "train.epochs=2", "train.batch_size=4",
    "train.measure_memory=false",
]  # fmt: skip


def adapter(folder):
    return (folder / "adapter" / "adapter_model.safetensors").read_bytes()


def test_a_run_goes_on_the_same_wherever_the_global_generators_stand(place, call):
    assert call(place, "run", "tiny.yaml", "run.name=still", "train.rounds=3", *WORDS, "--quiet")[0] == 0
    parts = [["run", "tiny.yaml", "run.name=moved", *WORDS], ["resume", "runs/moved"], ["resume", "runs/moved"]]
    for i, words in enumerate(parts):
        random.seed(17 * i)
        np.random.seed(17 * i)
        torch.manual_seed(17 * i)
        assert call(place, *words, f"train.rounds={i + 1}", "--quiet")[0] == 0
    assert adapter(place / "runs" / "moved") == adapter(place / "runs" / "still")
    assert adapter(place / "runs" / "moved") != adapter_of_another_seed(place, call)


def adapter_of_another_seed(place, call):
    words = ["run", "tiny.yaml", "run.name=other", "run.seed=1", "train.rounds=3", *WORDS]
    assert call(place, *words, "--quiet")[0] == 0
    return adapter(place / "runs" / "other")
