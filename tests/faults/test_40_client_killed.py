"""Case 40: a client is killed before it receives, while it trains, while it sends, and after it has sent.

With real processes: ``test_52_kill_and_restart.py``.
"""

import pytest

from fedhello import algorithm
from fedhello.methods import METHODS
from fedhello.network.messages import Failure


def before(network):
    del network.node_of["client-1"]
    network.now += 2


def training(network):
    network.faults["client-1", "train"] = ["down"]


def sending(network):
    network.faults["client-1", "train"] = [lambda reply: Failure("lost", "the reply's objects never came")]


def cut_off(network):
    network.faults["client-1", "train"] = [lambda reply: {"update": reply["update"][:1000]}]


def after(network):
    def reply_and_die(reply):
        del network.node_of["client-1"]
        return reply

    network.faults["client-1", "train"] = [reply_and_die]


@pytest.mark.parametrize(
    ("kill", "reason"), [(before, "lost"), (training, "lost"), (sending, "lost"), (cut_off, "checksum"), (after, None)]
)
def test_the_quorum_decides_and_the_client_comes_back(remote_world, kill, reason):
    network, engine, local = remote_world()
    method = METHODS["gd-hla"].bind(pattern="triangle")
    state = algorithm.init(local.model.snapshot(share_head=True))
    kill(network)
    state, record = algorithm.round(state, engine.federation, method, engine.train, score=None)
    assert [r.reason for r in record.rejections] == ([] if reason is None else [reason])
    assert record.failed is None
    assert state.round == 1
    network.connect("client-1", network.workers["client-1"])
    network.now += 2
    _, record = algorithm.round(state, engine.federation, method, engine.train, score=None)
    assert [report.client for report in record.clients] == [0, 1, 2]
