"""The settings of data in code are those of the configuration, in their names and in what they are unless stated."""

from dataclasses import fields

import numpy as np

from fedhello.config.load import load_config
from fedhello.config.schema import DataConfig
from fedhello.config.settings import data_settings
from fedhello.data.settings import DataSettings, Pool

OTHERWISE = {"columns": "text, image, prompt, …", "skip_bad_images": "on_bad_image"}
"""Settings that the configuration says by other keys."""


def test_every_setting_is_a_key_of_the_configuration():
    names = {field.name for field in fields(DataSettings)}
    assert names - OTHERWISE.keys() <= DataConfig.model_fields.keys()
    assert not OTHERWISE.keys() & DataConfig.model_fields.keys()


def test_what_is_not_stated_is_the_same_here_and_in_the_configuration():
    stated = data_settings(load_config(None, ["data.name=my.csv", "data.text=text", "data.label=label"]).data)
    plain = DataSettings(stated.name, stated.partition)
    assert plain == stated


def test_a_pool_is_of_files_unless_it_was_handed_over():
    assert not Pool(np.zeros(1, dtype=int), (), ("a",)).in_memory
