"""Families of foundation models, each tiny and with random weights, from a saved folder to a saved adapter."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import transformers
from peft import PeftModel
from safetensors.torch import load_file
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from fedhello.client.activations import activation_policies
from fedhello.errors import ModelError
from fedhello.model.adapter import LoraModel
from fedhello.model.injection import attach_lora
from fedhello.model.loading import AUTO_CLASSES, FoundationModel, load_foundation
from fedhello.model.saving import load_adapter, save_adapter, save_merged
from fedhello.model.sources import resolve

# transformers 5.0 compiles a part of DeBERTa in a way that torch has deprecated since.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

VOCABULARY, CLASSES = 40, 3
LABELS = [f"label {c}" for c in range(CLASSES)]
ENCODER = {
    "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 24,
    "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
WORDS = {**ENCODER, "vocab_size": VOCABULARY, "max_position_embeddings": 32, "pad_token_id": 0}
PIXELS = {**ENCODER, "image_size": 8, "patch_size": 4}
DECODER = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 24, "max_position_embeddings": 32, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


@dataclass(frozen=True)
class Family:
    """What a model type is expected to look like; names of layers are those below a block."""

    config: str
    values: dict[str, Any]
    path: str
    qv: tuple[str, ...]
    attention: tuple[str, ...]
    linear: int
    head: tuple[str, ...]
    logits: str
    kinds: tuple[str, ...] = ("text-classification",)
    lm_path: str = ""
    extra: dict[str, Any] = field(default_factory=dict)


SELF = ("attention.self.query", "attention.self.value")
BERT_ATTENTION = (*SELF, "attention.self.key", "attention.output.dense")
LLAMA = ("self_attn.q_proj", "self_attn.v_proj")
LLAMA_ATTENTION = (*LLAMA, "self_attn.k_proj", "self_attn.o_proj")
BOTH = ("text-classification", "causal-lm")
IMAGES = ("image-classification",)


def llama(config: str) -> Family:
    return Family(config, DECODER, "model.layers", LLAMA, LLAMA_ATTENTION, 7, ("score",), "score", BOTH)


FAMILIES = {
    "bert": Family("BertConfig", WORDS, "bert.encoder.layer", SELF, BERT_ATTENTION, 6, ("classifier",), "classifier"),
    "roberta": Family(
        "RobertaConfig", WORDS, "roberta.encoder.layer", SELF, BERT_ATTENTION, 6, ("classifier",), "classifier.out_proj"
    ),
    "distilbert": Family(
        "DistilBertConfig",
        {"vocab_size": VOCABULARY, "dim": 16, "n_layers": 3, "n_heads": 4, "hidden_dim": 24, "dropout": 0.0,
         "attention_dropout": 0.0, "seq_classif_dropout": 0.0, "max_position_embeddings": 32, "pad_token_id": 0},
        "distilbert.transformer.layer",
        ("attention.q_lin", "attention.v_lin"),
        ("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin"),
        6, ("pre_classifier", "classifier"), "classifier",
    ),
    "deberta-v3": Family(
        "DebertaV2Config",
        {**WORDS, "relative_attention": True, "position_buckets": 8, "norm_rel_ebd": "layer_norm",
         "share_att_key": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False, "type_vocab_size": 0,
         "pooler_dropout": 0.0},
        "deberta.encoder.layer",
        ("attention.self.query_proj", "attention.self.value_proj"),
        ("attention.self.query_proj", "attention.self.value_proj", "attention.self.key_proj", "attention.output.dense"),
        6, ("pooler", "classifier"), "classifier",
    ),
    "gpt2": Family(
        "GPT2Config",
        {"vocab_size": VOCABULARY, "n_positions": 32, "n_embd": 16, "n_layer": 3, "n_head": 4, "resid_pdrop": 0.0,
         "embd_pdrop": 0.0, "attn_pdrop": 0.0, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
        "transformer.h", (), ("attn.c_attn", "attn.c_proj"), 4, ("score",), "score", BOTH,
    ),
    "llama": llama("LlamaConfig"),
    "smollm": Family(
        "LlamaConfig", {**DECODER, "tie_word_embeddings": True}, "model.layers", LLAMA, LLAMA_ATTENTION, 7, ("score",),
        "score", BOTH,
    ),
    "qwen2": llama("Qwen2Config"),
    "qwen3": llama("Qwen3Config"),
    "mistral": llama("MistralConfig"),
    "opt": Family(
        "OPTConfig",
        {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4, "ffn_dim": 24,
         "max_position_embeddings": 32, "word_embed_proj_dim": 16, "dropout": 0.0, "pad_token_id": 0,
         "bos_token_id": 1, "eos_token_id": 2},
        "model.decoder.layers", LLAMA,
        ("self_attn.q_proj", "self_attn.v_proj", "self_attn.k_proj", "self_attn.out_proj"),
        6, ("score",), "score", BOTH,
    ),
    "vit": Family("ViTConfig", PIXELS, "", (), (), 6, ("classifier",), "classifier", IMAGES),
    "deit": Family("DeiTConfig", PIXELS, "", (), (), 6, ("classifier",), "classifier", IMAGES),
    "dinov2": Family("Dinov2Config", PIXELS, "", (), (), 6, ("classifier",), "classifier", IMAGES),
    "dinov2-registers": Family(
        "Dinov2WithRegistersConfig", {**PIXELS, "num_register_tokens": 2}, "", (), (), 6, ("classifier",), "classifier",
        IMAGES,
    ),
}  # fmt: skip
CASES = [(name, kind) for name, family in FAMILIES.items() for kind in family.kinds]


def save_tokenizer(folder, pad="<pad>"):
    words = {"<pad>": 0, "<s>": 1, "</s>": 2, **{f"w{i}": i for i in range(3, VOCABULARY)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w3"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token=pad).save_pretrained(folder)


def save_model(folder, family, kind="text-classification", classes=7, pad="<pad>"):
    """Save a model as its makers would: with a head for something else, and no word on padding but the tokenizer's."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = getattr(transformers, family.config)(**family.values, num_labels=classes)
        config.architectures = []
        AUTO_CLASSES[kind].from_config(config).save_pretrained(folder)
    if kind != "image-classification":
        save_tokenizer(folder, pad)
    return resolve(str(folder))


