"""What a trained model makes of inputs, and how it does on labelled data."""

import numpy as np
import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification

import fedhello as fh
from fedhello.config.load import parse_config
from fedhello.model.evaluation import logits
from fedhello.results.inference import infer
from fedhello.setup.prepare import prepare


@pytest.fixture
def session(place):
    """A session that is ready to run, with texts."""
    return prepare(fh.load_config("tiny.yaml"))


def inferred(session, *inputs, **more):
    return infer(parse_config(session.config), session.labels, session.model, *inputs, **more)


def test_a_label_is_that_of_the_largest_probability(session):
    texts = ["apple number 3", "zinc number 4"]
    found, notes = inferred(session, texts, probabilities=True)
    assert notes == []
    tokens = session.model.tokenizer(texts, padding=True, return_tensors="pt")
    session.model.module.eval()
    with torch.inference_mode():
        p = session.model.module(**tokens).logits.softmax(dim=1)
    for one, text, row in zip(found, texts, p, strict=True):
        assert (one["input"], one["label"]) == (text, session.labels[int(row.argmax())])
        assert list(one["probabilities"].values()) == pytest.approx(row.tolist(), abs=1e-5)
        assert one["probability"] == max(one["probabilities"].values())


def test_longer_texts_are_cut_and_that_is_said(session):
    _, notes = inferred(session, ["number " * 50, "iron"])
    assert notes == ["1 of 2 texts were cut to data.max_length, 16 tokens"]


def test_second_texts_belong_to_a_model_of_pairs(session):
    with pytest.raises(fh.ConfigError, match=r"expected no second texts of pairs for 1 inputs of this model; found 1"):
        inferred(session, ["iron"], ["zinc"])


def test_images_are_scored_in_every_form(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = ViTConfig(
            image_size=8, patch_size=4, num_channels=1, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=32,
        )  # fmt: skip
        ViTForImageClassification(config).save_pretrained("seer")
    run = fh.run(
        {
            "model": {"name": "./seer"},
            "data": {
                "name": "embedded:digits",
                "samples": 200,
                "clients": 4,
                "proxy": 10,
                "partition": {"kind": "iid"},
            },
            "clients": {"tiers": [{"share": 1, "blocks": 1}]},
            "train": {"rounds": 1, "clients_per_round": 2},
            "run": {"name": "seen"},
        }
    )
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = (digits.images * (255 / 16)).round().astype(np.uint8)
    found = run.evaluate("embedded:digits")
    assert found.samples == len(pixels)
    rows = [{"image": image, "label": int(label)} for image, label in zip(pixels, digits.target, strict=True)]
    assert run.evaluate(rows) == run.evaluate([(row["image"], row["label"]) for row in rows]) == found
    z = logits(run.session.model, run.session.server.test)
    right = float((z.argmax(dim=1).numpy() == run.session.server.test.labels).mean())
    assert run.evaluate().test.accuracy == right


def test_half_a_character_is_refused_by_the_inputs_number(session):
    with pytest.raises(fh.DataError, match="expected Unicode text; input 2 has half of a character"):
        inferred(session, ["apple", "pear \udcff"])


@pytest.mark.parametrize("blank", ["", "  ", "\n\t", "\u00a0\u200b"])
def test_a_blank_text_is_refused_by_its_number(session, blank):
    with pytest.raises(fh.DataError, match=r"expected a text in each input; input 2 of 3 is blank\. Leave it out"):
        inferred(session, ["apple", blank, "pear"])
    with pytest.raises(fh.DataError, match="expected a text in each second text; second text 1 of 1 is blank"):
        inferred(session, ["apple"], [blank])
