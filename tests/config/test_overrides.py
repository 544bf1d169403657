import pytest
from refused import refusal

from fedhello.config.read import load_config


def test_a_mapping_takes_the_place_of_a_section_and_is_not_changed_by_later_overrides(file):
    path = file("train: {rounds: 7, server: {name: avgm, tau: 0.5}}\ndata: {partition: {kind: dirichlet, alpha: 3}}\n")
    config = load_config(path, ["train.server={beta1: 0.5}", "train.server.tau=0.25", "data.partition={kind: iid}"])
    assert (config.train.rounds, config.train.server.name, config.train.server.tau) == (7, "none", 0.25)
    assert config.data.partition.kind == "iid"
    assert load_config(path, ["train={}"]).train == load_config().train
    given = {"train": {"epochs": 2}}
    assert load_config(path, given | {"train.rounds": 3}).train.rounds == 3
    assert given == {"train": {"epochs": 2}}


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


def test_the_last_of_several_overrides_of_a_key_wins():
    assert load_config(None, ["train.rounds=3", "train={epochs: 2, rounds: 4}", "train.rounds=5"]).train.rounds == 5
    assert load_config(None, ["train.rounds=3", "train={epochs: 2}"]).train.rounds == load_config().train.rounds
