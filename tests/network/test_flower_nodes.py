"""Which nodes take part, who they are, and what they state or are given as budget."""

import pytest

pytest.importorskip("flwr", reason="needs the extra flower")

from flower_users import RANK, client_app, connect, net, start
from flwr.clientapp import ClientApp

from fedhello import flower
from fedhello.errors import ClientsError, ConfigError
from fedhello.network.flower_nodes import Nodes, _in_order, read_budget
from fedhello.types import Budget


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({"blocks": 2}, Budget(blocks=2)),
        ({"memory": "4GB", "upload": 10**6}, Budget(memory=4 * 10**9, upload=10**6)),
        ({"rank": 4, "memory": "300 MB"}, Budget(rank=4, memory=300 * 10**6)),
        (Budget(blocks=0), Budget(blocks=0)),
    ],
)
def test_a_budget_is_read_in_counts_and_in_bytes_with_a_unit(stated, expected):
    assert read_budget(stated, "node a") == expected


@pytest.mark.parametrize(
    "stated",
    [{}, {"blocks": -1}, {"blocks": 1.5}, {"rank": 0}, {"memory": "4 potatoes"}, {"memory": 0}, {"disk": 1}, 3,
     {"blocks": 1, "seconds": 2.0}, Budget(), {"memory": "9" * 5000 + "B"}],
)  # fmt: skip
def test_what_is_no_budget_is_refused_on_one_short_line(stated):
    with pytest.raises(ConfigError, match="expected a budget of node a") as caught:
        read_budget(stated, "node a")
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500


def test_names_that_are_numbers_come_first_and_in_their_order():
    assert sorted(["b", "10", "a", "9", "²"], key=_in_order) == ["9", "10", "a", "b", "²"]


def test_nodes_are_asked_once_and_known_by_their_name(grid):
    ids = [grid.connect(client_app(k), blocks=k + 1, name=name) for k, name in enumerate(("10", "b", "9"))]
    nodes = Nodes()
    found = nodes.gather(grid, lambda here: 3)
    assert [(node.client, node.name, node.budget.blocks) for node in found] == [(0, "b", 2), (9, "9", 3), (10, "10", 1)]
    assert len(grid.sent) == 3
    assert nodes.gather(grid, lambda here: 3) == found
    assert len(grid.sent) == 3
    grid.nodes.pop(ids[1])
    assert [node.client for node in nodes.gather(grid, lambda here: 2)] == [9, 10]
    nodes.turn_away(found[1], "no more")
    assert [node.client for node in nodes.gather(grid, lambda here: 1)] == [10]
    nodes.forget()
    assert [node.name for node in nodes.gather(grid, lambda here: 2)] == ["9", "10"]


def test_too_few_nodes_are_an_error_and_no_finished_run(grid):
    now = iter(range(100))
    strategy = flower.FedHello(net(), "gd-hla", wait=5)
    strategy._nodes.clock = lambda: next(now)
    strategy._nodes.sleep = lambda seconds: None
    with pytest.raises(ClientsError, match="expected 2 nodes within 5 s; 0 of the 0"):
        start(strategy, grid, net())
    grid.connect(ClientApp(), blocks=1)
    grid.connect(client_app(0))
    with pytest.raises(ClientsError, match=r"register\(app\).*a budget of node") as caught:
        start(strategy, grid, net())
    assert "0 of the 2" in str(caught.value)


def test_who_starts_anew_is_the_same_client_and_who_comes_later_takes_part(grid):
    model = net()
    first, _ = connect(grid, (1, 3))
    strategy = flower.FedHello(model, "rgd-hla")

    def evaluate_fn(server_round, arrays):
        if server_round == 1:
            grid.nodes.pop(first)
            grid.connect(client_app(0), blocks=2, **{"partition-id": 0})
            grid.connect(client_app(2), blocks=2, **{"partition-id": 2})

    start(strategy, grid, model, rounds=2, evaluate_fn=evaluate_fn)
    assert [[len(one.blocks) for one in report.clients] for report in strategy.reports] == [[1, 3], [2, 3, 2]]
    assert [[one.client for one in report.clients] for report in strategy.reports] == [[0, 1], [0, 1, 2]]