def attached(base: FoundationModel, targets: Any = "attention", rank=2, **options: Any) -> LoraModel:
    classes = None if base.kind == "causal-lm" else CLASSES
    return attach_lora(base, num_labels=classes, rank=rank, alpha=4, dropout=0.0, targets=targets, seed=0, **options)


def inputs(kind):
    rng = torch.Generator().manual_seed(0)
    if kind == "image-classification":
        return {"pixel_values": torch.randn(2, 3, 8, 8, generator=rng)}
    ids = torch.randint(3, VOCABULARY, (2, 9), generator=rng)
    mask = torch.ones_like(ids)
    ids[1, 6:], mask[1, 6:] = 0, 0
    return {"input_ids": ids, "attention_mask": mask}


def logits(module, kind):
    module.eval()
    with torch.no_grad():
        return module(**inputs(kind)).logits


def moved(model, seed=1):
    """Give every tensor of the adapter random values, so that nothing is zero."""
    rng = torch.Generator().manual_seed(seed)
    start = model.read(model.block_of)
    model.write({name: value + 0.2 * torch.randn(value.shape, generator=rng) for name, value in start.items()})
    return model


@pytest.fixture(scope="module", params=CASES, ids=["-".join(case) for case in CASES])
def case(request, tmp_path_factory):
    name, kind = request.param
    source = save_model(tmp_path_factory.mktemp(name), FAMILIES[name], kind)
    return FAMILIES[name], kind, source


def test_parts_are_found(case):
    family, kind, source = case
    model = attached(load_foundation(source, kind, LABELS, seed=0), "all-linear")
    base = model.module.get_base_model()
    assert model.blocks.count == 3
    if family.path:
        assert model.blocks.lists == (family.path,)
    blocks = model.block_modules()
    assert [id(block) for block in blocks] == [id(base.get_submodule(model.blocks.paths[l])) for l in range(3)]
    assert len({type(block) for block in blocks}) == 1
    for name, block in model.block_of.items():
        if block is None:
            assert name in model.head_names
        else:
            assert name.startswith(f"base_model.model.{model.blocks.paths[block]}.")
    per_block = [sum(b == l and n.endswith("lora_A.weight") for n, b in model.block_of.items()) for l in range(3)]
    assert per_block == [family.linear] * 3
    if kind == "causal-lm":
        assert (model.head_names, model.logits_path) == ((), None)
        with pytest.raises(ModelError, match="language model, which has no head"):
            _ = model.num_labels
    else:
        heads = {name.removeprefix("base_model.model.").split(".")[0] for name in model.head_names}
        assert (heads, model.logits_path, model.num_labels) == (set(family.head), family.logits, CLASSES)
        assert logits(model.module, kind).shape == (2, CLASSES)


def test_the_longest_input_is_one_that_runs(case):
    family, kind, source = case
    if kind == "image-classification":
        return
    model = attached(load_foundation(source, kind, LABELS, seed=0))
    assert model.longest_input == (31 if family.config == "RobertaConfig" else 32)
    with torch.no_grad():
        model.module(input_ids=torch.full((1, model.longest_input), 5))


