"""What a user's folder may lack or hold, and the one sentence about it."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from mutations import mutated
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, BertConfig, LlamaConfig, PreTrainedTokenizerFast

from fedhello.errors import FedhelloError, ModelError
from fedhello.model import loading
from fedhello.model.folders import LARGEST_JSON, broken_file
from fedhello.model.loading import load_foundation
from fedhello.model.sources import resolve

SMALL = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
LAYER = "bert.encoder.layer.0.output.dense.weight"


@pytest.fixture
def folder(saved):
    return Path(saved(BertConfig(**SMALL)).location)


def load(folder, kind="text-classification"):
    return load_foundation(resolve(str(folder)), kind, ("one", "two"), 0)


def configured(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def weights(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def without(folder, *patterns):
    for file in (file for pattern in patterns for file in folder.glob(pattern)):
        file.unlink()


def only_pickled(folder):
    without(folder, "*.safetensors")
    torch.save({"a": torch.zeros(1)}, folder / "pytorch_model.bin")


def larger_tokenizer(folder):
    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(40)}, unk_token="w3"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="w1", pad_token="w0").save_pretrained(folder)


def adapter(folder):
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "../elsewhere"}')


def cut(name, size):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


WRONG = {
    "no config.json": (lambda f: without(f, "config.json"), "config.json and weights; .* has no config.json"),
    "broken config.json": (cut("config.json", 30), r"could not be loaded: config\.json is not JSON in UTF-8"),
    "a list": (lambda f: (f / "config.json").write_text("[]"), r"config\.json holds no JSON object but list"),
    "not UTF-8": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe{}"), r"config\.json is not JSON in UTF-8"),
    "no weights": (lambda f: without(f, "*.safetensors"), "there are no weights in safetensors"),
    "pickled weights": (only_pickled, "there are no weights in safetensors.*a pickle"),
    "empty weights": (cut("model.safetensors", 0), r"model\.safetensors is not whole"),
    "half of the weights": (cut("model.safetensors", 4000), r"model\.safetensors is not whole"),
    "a missing tensor": (lambda f: weights(f, lambda w: w.pop(LAYER)), f"1 are missing, the first is {LAYER}"),
    "another shape": (lambda f: configured(f, vocab_size=25), "1 are of another shape"),
    "too many layers": (lambda f: configured(f, num_hidden_layers=10**6), "num_hidden_layers is 1000000"),
    "too wide": (lambda f: configured(f, vocab_size=10**8), "a model of it has 800,00.,..."),
    "NaN": (lambda f: weights(f, lambda w: w[LAYER].fill_(float("nan"))), f"finite weights .*{LAYER} holds NaN"),
    "integers": (lambda f: weights(f, lambda w: w.update({LAYER: w[LAYER].long()})), f"{LAYER} is of I64"),
    "no tokenizer": (lambda f: without(f, "*token*"), "knows no tokens but its special ones"),
    "broken tokenizer": (cut("tokenizer.json", 50), r"tokenizer\.json is not JSON"),
    "another tokenizer": (larger_tokenizer, "at most the 20 tokens of the model; found 40"),
    "an adapter": (adapter, "holds an adapter .*Set model.name to the adapter's base"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_with_a_folder_is_one_sentence(folder, what):
    spoil, said = WRONG[what]
    load(folder)
    spoil(folder)
    with pytest.raises(ModelError, match=said) as found:
        load(folder)
    assert "\n" not in str(found.value)
    assert found.value.exit_code == 4


def test_buffers_of_integers_beside_the_weights_are_no_converted_weights(folder):
    """Files of older versions hold Swin's relative positions, and the masks of GPT-2."""
    buffers = {"relative_position_index": torch.zeros(4, 4).long(), "bias": torch.ones(1, 1, 4, 4).bool()}
    kept = {f"bert.encoder.layer.0.attention.self.{name}": value for name, value in buffers.items()}
    weights(folder, lambda tensors: tensors.update(kept))
    assert load(folder).module is not None


def test_a_run_a_file_and_a_name_that_no_file_has_are_no_model(folder, tmp_path):
    (tmp_path / "run").mkdir()
    for name in ("config.yaml", "rounds.jsonl"):
        (tmp_path / "run" / name).write_text("")
    with pytest.raises(ModelError, match=r"is the folder of a run.*fedhello export .*--merge"):
        resolve(str(tmp_path / "run"))
    with pytest.raises(ModelError, match=r"is a file\. Name the folder that holds it"):
        resolve(str(folder / "model.safetensors"))
    for name in ("a" * 300, "a\0b"):
        with pytest.raises(ModelError, match="a name that no file can have"):
            resolve(name)


def test_tied_weights_may_be_stored_once_and_not_be_missing(saved):
    llama = LlamaConfig(**SMALL, bos_token_id=1, eos_token_id=2, tie_word_embeddings=True)
    folder = Path(saved(llama, of=AutoModelForCausalLM).location)
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    module = load(folder, "causal-lm").module
    assert module.lm_head.weight is module.model.embed_tokens.weight
    weights(folder, lambda tensors: tensors.pop("model.embed_tokens.weight"))
    with pytest.raises(ModelError, match="complete weights"):
        load(folder, "causal-lm")


def test_blocks_that_are_left_out_and_code_that_is_not_run_are_said(folder, caplog):
    with caplog.at_level(logging.WARNING, "fedhello"):
        load(folder)
        assert not caplog.messages
        configured(folder, num_hidden_layers=1, auto_map={"AutoConfig": "odd.Odd", "AutoModel": "odd.Odd"})
        (folder / "odd.py").write_text("raise SystemExit('ran')")
        load(folder)
    code, blocks = caplog.messages
    assert "comes with code of its own, which is not run" in code
    assert "16 tensors are not used, the first is bert.encoder.layer.1." in blocks


def test_a_large_file_of_json_is_not_read_to_find_what_is_wrong(tmp_path):
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate(LARGEST_JSON + 1)
    assert broken_file(tmp_path) is None
    (tmp_path / "deep.json").write_text("[" * 10**5)
    assert broken_file(tmp_path).startswith("deep.json is not JSON")


@pytest.mark.filterwarnings("ignore")  # of transformers, about settings that it does not know
@pytest.mark.parametrize("cases", [300, pytest.param(20_000, marks=pytest.mark.slow)])
def test_whatever_config_json_holds_a_model_is_loaded_or_there_is_one_sentence(folder, monkeypatch, cases):
    processor = load(folder).processor
    monkeypatch.setattr(loading, "_load_processor", lambda *_: processor)  # it takes most of the time
    rng = np.random.default_rng(cases)
    good = (folder / "config.json").read_bytes()
    words = (b"0", b"9", b"-1", b"null", b"true", b"1e9", b"NaN", b'""', b"[]", b"{}", b",", b":", b"gpt2", b"vit")
    said = 0
    for case in range(cases):
        (folder / "config.json").write_bytes(mutated(rng, good, words=words))
        try:
            load(folder)
        except FedhelloError as error:
            said += 1
            assert error.exit_code == 4 and "\n" not in str(error), case
    assert cases / 2 < said < cases
