import pytest
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    RobertaConfig,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
)

from fedhello.errors import ModelError
from fedhello.model.blocks import Blocks, find_blocks, find_head
from fedhello.model.targets import find_all_linear, find_attention, find_attention_qv, find_named

SMALL = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16, "num_labels": 4}


def listed(path: str, count: int) -> Blocks:
    return Blocks(tuple(f"{path}.{l}" for l in range(count)))


def classifier(config) -> nn.Module:
    return AutoModelForSequenceClassification.from_config(config)


@pytest.mark.parametrize("count", [1, 3, 12])
def test_bert_blocks_projections_and_head(count):
    model = classifier(BertConfig(num_hidden_layers=count, vocab_size=20, **SMALL))
    blocks = find_blocks(model)
    assert blocks == listed("bert.encoder.layer", count)
    paths = find_attention_qv(model, blocks)
    assert len(paths) == 2 * count
    assert paths[:2] == [f"bert.encoder.layer.0.attention.self.{name}" for name in ("query", "value")]
    assert find_head(model, 4) == (["classifier"], "classifier")


def test_other_encoders_are_found_by_structure():
    roberta = classifier(RobertaConfig(num_hidden_layers=2, vocab_size=20, **SMALL))
    assert find_blocks(roberta).lists == ("roberta.encoder.layer",)
    assert find_head(roberta, 4) == (["classifier"], "classifier.out_proj")
    distil = classifier(DistilBertConfig(vocab_size=20, dim=8, n_heads=2, hidden_dim=16, n_layers=3, num_labels=4))
    assert find_blocks(distil) == listed("distilbert.transformer.layer", 3)
    assert len(find_attention_qv(distil, find_blocks(distil))) == 6
    assert find_head(distil, 4) == (["pre_classifier", "classifier"], "classifier")
    vit = ViTForImageClassification(ViTConfig(num_hidden_layers=2, image_size=8, patch_size=4, **SMALL))
    assert find_blocks(vit).count == 2
    assert len(find_attention_qv(vit, find_blocks(vit))) == 4


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("bert.encoder.layer.1.attention.self.query", 1),
        ("bert.encoder.layer.10.attention.self.query", 10),
        ("bert.encoder.layer.119.output.dense", 119),
        ("bert.embeddings.word_embeddings", None),
        ("bert.encoder.layers.1.x", None),
        ("classifier1.10", None),
    ],
)
def test_block_numbers_are_parsed_never_matched(name, block):
    assert listed("bert.encoder.layer", 120).index(name) == block


def test_a_model_without_blocks_names_its_parts():
    with pytest.raises(ModelError, match=r"0 \(Linear\), 1 \(ReLU\)"):
        find_blocks(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))


def test_the_blocks_of_an_encoder_decoder_follow_each_other():
    config = T5Config(vocab_size=20, d_model=8, d_ff=16, num_layers=2, num_heads=2, d_kv=4)
    blocks = find_blocks(T5ForConditionalGeneration(config))
    assert (blocks.lists, blocks.count) == (("encoder.block", "decoder.block"), 4)
    assert [blocks.index(f"{part}.block.1.layer") for part in ("encoder", "decoder")] == [1, 3]
    assert blocks.index("encoder.block.2.layer") is blocks.index("encoder.block") is None


def test_blocks_without_query_and_value_name_what_they_have():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.mid, self.down = nn.Linear(2, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    model = nn.Module()
    model.layers = nn.ModuleList([Block(), Block()])
    with pytest.raises(ModelError, match="up, mid, down"):
        find_attention_qv(model, find_blocks(model))
    assert find_named(model, find_blocks(model), ["up"]) == ["layers.0.up", "layers.1.up"]
    with pytest.raises(ModelError, match=r"sideways not found.*down, mid, up"):
        find_named(model, find_blocks(model), ["sideways"])


def test_a_head_of_another_size_is_refused():
    model = classifier(BertConfig(num_hidden_layers=1, vocab_size=20, **SMALL))
    with pytest.raises(ModelError, match="linear layer with 7 outputs"):
        find_head(model, 7)


def stack(block, count=2):
    model = nn.Module()
    model.layers = nn.ModuleList([block() for _ in range(count)])
    return model


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(4, 4) for _ in range(4))


