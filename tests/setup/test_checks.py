import pytest

from fedhello.config.load import load_config
from fedhello.errors import ConfigError
from fedhello.setup.prepare import prepare

PARTS = "clients.tiers=[{share: 1/2, blocks: 1, rank: 2}, {share: 1/2, blocks: 3, rank: 4}]"


@pytest.mark.parametrize("name", ["fedit", "rbla", "legend", "rolora", "ffa-lora"])
def test_magnitudes_need_whole_factors(workplace, monkeypatch, name):
    monkeypatch.chdir(workplace)
    with pytest.raises(ConfigError, match=f"under {name} a client trains a part of the factors"):
        prepare(load_config(workplace / "tiny.yaml", ["model.lora.dora=true", f"method.name={name}", PARTS]))
