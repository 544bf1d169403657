"""Which methods a user's own Flower app can have, and what budgets afford of its model."""

import pytest
import torch

pytest.importorskip("flwr", reason="needs the extra flower")

from flower_users import RANK, L, client_app, loader, net, start

from fedhello import flower
from fedhello.allocation.needs import needs
from fedhello.allocation.planner import least_memory
from fedhello.errors import ConfigError, ModelError
from fedhello.methods import METHODS
from fedhello.network.flower_client import adapted
from fedhello.network.flower_nodes import Node, read_budget
from fedhello.network.flower_planning import Planning, usable
from fedhello.types import Budget


def planning(method="rgd-hla", quorum=0.5, **options):
    row, bound = usable(method, options)
    return Planning(row, bound, adapted(net()).lora, None, 2, quorum, seed=7)


def test_a_federation_has_a_tier_for_each_budget_and_the_quorum_of_who_is_asked():
    nodes = [Node(100 + k, k, str(k), Budget(blocks=c)) for k, c in enumerate((3, 1, 3))]
    found = planning().federation(nodes, wanted=3)
    assert [tier.blocks for tier in found.tiers] == [1, 3]
    assert [(client.id, client.tier, client.budget.blocks) for client in found.clients] == [
        (0, 1, 3),
        (1, 0, 1),
        (2, 1, 3),
    ]
    assert (found.num_blocks, found.clients_per_round, found.quorum, found.seed, found.costs) == (L, 3, 2, 7, ())
    assert planning(quorum=0.01).federation(nodes, wanted=3).quorum == 1
    assert planning(quorum=0.1 + 0.2).federation(nodes, wanted=10).quorum == 3  # and not 4, for a rounding error


def test_notes_on_a_method_are_said_once_and_budgets_are_checked_anew_when_they_change(monkeypatch, caplog):
    asked = []
    monkeypatch.setattr(
        "fedhello.network.flower_planning.check_method", lambda *words: asked.append(words) or ("mind the gap",)
    )
    plan, one, two = planning(), *(Node(k, k, str(k), Budget(blocks=k + 1)) for k in range(2))
    for nodes in ([one], [one], [one, two]):
        plan.federation(nodes, 1)
    assert len(asked) == 2
    assert caplog.messages == ["mind the gap"]


def test_a_budget_of_memory_decides_what_trains(grid):
    model = net()
    strategy = flower.FedHello(model, "rgd-hla", batch=(4, 6))
    costs = strategy._planning.costs
    top = needs(costs, least_memory((L - 1,), costs, "keep")).memory_bytes
    for k, memory in enumerate((top, 10**9)):
        grid.connect(client_app(k), memory=f"{memory}B", **{"partition-id": k})
    start(strategy, grid, model)
    assert [one.blocks for one in strategy.reports[0].clients] == [(L - 1,), (0, 1, 2)]
    for budget, sentence in (("1kB", "the least there is to train"), ("1GB", "batch=")):
        complaint = flower.FedHello(net(), "rgd-hla", batch=None if "batch" in sentence else (4, 6))._planning.complaint
        assert sentence in complaint(read_budget({"memory": budget}, "node"))


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_can_be_had_or_is_refused_in_a_sentence(method):
    refused = {"centralised", "server-only", "helora-kd", "local-only", "hetlora"}
    if method in refused:
        with pytest.raises(ConfigError, match=f"{method} .*Use fedhello run or server"):
            flower.FedHello(net(), method, proxy=loader(0))
    else:
        flower.FedHello(net(), method, proxy=loader(0))


def test_what_cannot_be_is_refused_at_once():
    for wrong, sentence in (
        ({"method": "fedavg"}, "one of fedhello's methods"),
        ({"method": "fed-hello"}, "expected proxy="),
        ({"method": "rgd-hla", "options": {"patern": "triangle"}}, "options of rgd-hla"),
        ({"method": "rgd-hla", "options": {"weighting": "batches"}}, "does not count"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            flower.FedHello(net(), **wrong)
    with pytest.raises(ModelError, match="with_lora"):
        flower.FedHello(torch.nn.Linear(1, 1), "rgd-hla")
    assert "expected a budget in blocks" in flower.FedHello(net(), "rgd-hla")._planning.complaint(Budget(rank=2))
    assert "expected a budget in rank" in flower.FedHello(net(), "flexlora")._planning.complaint(Budget(blocks=2))


def test_a_node_that_states_more_than_the_model_has_gets_all_of_it(grid):
    model = net()
    for k, rank in enumerate((RANK, 1000)):
        grid.connect(client_app(k), rank=rank, **{"partition-id": k})
    strategy = flower.FedHello(model, "flora")
    start(strategy, grid, model)
    assert [one.client for one in strategy.reports[0].clients] == [0, 1]
    assert strategy._planning.limited(Budget(blocks=1000, memory=5)) == Budget(blocks=L, memory=5)
