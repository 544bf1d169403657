from dataclasses import fields

from fedhello.config.choices import with_choices
from fedhello.config.load import load_config
from fedhello.config.settings import data_settings, head_settings, model_settings, training_settings


def test_every_setting_that_has_a_key_of_its_name_is_that_keys_value():
    config = with_choices(
        load_config(None, ["train.epochs=3", "train.momentum=0.5", "data.max_length=33", "model.head=prototypes"])
    )
    pairs = [
        (training_settings(config), config.train), (data_settings(config.data), config.data),
        (model_settings(config), config.model), (head_settings(config.model), config.model),
    ]  # fmt: skip
    for settings, section in pairs:
        same = [field.name for field in fields(settings) if field.name in type(section).model_fields]
        same = [name for name in same if name != "tangents"]  # 0 with backward
        values = {name: getattr(section, name) for name in same}
        plain = [n for n, v in values.items() if isinstance(v, (int, float, str)) and v not in ("auto", "never")]
        assert plain, type(settings)
        assert {n: getattr(settings, n) for n in plain} == {n: values[n] for n in plain}
