"""The settings of a model in code are those of the configuration, in their names and in what they are unless stated."""

from dataclasses import fields

import pytest

from fedhello.config.load import load_config
from fedhello.config.schema import ModelConfig
from fedhello.config.settings import model_settings
from fedhello.model.settings import LoraSettings, ModelSettings

OF_THE_RUN = {"device", "seed"}
"""Settings that the configuration has in another section."""


def test_every_setting_is_a_key_of_the_configuration():
    assert {field.name for field in fields(ModelSettings)} - OF_THE_RUN <= ModelConfig.model_fields.keys()
    lora = ModelConfig.model_fields["lora"].annotation
    assert {field.name for field in fields(LoraSettings)} == lora.model_fields.keys()


def test_what_is_not_stated_is_the_same_here_and_in_the_configuration():
    assert model_settings(load_config(None, ["model.name=a/model"])) == ModelSettings("a/model")


LORA = "model.lora={rank: 4, alpha: 2, dropout: 0.5, targets: [q], rslora: true, dora: true}"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["method.name=rgd-hla", LORA],
         {"lora": LoraSettings(4, 2.0, 0.5, ("q",), True, True)}),
        (["run.seed=7", "run.device=cpu", "model.dtype=bfloat16"], {"seed": 7, "device": "cpu", "dtype": "bfloat16"}),
        (["model.pad_token='[PAD]'", "model.revision=main"], {"pad_token": "[PAD]", "revision": "main"}),
    ],
)  # fmt: skip
def test_what_is_stated_arrives_in_its_place(words, expected):
    found = model_settings(load_config(None, ["model.name=a/model", *words]))
    values = {name: getattr(found, name) for name in expected}
    if "lora" in values:
        lora = values["lora"]
        values["lora"] = LoraSettings(lora.rank, lora.alpha, lora.dropout, tuple(lora.targets), lora.rslora, lora.dora)
    assert values == expected
