import pytest

from fedhello.config.load import load_config
from fedhello.errors import ConfigError
from fedhello.model.sources import CAUSAL_LM
from fedhello.results import inference
from fedhello.results.inference import infer
from fedhello.setup.model import load_model

LABELS = ("fruit", "metal")


@pytest.fixture
def classifier(workplace, monkeypatch):
    monkeypatch.chdir(workplace)

    def build(*words):
        config = load_config(workplace / "tiny.yaml", words)
        return config, LABELS, load_model(config, LABELS)

    return build


def test_each_text_gets_its_likeliest_label_in_the_order_of_the_inputs(classifier):
    asked = classifier()
    texts = ["zinc number 1", "pear", "a much longer text of silver and iron"]
    found, notes = infer(*asked, texts, probabilities=True)
    assert notes == []
    assert [one["input"] for one in found] == texts
    for one in found:
        assert sum(one["probabilities"].values()) == pytest.approx(1)
        assert one["probability"] == max(one["probabilities"].values()) == one["probabilities"][one["label"]]
    alone = infer(*asked, texts[1:2])[0][0]
    assert "probabilities" not in alone
    assert alone["probability"] == pytest.approx(found[1]["probability"])


def test_texts_that_are_cut_are_noted(classifier):
    _, notes = infer(*classifier(), ["iron " * 30, "iron"])
    assert len(notes) == 1
    assert "1 of 2 texts were cut" in notes[0]


def test_second_texts_belong_to_models_of_pairs(classifier):
    with pytest.raises(ConfigError, match=r"expected no second texts \(--pair\) for 1 inputs .*found 1"):
        infer(*classifier(), ["one"], ["two"])
    pairs = classifier("data.text=[one, two]")
    with pytest.raises(ConfigError, match=r"expected 2 second texts .*found 1"):
        infer(*pairs, ["one", "two"], ["three"])
    assert len(infer(*pairs, ["one", "two"], ["three", "four"])[0]) == 2


def test_a_language_model_answers(monkeypatch, workplace):
    monkeypatch.setattr(inference, "generate", lambda model, prompts, *_: [prompt.upper() for prompt in prompts])
    monkeypatch.setattr(inference, "longest_prompt", lambda *_: 8)
    monkeypatch.setattr(inference, "cut_prompts", lambda *_: ["a note"])

    class Speaker:
        kind = CAUSAL_LM

    found = infer(load_config(workplace / "tiny.yaml"), (), Speaker(), ["which", "colour"])
    assert found == ([{"input": "which", "answer": "WHICH"}, {"input": "colour", "answer": "COLOUR"}], ["a note"])
    with pytest.raises(ConfigError, match="expected no second texts"):
        infer(load_config(workplace / "tiny.yaml"), (), Speaker(), ["which"], ["colour"])
