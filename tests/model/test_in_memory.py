"""Foundation models that a program has in memory."""

import json

import pytest
import torch
import transformers

import fedhello as fh
from fedhello.model.in_memory import as_it_is, foundation_of
from fedhello.model.sources import CAUSAL_LM, IMAGES


def adapter(run):
    return (run.path / "adapter" / "adapter_model.safetensors").read_bytes()


def classifier(labels=2, name="tiny"):
    found = transformers.AutoModelForSequenceClassification.from_pretrained(
        name, num_labels=labels, ignore_mismatched_sizes=True
    )
    return found, transformers.AutoTokenizer.from_pretrained(name)


def test_a_model_in_memory_is_the_model_of_a_folder(place):
    named = fh.run("tiny.yaml", {"run.name": "named"})
    model, tokenizer = classifier()
    run = fh.run("tiny.yaml", {"run.name": "held"}, model=model, processor=tokenizer)
    assert run.config.model.name == "memory"
    assert adapter(run) == adapter(named)
    texts = ["plum number 4", "zinc number 9"]
    right = [one.probability for one in named.predict(texts)]
    assert [one.probability for one in run.predict(texts)] == right
    assert run.evaluate().test.accuracy == named.summary.final

    with pytest.raises(fh.ModelError, match="which was passed as an object"):
        fh.load_run(run.path).predict(texts)
    model, tokenizer = classifier()
    read = fh.load_run(run.path, model=model, processor=tokenizer)
    assert [one.probability for one in read.predict(texts)] == right
    assert [one.probability for one in read.predict(texts)] == right
    assert read.evaluate().test.accuracy == named.summary.final
    with pytest.raises(fh.ConfigError, match="expected no data"):
        fh.load_run(run.path, data=[{"text": "iron", "label": "metal"}])
    where = json.loads((run.export("exported") / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert where == "tiny"  # no path of this machine
    with pytest.raises(fh.ModelError, match="expected the tokenizer"):
        fh.prepare("tiny.yaml", model=classifier()[0])
    with pytest.raises(fh.ModelError, match="expected a model without adapters"):
        fh.prepare("tiny.yaml", model=model, processor=tokenizer)


def test_a_model_without_a_head_is_pooled_as_asked_for(place):
    model, tokenizer = transformers.AutoModel.from_pretrained("tiny"), classifier()[1]
    with pytest.raises(fh.ModelError, match=r"expected model\.pooling"):
        fh.prepare("tiny.yaml", model=model, processor=tokenizer)
    held = fh.run("tiny.yaml", {"run.name": "p", "model.pooling": "mean"}, model=model, processor=tokenizer)
    named = fh.run("tiny.yaml", {"run.name": "q", "model.pooling": "mean"})
    assert adapter(held) == adapter(named)
    with pytest.raises(fh.ModelError, match="expected 2 outputs"):
        fh.prepare("tiny.yaml", model=classifier(labels=5)[0], processor=tokenizer)
    with pytest.raises(fh.ModelError, match="expected a transformers model"):
        fh.prepare("tiny.yaml", model=torch.nn.Linear(2, 2), processor=tokenizer)


TEXTS = "text-classification"
SMALL = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def bert(task="SequenceClassification", labels=2, **more):
    kind = getattr(transformers, f"BertFor{task}" if task else "BertModel")
    return kind(transformers.BertConfig(vocab_size=20, num_labels=labels, **SMALL, **more))


class Tokenizer:
    """As much of a tokenizer as is looked at."""

    pad_token, pad_token_id, eos_token = "[PAD]", 0, "[END]"


def foundation(module, kind=TEXTS, labels=("fruit", "metal"), seed=0, processor=Tokenizer, **more):
    return foundation_of(module, processor() if processor else None, kind, labels, seed, **more)


def test_a_classifiers_head_is_fresh_from_the_seed_and_knows_the_classes():
    before = torch.random.get_rng_state()
    heads = []
    for seed in (0, 0, 1):
        module = bert()
        encoder = {name: value.clone() for name, value in module.bert.state_dict().items()}
        found = foundation(module, seed=seed)
        assert found.module is module
        assert all(torch.equal(value, encoder[name]) for name, value in module.bert.state_dict().items())
        heads.append(module.classifier.weight.detach().clone())
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])
    assert found.module.config.id2label == {0: "fruit", 1: "metal"}
    torch.random.set_rng_state(before)
    expected = torch.rand(1)
    torch.random.set_rng_state(before)
    module = bert()
    state = torch.random.get_rng_state()
    foundation(module, seed=5)
    assert torch.equal(torch.random.get_rng_state(), state), "the global random state is left as it was"
    assert expected.shape == (1,)


def test_a_model_without_a_head_gets_one_beside_it():
    found = foundation(bert(task=None), pooling="mean", labels=("a", "b", "c"))
    assert (found.pooling, found.head.weight.shape) == ("mean", (3, 8))


@pytest.mark.parametrize(
    ("make", "words", "sentence"),
    [
        (
            lambda: torch.nn.Linear(2, 2),
            {},
            r"expected a transformers model \(PreTrainedModel\); found Lin",
        ),
        (bert, {"processor": None}, "expected the tokenizer of BertForSequenceClassification; found none"),
        (lambda: bert(labels=5), {}, "expected 2 outputs for the classes fruit, metal; BertForSeq.* has 5"),
        (bert, {"pooling": "mean"}, r"expected model\.pooling to be auto or native .*; found mean"),
        (lambda: bert(task=None), {}, r"expected model\.pooling to be cls, mean, last or pooler .*; found auto"),
        (lambda: bert(task=None), {"kind": CAUSAL_LM}, "expected a model with a head, .*; BertModel has none"),
    ],
)
def test_what_cannot_be_taken_is_refused_in_a_sentence(make, words, sentence):
    with pytest.raises(fh.ModelError, match=sentence):
        foundation(make(), **words)


def test_a_model_that_carries_adapters_or_is_quantised_is_refused():
    carrying, quantised = bert(), bert()
    carrying.peft_config, quantised.hf_quantizer = {}, object()
    for take in (foundation, as_it_is):
        with pytest.raises(fh.ModelError, match="expected a model without adapters"):
            take(carrying)
        with pytest.raises(fh.ModelError, match="whose weights are not quantised"):
            take(quantised)


def test_a_model_as_it_is_keeps_its_head_and_says_what_it_is_for():
    module = bert()
    before = module.classifier.weight.detach().clone()
    assert as_it_is(module).kind == TEXTS
    assert torch.equal(module.classifier.weight, before)
    vit = transformers.ViTForImageClassification(transformers.ViTConfig(image_size=4, patch_size=2, **SMALL))
    assert as_it_is(vit).kind == IMAGES
    llama = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=20, **SMALL))
    assert as_it_is(llama).kind == CAUSAL_LM
    with pytest.raises(fh.ModelError, match=r"expected a model with a head, .*; BertModel has none"):
        as_it_is(bert(task=None))
