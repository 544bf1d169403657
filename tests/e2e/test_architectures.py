"""Architectures of all kinds, from a folder with a tiny model to a reloaded export, or to a sentence."""

import re

import pytest
from architectures import MARK, PAGE, all_tried, apart, in_words, refused_or, run, sections, tried
from tiny_models import save_tiny
from transformers import CONFIG_MAPPING

pytestmark = pytest.mark.filterwarnings("ignore")

TEXTS, IMAGES, LANGUAGE = "text-classification", "image-classification", "causal-lm"


@pytest.mark.parametrize(
    ("task", "model_type", "settings", "blocks", "count", "said"),
    [
        (IMAGES, "clip", {"model.pooling": "native"}, ("vision_model.encoder.layers",), 3, "vision_model.embeddings"),
        (IMAGES, "swin", {}, ("swin.encoder.layers.0.blocks", "swin.encoder.layers.1.blocks"), 3, "downsample"),
        (IMAGES, "donut-swin", {}, ("donut.encoder.layers.0.blocks", "donut.encoder.layers.1.blocks"), 3, "downsample"),
        (
            IMAGES,
            "segformer",
            {"model.lora.targets": "attention"},
            tuple(f"segformer.stages.{s}.blocks" for s in range(4)),
            5,
            "model.lora.targets=attention: no adapter is put into the blocks' attention.sequence_reduction",
        ),
        (TEXTS, "bart", {}, ("model.encoder.layers", "model.decoder.layers"), 6, "embeddings"),
        (TEXTS, "canine", {}, ("canine.initial_char_encoder.layer", "canine.encoder.layer"), 4, "canine.projection ("),
        (LANGUAGE, "qwen2_moe", {}, ("model.layers",), 3, "the experts ("),
        (LANGUAGE, "mamba", {}, ("backbone.layers",), 3, "the blocks' mixer.out_proj"),
    ],
    ids=[
        "a tower",
        "stages",
        "integers beside the weights",
        "attention with convolutions",
        "an encoder and a decoder",
        "hashed characters",
        "a mixture of experts",
        "state spaces",
    ],
)
def test_an_architecture_goes_all_the_way(task, model_type, settings, blocks, count, said):
    found = tried(task, model_type, **settings)
    assert (found.status, found.said) == ("works", "")
    assert (found.blocks, found.count) == (blocks, count)
    assert said in found.left_out


@pytest.mark.parametrize(
    ("task", "saved", "model_type", "sentence"),
    [
        (
            IMAGES,
            IMAGES,
            "resnet",
            r"blocks that have linear layers, .*; ResNetForImageClassification is made of convo",
        ),
        pytest.param(  # a type that AutoModel does not have
            IMAGES,
            IMAGES,
            "pp_lcnet",
            r"blocks that have linear layers, .*; PPLCNetForImageClassification is made of c",
            marks=pytest.mark.skipif("pp_lcnet" not in CONFIG_MAPPING, reason="transformers has it since 5.4"),
        ),
        (IMAGES, LANGUAGE, "llama", r"type llama, which transformers has only for text classification and causal lm"),
        (TEXTS, LANGUAGE, "whisper", r"expected a model that reads texts at .*; WhisperModel reads input_features"),
        (LANGUAGE, LANGUAGE, "prophetnet", r"whose output layer computes the logits of each token once; ProphetNet"),
    ],
)
def test_what_does_not_fit_is_one_sentence(task, saved, model_type, sentence, tmp_path):
    save_tiny(saved, model_type, tmp_path / "model")
    found = apart(lambda: refused_or(lambda: run(task, tmp_path / "model", tmp_path / "export", {})))
    assert found.status == "refused"
    assert re.search(sentence, found.said)
    assert len(found.said) < 300 and found.said.endswith("docs/reference/architectures.md lists what works.")


def test_a_decoder_without_a_classifier_of_its_own_gets_a_head_on_its_last_token(tmp_path):
    save_tiny(LANGUAGE, "mamba", tmp_path / "model")
    found = apart(lambda: run(TEXTS, tmp_path / "model", tmp_path / "export", {}))
    assert (found.status, found.pooling, found.count) == ("works", "last", 3)


@pytest.mark.slow
def test_the_page_says_what_each_architecture_does():
    """About 5 minutes of computation."""
    outcomes = all_tried()
    failed = {f"{task} {name}": in_words(one) for task, found in outcomes.items() for name, one in found.items()}
    assert {name: words for name, words in failed.items() if words.startswith("fails")} == {}
    _, _, written = PAGE.read_text(encoding="utf-8").partition(MARK)
    assert written.split("\n") == ["", "", *sections(outcomes)]
