import torch

from fedhello.config.load import load_config
from fedhello.config.settings import model_settings
from fedhello.setup.model import choose_device, load_model


def test_a_language_model_needs_no_labels(workplace, monkeypatch):
    from transformers import LlamaConfig, LlamaForCausalLM

    monkeypatch.chdir(workplace)
    config = LlamaConfig(
        vocab_size=30_522, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16
    )
    LlamaForCausalLM(config).save_pretrained("decoder")
    for file in (workplace / "tiny").glob("*token*"):
        (workplace / "decoder" / file.name).write_bytes(file.read_bytes())
    model = load_model(model_settings(load_config(None, ["model.name=./decoder"])), (), "causal-lm")
    assert (model.kind, model.head_names, model.logits_path, model.blocks.count) == ("causal-lm", (), None, 2)


def test_the_device_is_the_fastest_there_is(monkeypatch):
    there = {"cuda": True, "mps": True}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there["cuda"])
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: there["mps"])
    assert choose_device("auto").type == "cuda"
    there["cuda"] = False
    assert choose_device("auto").type == "mps"
    assert choose_device("cpu").type == "cpu"
    there["mps"] = False
    assert choose_device("auto").type == "cpu"
