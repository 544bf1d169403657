"""Models with other weights and factors than the default's, from a configuration to a run."""

import json

import pytest
import torch

from fedhello.config.load import load_config
from fedhello.config.settings import model_settings
from fedhello.errors import ConfigError
from fedhello.setup.model import choose_device, load_model
from fedhello.setup.prepare import prepare

PARTS = "clients.tiers=[{share: 1/2, blocks: 1, rank: 2}, {share: 1/2, blocks: 3, rank: 4}]"


@pytest.mark.parametrize("name", ["fedit", "rbla", "legend", "rolora", "ffa-lora"])
def test_magnitudes_need_whole_factors(workplace, monkeypatch, name):
    monkeypatch.chdir(workplace)
    with pytest.raises(ConfigError, match=f"under {name} a client trains a part of the factors"):
        prepare(load_config(workplace / "tiny.yaml", ["model.lora.dora=true", f"method.name={name}", PARTS]))


@pytest.mark.parametrize(
    "options",
    [
        ("model.lora.dora=true", "method.name=rgd-hla"),
        ("model.lora.dora=true", "method.name=fedra", "model.lora.targets=all-linear"),
        ("model.lora.rslora=true", "method.name=flora", PARTS),
        ("model.dtype=bfloat16", "model.lora.targets=attention"),
    ],
    ids=["dora", "dora, sub-models", "rslora, merged", "bfloat16"],
)
def test_a_run_ends_with_what_it_exports(workplace, call, tmp_path, options):
    code, _, err = call(workplace, "run", "tiny.yaml", *options, f"run.out={tmp_path}", "run.name=it")
    assert code == 0, err
    code, out, _ = call(workplace, "evaluate", tmp_path / "it", "--json")
    assert code == 0
    again = json.loads(out)["test"]
    assert again["accuracy"] == pytest.approx(json.loads((tmp_path / "it" / "summary.json").read_text())["final"])
    for words in (("--out", tmp_path / "adapter"), ("--out", tmp_path / "whole", "--merge")):
        code, _, err = call(workplace, "export", tmp_path / "it", *words)
        assert code == 0, err
    if "model.lora.dora=true" in options:
        rounds = [json.loads(line) for line in (tmp_path / "it" / "rounds.jsonl").read_text().splitlines()]
        assert not any("predicted" in key for client in rounds[0]["clients"] for key in client)


def test_a_language_model_needs_no_labels(workplace, monkeypatch):
    from transformers import LlamaConfig, LlamaForCausalLM

    monkeypatch.chdir(workplace)
    config = LlamaConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16
    )
    LlamaForCausalLM(config).save_pretrained("decoder")
    for file in (workplace / "tiny").glob("*token*"):
        (workplace / "decoder" / file.name).write_bytes(file.read_bytes())
    model = load_model(model_settings(load_config(None, ["model.name=./decoder"])), (), "causal-lm")
    assert (model.kind, model.head_names, model.logits_path, model.blocks.count) == ("causal-lm", (), None, 2)


def test_thechoose_device_is_the_fastest_there_is(monkeypatch):
    there = {"cuda": True, "mps": True}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there["cuda"])
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: there["mps"])
    assert choose_device("auto").type == "cuda"
    there["cuda"] = False
    assert choose_device("auto").type == "mps"
    assert choose_device("cpu").type == "cpu"
    there["mps"] = False
    assert choose_device("auto").type == "cpu"
