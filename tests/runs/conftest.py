"""Sessions of the tiny workplace."""

import contextlib

import pytest

from fedhello.config.load import load_config
from fedhello.setup.prepare import prepare


@pytest.fixture
def prepared(workplace):
    """Prepare a session of it that pools by the mean, with rgd-hla, under the words given."""

    def build(*words):
        with contextlib.chdir(workplace):
            words = ["model.pooling=mean", "method.name=rgd-hla", *words]
            return prepare(load_config(workplace / "tiny.yaml", words))

    return build
