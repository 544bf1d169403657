"""Images and pairs of texts, from the configuration to a prediction."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification

DIGITS = """
model: {name: ./seer, lora: {rank: 4, alpha: 8}}
data:
  name: embedded:digits
  samples: 600
  clients: 6
  proxy: 20
  partition: {kind: pathological, classes_per_client: 4, minimum: 4}
clients: {tiers: [{share: 1/2, blocks: 1}, {share: 1/2, blocks: 2}]}
train: {rounds: 3, clients_per_round: 3, lr: 1e-2}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("images")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = ViTConfig(
            image_size=8, patch_size=2, num_channels=1, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=64, hidden_dropout_prob=0.0,
        )  # fmt: skip
        ViTForImageClassification(config).save_pretrained(place / "seer")
    (place / "digits.yaml").write_text(DIGITS)
    return place


@pytest.fixture(scope="module")
def finished(place, call):
    code, out, err = call(place, "run", "digits.yaml", "run.name=first", "--json")
    assert code == 0, err
    return json.loads(out)


def test_prototypes_of_images_know_classes_before_training(finished):
    assert finished["model_kind"] == "image-classification"
    assert finished["start"] > 0.15  # of ten classes, with random weights
    assert 0 < finished["final_scores"]["more"]["macro_f1"] <= 1


def test_predict_reads_image_files(place, finished, call):
    names = []
    for i in range(2):
        names.append(place / f"{i}.png")
        Image.fromarray(np.full((20, 20), 80 * i, dtype=np.uint8)).save(names[-1])
    code, out, err = call(place, "predict", "runs/first", *names, "--json")
    assert code == 0, err
    rows = json.loads(out)
    assert [row["input"] for row in rows] == [str(name) for name in names]
    assert {row["label"] for row in rows} <= {str(digit) for digit in range(10)}


def test_an_image_that_is_none_is_named(place, finished, call):
    (place / "broken.png").write_bytes(b"no image")
    code, _, err = call(place, "predict", "runs/first", place / "broken.png")
    assert code == 3
    assert "broken.png" in err


def test_pairs_of_texts_are_classified_with_their_segments(workplace, call, tmp_path):
    rows = [f"{word} {i},{'a ' + other},{int(word == other)}" for i in range(15) for word in ("red", "blue")
            for other in ("red", "blue")]  # fmt: skip
    (tmp_path / "pairs.csv").write_text("\n".join(["one,two,same", *rows]) + "\n")
    overrides = [f"data.name={tmp_path / 'pairs.csv'}", "data.text=[one, two]", "data.label=same", "train.rounds=1",
                 f"run.out={tmp_path}", "run.name=pairs"]  # fmt: skip
    code, _, err = call(workplace, "run", "tiny.yaml", *overrides)
    assert code == 0, err
    code, out, err = call(workplace, "predict", tmp_path / "pairs", "red 1", "--pair", "a red", "--json")
    assert code == 0, err
    assert json.loads(out)[0]["label"] in ("0", "1")
    code, _, err = call(workplace, "predict", tmp_path / "pairs", "red " * 20, "--pair", "a red")
    assert code == 0, err
    assert "note: 1 of 1 texts were cut to data.max_length, 16 tokens\n" in err
    code, _, err = call(workplace, "predict", tmp_path / "pairs", "red 1")
    assert code == 2
    assert "1 second texts (--pair)" in err
