import pytest
from refused import refusal

from fedhello.config.overrides import SECTIONS, check_unique
from fedhello.config.read import load_config
from fedhello.errors import ConfigError


def test_a_mapping_sets_the_keys_that_it_names(file):
    path = file("train: {rounds: 7, server: {name: adam, tau: 0.5}}\nmodel: {lora: {rank: 4, alpha: 2}}\n")
    config = load_config(path, ["train={epochs: 2, server: {beta1: 0.5}}", "model={lora: {rank: 2}}"])
    assert (config.train.rounds, config.train.epochs, config.train.server.tau) == (7, 2, 0.5)
    assert (config.train.server.beta1, config.model.lora.rank, config.model.lora.alpha) == (0.5, 2, 2)
    assert load_config({"train": {"rounds": 7}}, ["train={}"]).train.rounds == 20  # an empty one starts anew


def test_a_mapping_that_names_a_method_or_a_kind_takes_the_place_of_the_other(file):
    path = file("method: {name: fim-hla, refresh: 2}\ndata: {partition: {kind: dirichlet, alpha: 3}}\n")
    config = load_config(path, ["method={name: gd-hla}", "data.partition={kind: iid}"])
    assert (config.method.name, config.data.partition.kind) == ("gd-hla", "iid")
    config = load_config(path, ["method={refresh: 3}", "data.partition={minimum: 1}"])
    assert (config.method.options["refresh"], config.data.partition.alpha, config.data.partition.minimum) == (3, 3, 1)


def test_sections_are_those_of_the_schema():
    assert {"model", "model.lora", "data", "data.partition", "train", "train.server", "method", "run"} <= SECTIONS
    assert not {"clients.tiers", "model.moments", "train.lr"} & SECTIONS


@pytest.mark.parametrize("word", ["train.rounds=", "run.name= ", "train="])
def test_an_override_without_a_value_is_refused(word):
    assert refusal(word).startswith(f"expected a value in the override {word!r}; found none. Write {word.strip()}null ")


@pytest.mark.parametrize("word", ["train..rounds=3", ".train=3", "train.=3", "x.=", " =3"])
def test_an_override_with_an_empty_key_is_refused(word):
    assert refusal(word).startswith("expected an override such as train.rounds=5")


def test_spaces_around_keys_and_values_do_not_count():
    config = load_config(None, [" train . rounds = 3 ", "run.name=  a b  ", "träin.x=1"][:2])
    assert (config.train.rounds, config.run.name) == (3, "a b")
    assert refusal("träin.rounds=3").startswith("unknown key träin. Did you mean train?")


def test_an_element_of_a_list_is_no_key():
    assert "A list is given as a whole" in refusal("clients.tiers.0.blocks=3")


def test_overrides_may_repeat_each_other_but_not_contradict():
    check_unique(
        ["train.rounds=3", "train.rounds=3", "train={rounds: 3}", "method={name: rgd-hla}", "method.pattern=uniform"]
    )
    with pytest.raises(ConfigError, match=r"found train\.rounds in 'train\.rounds=3' and in 'train=\{rounds: 4\}'"):
        check_unique(["train.rounds=3", "train={rounds: 4}"])
