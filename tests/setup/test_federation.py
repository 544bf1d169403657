import pytest

import fedhello as fh

BANDED = {"privacy.epsilon": 8, "privacy.mechanism": "banded", "data.clients": 6, "train.clients_per_round": 2}
BANDED |= {"train.rounds": 6}


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(("changes", "cycle"), [({}, 1), (BANDED, 3), (BANDED | {"privacy.band": 2}, 2)])
def test_clients_take_turns_under_banded_noise(changes, cycle):
    assert fh.prepare("tiny.yaml", changes).federation.cycle == cycle