def test_budgets_can_be_given_by_the_server_to_nodes_that_state_none(grid):
    model = net()
    for k in range(3):
        grid.connect(client_app(k), **{"partition-id": k}, **({"blocks": 1} if k == 2 else {}))
    budgets = {0: {"blocks": 2}, 2: {"blocks": 3}, None: Budget(blocks=3)}
    strategy = flower.FedHello(model, "rgd-hla", budgets=budgets, min_available_nodes=3, min_train_nodes=3)
    start(strategy, grid, model)
    assert [len(one.blocks) for one in strategy.reports[0].clients] == [2, 3, 1]


def test_hostile_names_and_budgets_are_refused_on_one_short_line_and_the_run_goes_on(grid, caplog):
    model = net()
    connect(grid, (3, 3))
    for name in ("²", "1" * 5000, "x\nround 7: all fine\x1b[2J", ""):
        grid.connect(client_app(2), blocks=1, name=name)
    grid.connect(client_app(2), name="large", memory="9" * 5000 + "B")
    grid.connect(client_app(2), name="odd", blocks="\x1b[2J" * 1000)
    strategy = flower.FedHello(model, "gd-hla")
    start(strategy, grid, model)
    assert [one.client for one in strategy.reports[0].clients] == [0, 1]
    said = [record.getMessage() for record in caplog.records if "does not take part" in record.getMessage()]
    assert len(said) == 6
    assert all(line.isprintable() and len(line) < 700 for line in said)


def test_a_newcomer_with_whom_the_method_cannot_run_is_turned_away(grid, caplog):
    model = net()
    for k in range(2):
        grid.connect(client_app(k), rank=RANK, **{"partition-id": k})
    strategy = flower.FedHello(model, "flora")

    def evaluate_fn(server_round, arrays):
        if server_round == 1:
            grid.connect(client_app(2), rank=RANK, **{"partition-id": 2})

    start(strategy, grid, model, rounds=2, evaluate_fn=evaluate_fn)
    assert [[one.client for one in report.clients] for report in strategy.reports] == [[0, 1], [0, 1]]
    assert "does not take part: 2: expected the ranks" in caplog.text
    # From the beginning it is for whoever started the run to correct.
    with pytest.raises(ConfigError, match="expected the ranks"):
        start(flower.FedHello(model, "flora"), grid, model)


def test_a_node_that_failed_once_is_asked_again(grid):
    model = net()
    connect(grid, (3, 3))
    failing = [True]
    app, late = client_app(2), ClientApp()

    @late.query("fedhello")
    def join(msg, context):
        if failing.pop() if failing else False:
            raise RuntimeError("not yet")
        return app(msg, context)

    late.train()(app)
    late.evaluate()(app)
    grid.connect(late, blocks=3, **{"partition-id": 2})
    strategy = flower.FedHello(model, "gd-hla")
    start(strategy, grid, model, rounds=2)
    assert [[one.client for one in report.clients] for report in strategy.reports] == [[0, 1], [0, 1, 2]]


def test_while_others_are_waited_for_a_node_that_failed_is_asked_again_after_a_while(grid):
    model, now, asked = net(), [0.0], []
    app, late = client_app(1), ClientApp()

    @late.query("fedhello")
    def join(msg, context):
        asked.append(now[0])
        if len(asked) == 1:
            raise RuntimeError("not yet")
        return app(msg, context)

    late.train()(app)
    late.evaluate()(app)
    grid.connect(client_app(0), blocks=3, **{"partition-id": 0})
    grid.connect(late, blocks=3, **{"partition-id": 1})
    strategy = flower.FedHello(model, "gd-hla")
    strategy._nodes.clock = lambda: now[0]
    strategy._nodes.sleep = lambda seconds: now.__setitem__(0, now[0] + seconds)
    start(strategy, grid, model)
    assert asked == [0.0, 30.0]
    assert len(strategy.reports[0].clients) == 2
