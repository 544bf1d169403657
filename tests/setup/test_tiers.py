"""The tiers of a first configuration are written with what they are, and read as they were asked for."""

import pytest
import yaml

from fedhello.config.schema import ClientsConfig
from fedhello.errors import ConfigError
from fedhello.setup.tiers import starter_tiers


def read(tiers):
    return ClientsConfig.model_validate(yaml.safe_load("\n".join(tiers.lines()))["clients"]).tiers


@pytest.mark.parametrize(
    ("memory", "shares", "budgets"),
    [
        ("1GB,4GB", [0.5, 0.5], [10**9, 4 * 10**9]),
        ("3/4:500 MB, 1/4:1GiB", [0.75, 0.25], [5 * 10**8, 2**30]),
        (["2GB"], [1.0], [2 * 10**9]),
        ("1GB,2GB,3GB", [1 / 3] * 3, [10**9, 2 * 10**9, 3 * 10**9]),
    ],
)
def test_memory_is_read_as_it_is_asked_for(memory, shares, budgets):
    found = starter_tiers(memory, clients=10)
    assert [tier.share for tier in read(found)] == pytest.approx(shares)
    assert [tier.memory for tier in read(found)] == budgets
    assert "as asked; fedhello plan" in found.said


@pytest.mark.parametrize(
    ("memory", "said"),
    [
        ("1GB,1/2:4GB", "a share for each tier or for none"),
        ("1/2:1GB,1/4:4GB", "the shares of the tiers must sum to 1"),
        ("1,4", "bytes are a number above 0 with a unit"),
        ("", "bytes are a number above 0 with a unit"),
        ("x:1GB,1/2:4GB", "a share is a number such as"),
        ("1GB,2GB,3GB,4GB", "at most one tier for each of the 3 clients; found 4"),
    ],
)
def test_what_cannot_be_tiers_is_refused(memory, said):
    with pytest.raises(ConfigError, match=said):
        starter_tiers(memory, clients=3)


def test_a_guess_is_said_to_be_one():
    found = starter_tiers(None, clients=20)
    assert [tier.blocks for tier in read(found)] == [2, 4, 6]
    assert "1/3 of the clients each train at most 2, 4, 6 blocks, which is a guess" in found.said
    assert "--memory 1GB,4GB" in found.said
    assert "trains at most so many blocks" in "\n".join(found.lines())
    (one,) = read(starter_tiers(None, clients=2))
    assert (one.share, one.blocks) == (1, 4)