class Listed(nn.Module):
    """Attention and feed-forward part as members of one list, as in T5."""

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList([Attention(), nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 4))])


class Flat(Attention):
    """Projections of attention directly in the block, beside the feed-forward part's."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 4)


class Experts(nn.Module):
    """A block with a list of experts, which are like blocks in all but attention."""

    def __init__(self):
        super().__init__()
        self.attention = Attention()
        self.experts = nn.ModuleList(nn.Sequential(*(nn.Linear(4, 4) for _ in range(3))) for _ in range(2))


def test_attention_is_the_part_that_holds_query_and_value():
    model = stack(Listed)
    blocks = find_blocks(model)
    assert find_attention(model, blocks)[:4] == [f"layers.0.parts.0.{name}" for name in "qkvo"]
    assert len(find_attention(model, blocks)) == 8
    assert len(find_all_linear(model, blocks)) == 12
    flat = stack(Flat)
    assert find_attention_qv(flat, find_blocks(flat)) == [f"layers.{i}.{name}" for i in (0, 1) for name in "qv"]
    with pytest.raises(ModelError, match="has q, k, v, o, up, down"):
        find_attention(flat, find_blocks(flat))


def test_experts_are_no_stages():
    assert find_blocks(stack(Experts)) == listed("layers", 2)


def block(width=4):
    return nn.Sequential(nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width))


def test_a_model_without_blocks_is_refused_naming_its_parts():
    model = nn.Module()
    model.embed, model.classifier = nn.Embedding(10, 4), nn.Linear(4, 2)
    with pytest.raises(ModelError, match=r"Module has none \(its parts: embed \(Embedding\), classifier \(Linear\)\)"):
        find_blocks(model)


@pytest.mark.parametrize(
    "parts",
    [
        nn.ModuleList([nn.Linear(4, 4) for _ in range(3)]),  # no block has projections inside
        nn.ModuleList([nn.ReLU(), nn.ReLU()]),
        nn.ModuleList([nn.Conv2d(3, 3, 1) for _ in range(3)]),
        nn.ModuleList([block(), nn.ModuleList([nn.Linear(4, 4)] * 3)]),  # not of one class
        nn.ModuleList(),
    ],
    ids=["linears", "no parameters", "convolutions", "mixed", "empty"],
)
def test_a_list_of_something_else_is_no_list_of_blocks(parts):
    model = nn.Module()
    model.parts = parts
    with pytest.raises(ModelError, match="expected a transformer with a list of blocks of one class"):
        find_blocks(model)


def test_an_encoder_and_a_decoder_are_refused_naming_both():
    model = nn.Module()
    model.encoder = nn.ModuleList([block(), block()])
    model.decoder = nn.ModuleList([block(), block(), block()])
    with pytest.raises(ModelError, match=r"has 2: encoder \(2 blocks\), decoder \(3 blocks\)"):
        find_blocks(model)


def test_one_list_of_blocks_is_found():
    model = nn.Module()
    model.encoder = nn.Module()
    model.encoder.layer = nn.ModuleList([block() for _ in range(11)])
    blocks = find_blocks(model)
    assert (blocks.lists, blocks.count) == (("encoder.layer",), 11)
    assert blocks.index("encoder.layer.10.0.weight") == 10
    assert blocks.index("encoder.layer.1.0.weight") == 1
    assert blocks.index("encoder.layernorm.1") is None


def test_blocks_that_share_weights_are_refused():
    once, model = block(), nn.Module()
    model.layers = nn.ModuleList([block(), once, once])
    with pytest.raises(ModelError, match=r"layers\.1 and layers\.2 share weights"):
        find_blocks(model)
    inside = [nn.Sequential(*block()) for _ in range(2)]
    inside[1][0].weight = inside[0][0].weight
    model.layers = nn.ModuleList(inside)
    with pytest.raises(ModelError, match=r"layers\.0 and layers\.1 share weights"):
        find_blocks(model)
