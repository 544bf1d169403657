"""What a configuration is refused with."""

import pytest

from fedhello.config.load import load_config
from fedhello.errors import ConfigError


def refusal(*overrides, path=None):
    """Return the sentence with which a configuration is refused."""
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence
