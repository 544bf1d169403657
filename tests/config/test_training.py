import pytest

from fedhello.config.load import load_config
from fedhello.config.training import ServerConfig
from fedhello.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "given", "rate"), [("avgm", None, 1.0), ("adam", None, 0.01), ("yogi", None, 0.01), ("adam", 0.5, 0.5)]
)
def test_the_servers_rate_is_that_of_its_optimiser_unless_one_is_given(name, given, rate):
    assert ServerConfig(name=name, lr=given).step.lr == rate


def test_when_a_run_stops_is_checked():
    train = load_config(None, ["train.stop={patience: 3, min_delta: 0.01}", "train.target=90%"]).train
    assert (train.stop.patience, train.stop.metric, train.target) == (3, "validation_accuracy", 0.9)
    for wrong in ("train.stop={patience: 0}", "train.stop={min_delta: 0.1}", "train.target=1.5", "train.target=0"):
        with pytest.raises(ConfigError, match=r"train\.(stop|target)"):
            load_config(None, [wrong])
