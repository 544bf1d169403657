import re

import pytest
from refused import refusal

from fedhello.config.choices import INSTRUCTION, PUBLISHED, with_choices
from fedhello.config.load import load_config, parse_config
from fedhello.errors import ConfigError
from fedhello.methods import METHODS


def get(config, dotted):
    if dotted.startswith("method.") and dotted != "method.name":
        return config.method.options[dotted.removeprefix("method.")]
    value = config
    for key in dotted.split("."):
        value = getattr(value, key)
    return value


# What parity: published stands for, and for each key something that contradicts it.
STANDS_FOR = {
    "model.pooling": "native",
    "model.head": "frozen",
    "train.loss": "cross_entropy",
    "train.lr_schedule": "published",
    "train.optimizer": "adamw",
    "train.weight_decay": 0.01,
    "train.autocast": "none",
    "method.weighting": "clients",
    "method.persist": False,
}


CONTRADICTIONS = {
    "model.pooling": "mean",
    "model.head": "prototypes",
    "train.loss": "restricted",
    "train.lr_schedule": "cosine",
    "train.optimizer": "sgd",
    "train.weight_decay": "0.0",
    "train.autocast": "bfloat16",
    "method.weighting": "samples",
    "method.persist": "true",
}


def test_no_key_of_published_is_forgotten_here():
    assert PUBLISHED.keys() == STANDS_FOR.keys()


def test_published_sets_every_key_it_stands_for():
    config = load_config(None, ["parity=published"])
    assert {key: get(config, key) for key in STANDS_FOR} == STANDS_FOR


def test_published_differs_from_the_default_in_every_key_but_the_optimiser():
    config = load_config()
    assert [key for key, value in STANDS_FOR.items() if get(config, key) == value] == ["train.optimizer"]


def test_published_leaves_all_other_keys_as_they_were():
    published, corrected = (
        load_config(None, [f"parity={parity}"]).model_dump() for parity in ("published", "corrected")
    )
    changed = {
        f"{section}.{key}"
        for section in ("model", "data", "clients", "method", "train", "run")
        for key in published[section]
        if published[section][key] != corrected[section][key]
    }
    assert changed == STANDS_FOR.keys() - {"train.optimizer"}


@pytest.mark.parametrize("key", STANDS_FOR)
def test_published_refuses_a_key_that_says_otherwise(key):
    sentence = refusal("parity=published", f"{key}={CONTRADICTIONS[key]}")
    assert sentence.startswith(f"expected {key} to be {STANDS_FOR[key]!r}")
    assert "under parity: published; found" in sentence


@pytest.mark.parametrize("key", STANDS_FOR)
def test_published_accepts_a_key_that_says_the_same(key):
    same = load_config(None, ["parity=published", f"{key}={str(STANDS_FOR[key]).lower()}"])
    assert same == load_config(None, ["parity=published"])


def test_published_also_accepts_the_mean_over_batches():
    config = load_config(None, ["parity=published", "method.weighting=batches"])
    assert config.method.options["weighting"] == "batches"


@pytest.mark.parametrize("section", ["train=5", "method=fim-hla", "model=[frozen]", "method.name=[fim-hla]"])
def test_published_does_not_trip_over_a_section_that_is_none(section):
    assert re.search("input should be a valid|expected keys below it", refusal("parity=published", section))


RANK_TIERS = "clients.tiers=[{share: 1, blocks: 2, rank: 4}]"


@pytest.mark.parametrize("name", [n for n, row in METHODS.items() if n != "fed-hello" and row.averages_layerwise])
def test_published_sets_no_option_that_a_method_does_not_have(name):
    config = load_config(None, ["parity=published", f"method.name={name}", RANK_TIERS])
    assert "persist" not in config.method.options
    assert config.method.options["weighting"] == "clients"


@pytest.mark.parametrize("name", [name for name, row in METHODS.items() if not row.averages_layerwise])
def test_published_is_about_methods_that_average_layer_by_layer(name):
    assert f"found {name}" in refusal("parity=published", f"method.name={name}", RANK_TIERS)


def test_published_does_not_hide_an_unknown_method():
    assert refusal("parity=published", "method.name=fim-hal").endswith("Did you mean fim-hla?")


@pytest.mark.parametrize(
    ("head", "method", "found"),
    [
        ("solved", "rgd-hla", ("cross_entropy", 5e-3, "none", "validation", True)),
        ("solved", "flora", ("cross_entropy", 5e-3, "none", "validation", True)),
        ("solved", "local-only", ("cross_entropy", 5e-3, "none", "last", False)),
        ("solved", "head-only", ("cross_entropy", 5e-3, "none", "last", False)),
        ("prototypes", "rgd-hla", ("restricted", 2e-3, "none", "last", False)),
        ("local", "rgd-hla", ("restricted", 2e-3, "none", "last", False)),
    ],
)
def test_what_auto_stands_for(head, method, found):
    tiers = "clients.tiers=[{share: 1, blocks: 2, rank: 4}]"
    config = load_config(None, [f"model.head={head}", f"method={{name: {method}}}", tiers])
    assert {config.train.loss, config.train.lr, config.train.selection, config.model.drift_compensation} == {"auto"}
    told = with_choices(config)
    chosen = (told.train.loss, told.train.lr, told.train.server.name, told.train.selection)
    assert (*chosen, told.model.drift_compensation) == found
    stated = load_config(
        None,
        [
            f"model.head={head}", "train.loss=adjusted", "train.server.name=avgm", "train.lr=0.1",
            "train.selection=last", "model.drift_compensation=false",
        ],
    )  # fmt: skip
    assert with_choices(stated) == stated


@pytest.mark.parametrize("name", ["head-only", "server-only", "local-only"])
def test_methods_without_a_model_to_select_are_compared_with_those_that_have_one(name):
    asked = ["model.drift_compensation=true", "train.selection=validation", f"method={{name: {name}}}"]
    told = with_choices(load_config(None, asked))
    assert (told.model.drift_compensation, told.train.selection) == (False, "last")


def test_instruction_data_has_no_classes_to_distil():
    raw = {"data": {"prompt": "a", "response": "b"}, "method": {"name": "rgd-hla"}}
    assert parse_config(raw).train.distillation == 0
    assert INSTRUCTION["train.distillation"] == (0.0,)
    with pytest.raises(ConfigError, match=r"expected train\.distillation to be 0\.0 for instruction data"):
        parse_config({**raw, "train": {"distillation": 1.0}})
