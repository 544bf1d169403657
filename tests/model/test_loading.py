"""What a folder, a hub id or a package may hold, and what is said where it does not fit."""

import json
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    BertConfig,
    GPT2Config,
    LlamaConfig,
    ViTConfig,
    ViTForImageClassification,
)

from fedhello.errors import ModelError
from fedhello.model import loading
from fedhello.model.injection import attach_lora
from fedhello.model.loading import load_foundation
from fedhello.model.saving import save_merged
from fedhello.model.sources import EMBEDDED_MODELS, resolve

TEXT, LM, IMAGES = "text-classification", "causal-lm", "image-classification"
LABELS = ("one", "two", "three")
SMALL = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
BERT = BertConfig(**SMALL)
GPT2 = GPT2Config(vocab_size=20, n_positions=16, n_embd=8, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=2)
LLAMA = LlamaConfig(**SMALL, bos_token_id=1, eos_token_id=2)
VIT = ViTConfig(
    num_hidden_layers=1, hidden_size=8, num_attention_heads=2, intermediate_size=8, image_size=8, patch_size=4
)


def parameters(base):
    return {name: value.clone() for name, value in base.module.state_dict().items()}


@pytest.mark.parametrize("classes", [2, 3], ids=["another size", "the same size"])
def test_the_head_is_fresh_whatever_head_the_folder_has(saved, classes):
    source = saved(BERT, classes=classes)
    stored = AutoModelForSequenceClassification.from_pretrained(source.location, num_labels=classes).state_dict()
    one, same, other = (parameters(load_foundation(source, TEXT, LABELS, seed)) for seed in (1, 1, 2))
    head = [name for name in one if name.startswith("classifier.")]
    assert len(head) == 2
    for name in one:
        assert torch.equal(one[name], same[name])
        assert torch.equal(one[name], other[name]) == (name not in head)
        assert stored[name].shape != one[name].shape or torch.equal(one[name], stored[name]) == (name not in head)


def test_loading_leaves_the_random_state_alone(saved):
    source = saved(BERT, classes=3)
    before = torch.get_rng_state()
    load_foundation(source, TEXT, LABELS, 5)
    assert torch.equal(torch.get_rng_state(), before)


def test_labels_are_written_into_the_configuration(saved):
    config = load_foundation(saved(BERT), TEXT, LABELS, 0).module.config
    assert config.id2label == {0: "one", 1: "two", 2: "three"}


@pytest.mark.parametrize("kind", [TEXT, LM])
def test_weights_of_another_shape_or_missing_are_named(saved, kind):
    source = saved(LLAMA, of=AutoModelForCausalLM if kind == LM else AutoModelForSequenceClassification)
    file = Path(source.location) / "config.json"
    config = json.loads(file.read_text())
    for change, said in (({"vocab_size": 21}, "of another shape"), ({"num_hidden_layers": 2}, "missing")):
        file.write_text(json.dumps({**config, **change}))
        with pytest.raises(
            ModelError, match=rf"complete weights for .*; \d+ are {said}, the first is (model|lm_head)\."
        ):
            load_foundation(source, kind, LABELS, 0)


@pytest.mark.parametrize(("config", "kind"), [(GPT2, TEXT), (LLAMA, LM)])
def test_a_tokenizer_without_padding_needs_a_token_for_it(saved, config, kind):
    source = saved(config, AutoModelForCausalLM if kind == LM else AutoModelForSequenceClassification, pad=None)
    with pytest.raises(ModelError, match=r"to have a padding token; it has none\. Set model\.pad_token.*'</s>'"):
        load_foundation(source, kind, LABELS, 0)
    with pytest.raises(ModelError, match=r"model\.pad_token to be a token of .*; found '<nothing>'"):
        load_foundation(source, kind, LABELS, 0, pad_token="<nothing>")
    base = load_foundation(source, kind, LABELS, 0, pad_token="</s>")
    assert base.processor.pad_token_id == base.module.config.pad_token_id == 2


def test_a_decoder_classifies_at_the_last_token_before_the_padding(saved):
    base = load_foundation(saved(LLAMA), TEXT, LABELS, 0)
    short, padded = torch.tensor([[5, 6, 7]]), torch.tensor([[5, 6, 7, 0, 0]])
    with torch.no_grad():
        one, other = base.module(input_ids=short).logits, base.module(input_ids=padded).logits
    assert torch.allclose(one, other, atol=1e-6)


def test_an_encoder_is_no_language_model(saved):
    with pytest.raises(ModelError, match="BertLMHeadModel lets a position see the tokens after it"):
        load_foundation(saved(BERT, of=AutoModelForCausalLM), LM, (), 0)


def test_an_image_processor_is_loaded_where_there_is_one(tmp_path):
    ViTForImageClassification(VIT).save_pretrained(tmp_path)
    assert load_foundation(resolve(str(tmp_path)), IMAGES, LABELS, 0).processor is None
    processor = {"image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 8}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    base = load_foundation(resolve(str(tmp_path)), IMAGES, LABELS, 0)
    assert dict(base.processor.size) == {"height": 8, "width": 8}
    model = attach_lora(base, num_labels=3, rank=2, alpha=2, dropout=0.0, targets="attention-qv", seed=0)
    assert model.takes_images and model.image_shape == (3, 8, 8)
    save_merged(model, tmp_path / "merged")
    assert (tmp_path / "merged" / "preprocessor_config.json").is_file()
    assert AutoModelForImageClassification.from_pretrained(tmp_path / "merged").num_labels == 3


def test_an_image_processor_scales_with_pillow_whatever_else_is_installed(tmp_path, monkeypatch):
    ViTForImageClassification(VIT).save_pretrained(tmp_path)
    processor = {"image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 8}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    asked, load = {}, loading.AutoImageProcessor.from_pretrained
    monkeypatch.setattr(
        loading.AutoImageProcessor, "from_pretrained", lambda *a, **kw: asked.update(kw) or load(*a, **kw)
    )
    found = load_foundation(resolve(str(tmp_path)), IMAGES, LABELS, 0).processor
    assert (asked["backend"], asked["use_fast"]) == ("pil", False)
    assert not {"backend", "use_fast"} & set(found.to_dict())


def test_a_model_with_code_of_its_own_is_refused_without_running_it(tmp_path):
    config = {"model_type": "odd", "auto_map": {"AutoConfig": "odd.Odd", "AutoModelForCausalLM": "odd.Odd"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "odd.py").write_text("raise SystemExit('ran')")
    assert resolve(str(tmp_path)).arguments["trust_remote_code"] is False  # else a terminal is asked
    with pytest.raises(ModelError, match="needs code of its own, which fedhello never runs"):
        load_foundation(resolve(str(tmp_path)), IMAGES, LABELS, 0)


@pytest.mark.slow
@pytest.mark.skipif(not EMBEDDED_MODELS["smollm2"].is_installed, reason="needs the extra smollm2")
@pytest.mark.filterwarnings("ignore")
def test_smollm2_completes_a_sentence_and_can_be_saved(tmp_path):
    base = load_foundation(resolve("embedded:smollm2"), LM, (), 0)
    model = attach_lora(base, num_labels=None, rank=2, alpha=2, dropout=0.0, targets="attention-qv", seed=0)
    assert model.blocks.count == 30 and model.head_names == ()
    batch = model.tokenizer("The capital of France is", return_tensors="pt")
    assert model.tokenizer.decode(model.module(**batch).logits[0, -1].argmax()) == " Paris"
    save_merged(model, tmp_path / "merged")
    assert (tmp_path / "merged" / "model.safetensors").is_file()
