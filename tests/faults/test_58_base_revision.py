"""Case 58: an adapter on a base of another revision, or with other weights, is warned of: here it is refused."""

import dataclasses
import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load, save_file

from fedhello.model.saving import save_adapter

LAYER = "bert.encoder.layer.1.attention.self.query.weight"


@pytest.fixture
def finished(workplace, tmp_path, call):
    """A folder with a model of its own, and a run on it."""
    shutil.copytree(workplace / "tiny", tmp_path / "tiny")
    for name in ("texts.csv", "tiny.yaml"):
        shutil.copy(workplace / name, tmp_path)
    assert call(tmp_path, "run", "tiny.yaml", "run.name=mine", "train.rounds=1")[0] == 0
    return tmp_path


def test_nothing_uses_an_adapter_on_other_weights_of_the_same_shapes(finished, call):
    commands = [
        ("evaluate", "runs/mine"),
        ("evaluate", "runs/mine", "--data", "texts.csv", "--text", "text", "--label", "label"),
        ("predict", "runs/mine", "an apple"),
        ("export", "runs/mine", "--out", "adapter"),
        ("export", "runs/mine", "--merge", "--out", "merged"),
    ]
    weights = finished / "tiny" / "model.safetensors"
    before = weights.read_bytes()
    tensors = load(before)
    save_file(tensors | {LAYER: tensors[LAYER] * (1 + 1e-6)}, weights, {"format": "pt"})  # the next revision
    for words in commands:
        code, out, err = call(finished, *words)
        assert (code, out) == (4, ""), words
        assert re.fullmatch(r"error: expected the weights of tiny that .*mine was trained on; found others .*\n", err)
    assert not (finished / "adapter").exists() and not (finished / "merged").exists()
    weights.write_bytes(before)
    for words in commands:
        assert call(finished, *words)[0] == 0


def test_an_export_names_the_revision_of_its_base_in_its_configuration_and_its_code(tiny_model, tmp_path):
    model = tiny_model()
    commit = "0123456789abcdef"
    model.source = dataclasses.replace(model.source, base_name="some/base", revision=commit)
    save_adapter(model, tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["revision"] == commit
    assert f'from_pretrained("some/base", revision="{commit}"' in (tmp_path / "adapter" / "README.md").read_text()
    assert "revision" not in model.card("merged"), "which loads no other base"


def test_the_digest_of_a_base_differs_where_one_tensor_does(tiny_model):
    one, same, other = tiny_model(seed=3), tiny_model(seed=3), tiny_model(seed=3)
    with torch.no_grad():
        next(p for name, p in other.module.named_parameters() if "word_embeddings" in name)[-1, -1] += 1
    assert one.weights_digest() == same.weights_digest() != other.weights_digest()
