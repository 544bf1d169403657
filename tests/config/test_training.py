import pytest

from fedhello.config.training import ServerConfig


@pytest.mark.parametrize(
    ("name", "given", "rate"), [("avgm", None, 1.0), ("adam", None, 0.01), ("yogi", None, 0.01), ("adam", 0.5, 0.5)]
)
def test_the_servers_rate_is_that_of_its_optimiser_unless_one_is_given(name, given, rate):
    assert ServerConfig(name=name, lr=given).step.lr == rate