def test_attention_is_found(case):
    family, kind, source = case
    model = attached(load_foundation(source, kind, LABELS, seed=0))
    found = {name.split(f"{model.blocks.paths[0]}.")[1] for name, b in model.block_of.items() if b == 0}
    found = {name.removesuffix(".lora_A.weight").removesuffix(".lora_B.weight") for name in found}
    if family.attention:
        assert found == set(family.attention)
    else:  # the names differ between versions of transformers
        assert {type(model.module.get_base_model().get_submodule(model.blocks.paths[0]))} and len(found) == 4
        assert all("attention" in name for name in found)


def test_query_and_value_are_found_or_refused(case):
    family, kind, source = case
    base = load_foundation(source, kind, LABELS, seed=0)
    if family.config == "GPT2Config":
        with pytest.raises(ModelError, match=r"with one: c_attn\. Set model\.lora\.targets=attention .*\[c_attn\]"):
            attached(base, "attention-qv")
        model = attached(base, ["c_attn"])
        assert sum(block == 0 for block in model.block_of.values()) == 2
        return
    model = attached(base, "attention-qv")
    targets = {module.rpartition(".")[2] for module in model.snapshot(share_head=False).modules}
    assert sum(block == 0 for block in model.block_of.values()) == 4
    if family.qv:
        assert targets == {name.rpartition(".")[2] for name in family.qv}


def test_adapter_and_head_train_and_nothing_else(case):
    _, kind, source = case
    model = moved(attached(load_foundation(source, kind, LABELS, seed=0), "all-linear"))
    live = model.set_trainable(model.block_of)
    model.module(**inputs(kind)).logits.square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in live)
    assert {id(p) for p in model.module.parameters() if p.grad is not None} == {id(p) for p in live}


def plain(case, folder):
    """What a user of PEFT alone gets."""
    _, kind, source = case
    count = {} if kind == "causal-lm" else {"num_labels": CLASSES, "ignore_mismatched_sizes": True}
    base = AUTO_CLASSES[kind].from_pretrained(source.location, **count)
    loaded = PeftModel.from_pretrained(base, str(folder))
    result = loaded.load_adapter(str(folder), adapter_name="again")
    assert result.unexpected_keys == []
    assert [key for key in result.missing_keys if "again" in key] == []
    return loaded


def test_plain_peft_loads_what_is_saved(case, tmp_path):
    check_round_trip(case, tmp_path)


@pytest.mark.parametrize("option", ["rslora", "dora"])
@pytest.mark.parametrize(("name", "kind"), [("bert", BOTH[0]), ("gpt2", BOTH[0]), ("llama", BOTH[1]), ("vit", *IMAGES)])
def test_plain_peft_loads_variants_of_lora(option, name, kind, tmp_path):
    source = save_model(tmp_path / "base", FAMILIES[name], kind)
    check_round_trip((FAMILIES[name], kind, source), tmp_path, **{option: True})


def check_round_trip(case, tmp_path, **options):
    _, kind, source = case
    model = moved(attached(load_foundation(source, kind, LABELS, seed=0), **options))
    expected = logits(model.module, kind)
    save_adapter(model, tmp_path / "adapter")
    assert load_file(tmp_path / "adapter" / "adapter_model.safetensors").keys() == model.block_of.keys()
    assert torch.allclose(logits(plain(case, tmp_path / "adapter"), kind), expected, atol=1e-5)
    fresh = attached(load_foundation(source, kind, LABELS, seed=5), **options)
    assert not torch.allclose(logits(fresh.module, kind), expected, atol=1e-3)
    load_adapter(fresh, tmp_path / "adapter")
    assert torch.allclose(logits(fresh.module, kind), expected, atol=1e-5)


def test_the_merged_model_needs_no_peft(case, tmp_path):
    _, kind, source = case
    model = moved(attached(load_foundation(source, kind, LABELS, seed=0)))
    expected = logits(model.module, kind)
    save_merged(model, tmp_path / "merged")
    module, report = AUTO_CLASSES[kind].from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert torch.allclose(logits(module, kind), expected, atol=1e-4)


