"""The code on a model card is run as it stands, in the folder that it stands in, and makes the model's logits."""

import contextlib
import dataclasses
import json
import re
import shutil

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from fedhello.model.injection import attach_lora
from fedhello.model.loading import load_foundation
from fedhello.model.saving import save_adapter, save_merged
from fedhello.model.sources import resolve

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # of PEFT, on bases without a name on the hub

LABELS = ["a", "b", "c"]
TEXTS = ["one two three", "four", "two two five six"]
SIZES = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
    "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip


def saved_text_model(folder):
    config = transformers.BertConfig(**SIZES, vocab_size=40, max_position_embeddings=32, pad_token_id=0)
    transformers.BertModel(config).save_pretrained(folder)
    words = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "one", "two", "three", "four", "five", "six"])}
    plain = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(folder)


def saved_image_model(folder):
    transformers.ViTModel(transformers.ViTConfig(**SIZES, image_size=8, patch_size=4)).save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 8, "width": 8}).save_pretrained(folder)


def trained(place, kind, pooling):
    """A model whose adapter and head are not what they were at the start; its base lies beside, under its name."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        (saved_text_model if kind == "text-classification" else saved_image_model)(place / "base")
    base = load_foundation(resolve(str(place / "base")), kind, LABELS, seed=0, pooling=pooling)
    model = attach_lora(base, num_labels=3, rank=2, alpha=2, dropout=0.0, targets="attention-qv", seed=0)
    rng = torch.Generator().manual_seed(1)
    values = model.snapshot(share_head=True).tensors
    model.write({name: 0.5 * torch.randn(value.shape, generator=rng) for name, value in values.items()})
    model.module.eval()
    return model


def batch_of(model, kind):
    if kind == "text-classification":
        return TEXTS, dict(model.processor(TEXTS, padding=True, return_tensors="pt"))
    pillow = pytest.importorskip("PIL.Image")
    pictures = [pillow.new("RGB", (8, 8), color) for color in ("red", "green", "blue")]
    return pictures, dict(model.processor(pictures, return_tensors="pt"))


CASES = [("text-classification", pooling) for pooling in ("cls", "mean", "last", "native")]
CASES += [("image-classification", pooling) for pooling in ("cls", "mean", "native")]


@pytest.mark.parametrize("form", ["adapter", "merged"])
@pytest.mark.parametrize(("kind", "pooling"), CASES)
def test_the_code_on_the_card_makes_the_models_logits(kind, pooling, form, tmp_path):
    model = trained(tmp_path, kind, pooling)
    inputs, batch = batch_of(model, kind)
    with torch.no_grad():
        expected = model.module(**batch).logits
    (save_adapter if form == "adapter" else save_merged)(model, tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert "Labels: 0: a, 1: b, 2: c" in text
    if form == "merged":
        assert '"base"' not in code, "a merged model needs no other"
    scope = {}
    code = code.replace('"base"', repr(str(tmp_path / "base")))
    with contextlib.chdir(tmp_path / "out"), torch.no_grad():
        exec(code, scope)
        found = scope["model"](**batch).logits if pooling == "native" else scope["logits"](inputs)
    assert torch.allclose(found, expected, atol=1e-4)
    assert float(expected.std()) > 0.01


@pytest.mark.parametrize(("kind", "pooling"), CASES)
def test_an_adapter_with_its_base_is_loaded_without_anything_else(kind, pooling, tmp_path):
    model = trained(tmp_path, kind, pooling)
    inputs, batch = batch_of(model, kind)
    with torch.no_grad():
        expected = model.module(**batch).logits
    save_adapter(model, tmp_path / "out", 5, ("base", "processor"))
    shutil.rmtree(tmp_path / "base")
    (code,) = re.findall(r"```python\n(.*?)```", (tmp_path / "out" / "README.md").read_text(), re.DOTALL)
    scope = {}
    with contextlib.chdir(tmp_path / "out"), torch.no_grad():
        exec(code, scope)
        found = scope["model"](**batch).logits if pooling == "native" else scope["logits"](inputs)
    assert torch.allclose(found, expected, atol=1e-4)
    named = json.loads((tmp_path / "out" / "labels.json").read_text())
    assert named == {"id2label": {"0": "a", "1": "b", "2": "c"}, "label2id": {"a": 0, "b": 1, "c": 2}, "max_length": 5}
    assert transformers.AutoConfig.from_pretrained(tmp_path / "out" / "base").id2label == {0: "a", 1: "b", 2: "c"}
    if kind == "text-classification" and pooling != "native":
        with contextlib.chdir(tmp_path / "out"), torch.no_grad():
            assert torch.equal(scope["logits"](["one " * 5 + "two"]), scope["logits"](["one " * 5])), "cut to 5 tokens"


def test_a_merged_model_carries_the_names_of_its_classes_and_its_longest_text(tmp_path):
    model = trained(tmp_path, "text-classification", "mean")
    save_merged(model, tmp_path / "out", 5)
    config = transformers.AutoConfig.from_pretrained(tmp_path / "out")
    assert (config.id2label[2], config.label2id["c"]) == ("c", 2)
    assert json.loads((tmp_path / "out" / "labels.json").read_text())["max_length"] == 5
    assert "truncation=True, max_length=5, " in (tmp_path / "out" / "README.md").read_text()
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "out").model_max_length > 5, "later runs may take more"


def test_the_code_for_an_embedded_base_finds_its_folder(tmp_path):
    model = trained(tmp_path, "text-classification", "mean")
    model.source = dataclasses.replace(model.source, base_name="some/base", embedded="embedded:some", gguf="x.gguf")
    text = model.card()
    assert 'base = fh.model_path("embedded:some")  # "some/base" on the hub\n' in text
    assert 'AutoModel.from_pretrained(base, gguf_file="x.gguf")' in text
    assert 'AutoTokenizer.from_pretrained(base, gguf_file="x.gguf")' in text
    assert "import fedhello" not in model.card("merged")
    assert "import fedhello" not in model.card("adapter", ("base",))
