import pytest

from fedhello.comparison.asked import AskedMethod, asked_methods, asked_seeds
from fedhello.errors import ConfigError


def test_methods_come_with_their_options_and_a_label_of_both():
    found = asked_methods(" fed-hello, gd-hla:pattern=triangle:weighting=clients")
    options = {"pattern": "triangle", "weighting": "clients"}
    assert found == [
        AskedMethod("fed-hello", "fed-hello", {}), AskedMethod(found[1].label, "gd-hla", options),
    ]  # fmt: skip
    assert "triangle" in found[1].label and "clients" in found[1].label
    assert asked_methods("fed-hello:warmup=3:persist=false")[0].options == {"warmup": 3, "persist": False}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "to be a list such as fed-hello,gd-hla"),
        ("fed-hello,,gd-hla", "with an empty entry"),
        ("fed-hallo", "found 'fed-hallo'. Did you mean fed-hello?"),
        ("gd-hla:pattern", "a method's options such as gd-hla:pattern=triangle"),
        ("gd-hla:=triangle", "a method's options such as"),
        ("gd-hla:pattern=circle", "method (gd-hla).pattern"),
        ("gd-hla:warmup=3", "unknown key method (gd-hla).warmup"),
    ],
)
def test_what_is_no_method_is_one_sentence(text, sentence):
    with pytest.raises(ConfigError) as caught:
        asked_methods(text)
    assert sentence in str(caught.value)


def test_seeds_are_integers_each_once():
    assert asked_seeds("3, 0,12") == [3, 0, 12]
    for text, sentence in (
        ("-1", "at least 0"),
        ("1.5", "integers"),
        ("²", "integers"),
        ("1,2,1", "found 1 more than"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            asked_seeds(text)