def test_recomputation_gives_the_same_gradients(case):
    _, kind, source = case
    model = moved(attached(load_foundation(source, kind, LABELS, seed=0)))
    live = model.set_trainable(model.block_of)
    model.module.train()

    def gradients(policy):
        held = []
        with torch.random.fork_rng(), activation_policies(model.block_modules(), [policy] * 3, held.append):
            torch.manual_seed(0)
            loss = model.module(**inputs(kind)).logits.square().sum()
            return torch.autograd.grad(loss, live), len({id(tensor) for tensor in held})

    (kept, none), (again, held) = gradients("keep"), gradients("recompute")
    assert none == 0 and held >= 3  # the input of each block, and its other arguments
    assert all(torch.equal(one, other) for one, other in zip(kept, again, strict=True))


def test_bfloat16_weights_keep_factors_and_head_in_float32(case, tmp_path):
    _, kind, source = case
    model = attached(load_foundation(source, kind, LABELS, seed=0, dtype=torch.bfloat16))
    assert {value.dtype for value in model.read(model.block_of).values()} == {torch.float32}
    frozen = {p.dtype for n, p in model.module.named_parameters() if not p.requires_grad and "original" not in n}
    assert frozen == {torch.bfloat16}
    exact = moved(attached(load_foundation(source, kind, LABELS, seed=0)))
    model.write(exact.read(exact.block_of))
    live = model.set_trainable(model.block_of)
    torch.autograd.grad(model.module(**inputs(kind)).logits.float().square().sum(), live)
    assert torch.allclose(logits(model.module, kind).float(), logits(exact.module, kind), atol=0.1, rtol=0.1)
    save_merged(model, tmp_path / "merged")
    assert {value.dtype for value in load_file(tmp_path / "merged" / "model.safetensors").values()} == {torch.float32}


@pytest.mark.parametrize("option", ["rslora", "dora"])
def test_variants_of_lora_compute_what_their_papers_say(option, tmp_path):
    """h = W₀x + α/√r·B A x; and h = m·(W₀ + s B A)x / ‖W₀ + s B A‖ per output."""
    source = save_model(tmp_path / "base", FAMILIES["bert"])
    model = moved(attached(load_foundation(source, "text-classification", LABELS, seed=0), **{option: True}))
    layer = model.block_modules()[1].attention.self.query
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    A, B, W = layer.lora_A["default"].weight, layer.lora_B["default"].weight, layer.base_layer.weight
    if option == "rslora":
        assert model.scale == pytest.approx(4 / 2**0.5)
    weight = W + model.scale * B @ A
    if option == "dora":
        weight *= (layer.lora_magnitude_vector["default"].weight / weight.norm(dim=1)).unsqueeze(1)
    assert torch.allclose(layer(x), x @ weight.T + layer.base_layer.bias, atol=1e-5)


@pytest.mark.parametrize("rank", [1, 5])
def test_under_rslora_the_scale_stays_whatever_rank_is_written(rank, tmp_path):
    source = save_model(tmp_path / "base", FAMILIES["bert"])
    case = (FAMILIES["bert"], "text-classification", source)
    model = attached(load_foundation(source, "text-classification", LABELS, seed=0), rslora=True)
    rng = torch.Generator().manual_seed(0)
    shapes = {
        name: (rank, value.shape[1]) if name.endswith("lora_A.weight") else (value.shape[0], rank)
        for name, value in model.snapshot(share_head=False).tensors.items()
    }
    model.write({name: torch.randn(shape, generator=rng) for name, shape in shapes.items()})
    expected = logits(model.module, "text-classification")
    save_adapter(model, tmp_path / "adapter")
    assert torch.allclose(logits(plain(case, tmp_path / "adapter"), "text-classification"), expected, atol=1e-5)


def test_the_tied_output_layer_of_a_language_model_stays_as_it_is(tmp_path):
    source = save_model(tmp_path / "base", FAMILIES["smollm"], "causal-lm")
    model = attached(load_foundation(source, "causal-lm", (), seed=0), "all-linear")
    base = model.module.get_base_model()
    assert base.lm_head.weight is base.model.embed_tokens.weight
    before = base.lm_head.weight.clone()
    optimiser = torch.optim.SGD(model.set_trainable(model.block_of), lr=0.1)
    model.module(**inputs("causal-lm")).logits.square().sum().backward()
    optimiser.step()
    assert torch.equal(base.lm_head.weight, before)
    save_adapter(model, tmp_path / "adapter")
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert all(".layers." in name for name in saved)


def test_two_heads_that_are_combined_are_refused(tmp_path):
    config = transformers.DeiTConfig(**PIXELS, num_labels=CLASSES)
    transformers.DeiTForImageClassificationWithTeacher(config).save_pretrained(tmp_path / "base")
    with pytest.raises(ModelError, match="has 2 and combines them: cls_classifier, distillation_classifier"):
        load_foundation(resolve(str(tmp_path / "base")), "image-classification", LABELS, seed=0)
