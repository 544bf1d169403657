from fedhello.config.found import pooled, with_speeds_of
from fedhello.config.load import load_config
from fedhello.types import Budget


def test_a_pooled_configuration_has_one_client_without_a_limit():
    config = pooled(load_config(None, ["clients.tiers=[{share: 0.5, blocks: 1}, {share: 0.5, blocks: 2}]"]))
    (tier,) = config.clients.tiers
    assert (tier.budget.limits, config.train.clients_per_round) == ({"rank": config.model.lora.rank}, 1)


def test_measured_speeds_are_kept_and_nothing_else_changes():
    config = load_config(None, ["clients.tiers=[{share: 1, seconds: 3}]"])
    found = with_speeds_of(config, [Budget(seconds=3.0, speed=5e9)])
    assert found.clients.tiers[0].budget == Budget(seconds=3.0, speed=5e9)
    assert found.train == config.train
