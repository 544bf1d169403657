"""fedhello as the strategy of somebody's own Flower app, with all of Flower's parts but processes and sockets."""

import numpy as np
import pytest
import torch

pytest.importorskip("flwr", reason="needs the extra flower")

from flower_grid import LocalGrid
from flower_users import RANK, L, client_app, connect, loader, net, start, tensors
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode

from fedhello import algorithm, flower
from fedhello.client.fisher import over_batches
from fedhello.client.scoring import mean_scores
from fedhello.data.batches import Batch
from fedhello.engine.wire import encode_tensors
from fedhello.errors import ConfigError, EngineError, ModelError
from fedhello.methods import METHODS
from fedhello.network.flower_client import adapted, block_sums
from fedhello.types import Budget, Client, Federation, Update


def test_a_run_goes_round_by_round_and_the_users_own_metrics_and_functions_stay(grid):
    model, seen = net(), []
    connect(grid, (1, 2, 3))
    strategy = flower.FedHello(model, "rgd-hla", min_available_nodes=3, min_train_nodes=3, min_evaluate_nodes=3)

    def evaluate_fn(server_round, arrays):
        flower.load(model, arrays)
        seen.append(server_round)
        return MetricRecord({"loss": sum(float(model(**b).loss.detach()) for k in range(3) for b in loader(k))})

    result = start(strategy, grid, model, rounds=3, evaluate_fn=evaluate_fn)
    assert seen == [0, 1, 2, 3]
    assert [sorted(m) for m in result.train_metrics_clientapp.values()] == [["train_loss"]] * 3
    assert [sorted(m) for m in result.evaluate_metrics_clientapp.values()] == [["eval_loss"]] * 3
    assert result.evaluate_metrics_serverapp[3]["loss"] < result.evaluate_metrics_serverapp[0]["loss"]
    assert [len(report.clients) for report in strategy.reports] == [3, 3, 3]
    assert set(result.arrays) == set(flower.arrays(model))


def test_each_node_trains_and_returns_what_it_can_afford_and_the_rest_stays_to_the_bit(grid):
    model = net()
    nodes = connect(grid, (1, 2))
    before = tensors(flower.arrays(model))
    kept = {}
    for node in nodes:
        grid.faults[node] = lambda message, reply: kept.setdefault(message.metadata.dst_node_id, reply)
    result = start(flower.FedHello(model, "gd-hla", options={"pattern": "triangle"}), grid, model)
    trained = set()
    for node, c in zip(nodes, (1, 2), strict=True):
        names = set(kept[node].content["arrays"])
        blocks = {adapted(model).lora.block_of[name] for name in names}
        assert len(blocks - {None}) == c
        assert None in blocks  # the head that all share
        trained |= names
    after = tensors(result.arrays)
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert moved and moved <= trained < after.keys()


@pytest.mark.parametrize(
    ("method", "options", "stated"),
    [
        ("fed-hello", {"warmup": 1, "refresh": 1}, "blocks"),
        ("fim-hla", {"refresh": 1}, "blocks"),
        ("rgd-hla", {}, "blocks"),
        ("gd-hla", {}, "blocks"),
        ("straggler", {}, "blocks"),
        ("full", {}, "blocks"),
        ("fedra-mask", {}, "blocks"),
        ("legend", {}, "blocks"),
        ("fedra", {}, "blocks"),
        ("head-only", {}, "blocks"),
        ("flexlora", {}, "rank"),
        ("raflora", {}, "rank"),
        ("rbla", {}, "rank"),
        ("replication", {}, "rank"),
        ("fedit", {}, "rank"),
        ("helora-pad", {}, "rank"),
        ("hralora", {"warmup": 1}, "rank"),
        ("ffa-lora", {}, "rank"),
        ("rolora", {}, "rank"),
        ("fed-plora", {}, "rank"),
        ("flora", {}, "rank"),
        ("fedex-lora", {}, "rank"),
        ("lora-fair", {}, "rank"),
    ],
)
def test_the_result_is_that_of_algorithm_1_on_the_same_updates_to_the_bit(grid, method, options, stated):
    model = net()
    budgets = [Budget(**{stated: c}) for c in (1, 2)]
    nodes = [grid.connect(client_app(k), **{"partition-id": k, stated: k + 1}) for k in range(2)]
    replies = []
    for node in nodes:
        grid.faults[node] = lambda message, reply: replies.append(reply) or reply
    row = METHODS[method]
    strategy = flower.FedHello(model, method, options=options, proxy=loader(9) if row.uses_scores else None)
    result = start(strategy, grid, model, rounds=3, lr=0.05)

    # The same, by hand: one state after the other, with the updates that went over the grid.
    theta = adapted(net()).lora
    clients = tuple(Client(k, k, budget, 1) for k, budget in enumerate(budgets))
    world = Federation(clients, tuple(budgets), L, 2, 0, rank=RANK, scale=theta.scale)
    state, bound = algorithm.init(theta.snapshot(share_head=True)), row.bind(**options)

    def score(state, _):
        theta.write(state.adapter.tensors)
        return mean_scores([block_sums(theta, loader(9))])

    trained = [reply for reply in replies if reply.content.array_records]
    for t in range(3):
        of_round = trained[2 * t : 2 * t + 2]

        def train(tasks, of_round=of_round):
            for task, reply in zip(tasks, of_round, strict=True):
                names = task.adapter.names(task.allocation)
                sent = tensors(reply.content["arrays"])
                assert sorted(sent) == list(names)
                yield Update(task.client, task.round, 9 + task.client, sent)

        state, record = algorithm.round(state, world, bound, train, score)
        assert record.failed is None, record
    assert strategy.state.round == 3, strategy.reports[-1]
    found = tensors(result.arrays)
    assert found.keys() == state.adapter.tensors.keys()
    assert all(torch.equal(found[name], value) for name, value in state.adapter.tensors.items())


def test_the_sum_does_not_depend_on_the_order_in_which_nodes_came(monkeypatch):
    found = []
    for order in ((0, 1, 2), (2, 0, 1)):
        grid = LocalGrid(monkeypatch)
        for k in order:
            grid.connect(client_app(k), blocks=k + 1, **{"partition-id": k})
        model = net()
        strategy = flower.FedHello(model, "rgd-hla", min_available_nodes=3, min_train_nodes=3)
        found.append(tensors(start(strategy, grid, model, rounds=2).arrays))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def _changed(change):
    def fault(message, reply):
        if message.metadata.message_type == "evaluate":
            return reply
        arrays = dict(reply.content["arrays"].items())
        metrics = dict(reply.content["metrics"].items())
        change(arrays, metrics)
        content = RecordDict({"arrays": ArrayRecord(arrays), "metrics": MetricRecord(metrics)})
        return Message(content, reply_to=message)

    return fault


def _first(arrays):
    return min(name for name in arrays if "lora_B" in name)


def _put(make):
    return lambda arrays, metrics: arrays.update({_first(arrays): make(arrays[_first(arrays)])})


def _count(value):
    return lambda arrays, metrics: metrics.update({"num-examples": value})


CHANGES = {
    "wrong tensors": lambda arrays, metrics: arrays.pop(_first(arrays)),
    "not finite": _put(lambda array: Array(array.numpy() * np.nan)),
    "out of bounds": _put(lambda array: Array(array.numpy() * 0 + 1e30)),
    "malformed": _put(lambda array: Array("float32", (1,), "numpy.ndarray", b"x")),
    "too large": _put(lambda array: Array("float32", (1,), "numpy.ndarray", bytes(10**5))),
    "wrong count": _count(0),
}
"""One of each kind; ``test_flower_records.py`` has more."""


@pytest.mark.parametrize(("reason", "change"), CHANGES.items())
def test_a_reply_that_is_not_what_was_asked_for_does_not_count_and_the_round_goes_on(grid, reason, change, caplog):
    model = net()
    _, broken = connect(grid, (3, 3))
    grid.faults[broken] = _changed(change)
    strategy = flower.FedHello(model, "gd-hla", quorum=0.5)
    result = start(strategy, grid, model)
    (report,) = strategy.reports
    assert [one.client for one in report.clients] == [0]
    assert [(one.client, one.reason) for one in report.rejections] == [(1, reason)]
    assert "client 1 does not count" in caplog.text
    assert result.train_metrics_clientapp[1].keys() == {"train_loss"}
    # What it leads to is the update of the other.
    alone = flower.FedHello(net(), "gd-hla", min_train_nodes=1, min_evaluate_nodes=1, min_available_nodes=1)
    grid.nodes.pop(broken)
    same = start(alone, grid, net())
    assert all(torch.equal(tensors(result.arrays)[n], v) for n, v in tensors(same.arrays).items())


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (lambda message, reply: LocalGrid.error(message, ErrorCode.NODE_UNAVAILABLE), "lost"),
        (lambda message, reply: LocalGrid.error(message, ErrorCode.CLIENT_APP_RAISED_EXCEPTION), "failed"),
        (lambda message, reply: None, "late"),
    ],
)
def test_nodes_that_fail_are_told_apart_by_the_message_and_not_by_its_sender(grid, fault, reason):
    model = net()
    _, broken = connect(grid, (3, 3))
    grid.faults[broken] = fault
    strategy = flower.FedHello(model, "gd-hla")
    start(strategy, grid, model)
    assert [(one.client, one.reason) for one in strategy.reports[0].rejections] == [(1, reason)]


def test_a_round_below_the_quorum_changes_nothing_and_is_tried_again(grid, caplog):
    model = net()
    nodes = connect(grid, (3, 3))
    silent = {node: (lambda message, reply: None) for node in nodes}
    grid.faults.update(silent)
    strategy = flower.FedHello(model, "gd-hla")

    def evaluate_fn(server_round, arrays):
        if server_round == 1:
            grid.faults.clear()
        return MetricRecord({"same": int(all(torch.equal(tensors(arrays)[n], v) for n, v in before.items()))})

    before = tensors(flower.arrays(model))
    result = start(strategy, grid, model, rounds=2, evaluate_fn=evaluate_fn)
    assert [result.evaluate_metrics_serverapp[i]["same"] for i in range(3)] == [1, 1, 0]
    assert "round 1 changes nothing: 0 of 2 updates count; the quorum is 1" in caplog.text
    assert (strategy.state.round, [report.attempt for report in strategy.reports]) == (1, [0, 1])


def test_training_that_changes_nothing_is_an_error_that_says_what_to_do(grid, caplog):
    model = net()
    connect(grid, (3, 3), train=lambda model, batches, lr: 0.0)
    start(flower.FedHello(model, "gd-hla"), grid, model)
    assert "Make the optimiser after" in caplog.text


def test_clients_can_score(grid):
    model = net()
    for k in range(2):
        grid.connect(client_app(k, data=lambda context, k=k: (net(), loader(k))), blocks=k + 1, **{"partition-id": k})
    options = {"refresh": 1, "scores": "clients", "score_samples": 6}
    strategy = flower.FedHello(model, "fim-hla", options=options)
    start(strategy, grid, model)
    lora = adapted(net()).lora
    parts = [b for k in range(2) for b in (loader(k)[0], {n: v[:2] for n, v in loader(k)[1].items()})]
    batches = [Batch({n: v for n, v in b.items() if n != "labels"}, b["labels"]) for b in parts]
    assert strategy.reports[0].scores == pytest.approx(over_batches(lora, batches) / 12, rel=1e-5)
    assert strategy.reports[0].scored
    silent = flower.FedHello(net(), "fim-hla", options=options)
    grid.nodes.clear()
    connect(grid)
    with pytest.raises(EngineError, match=r"none came. Register what scores"):
        start(silent, grid, net())


def test_metrics_of_other_names_are_left_out_and_end_no_run(grid, caplog):
    model = net()
    nodes = connect(grid, (1, 2, 3))

    def odd(message, reply):
        if message.metadata.message_type == "evaluate":
            return Message(RecordDict({"m": MetricRecord({"accuracy": 1.0, "num-examples": 5})}), reply_to=message)
        return _changed(lambda arrays, metrics: metrics.update(mine=1.0))(message, reply)

    grid.faults[nodes[2]] = odd
    strategy = flower.FedHello(model, "rgd-hla", min_available_nodes=3, min_train_nodes=3, min_evaluate_nodes=3)
    result = start(strategy, grid, model)
    assert len(strategy.reports[0].clients) == 3
    assert sorted(result.train_metrics_clientapp[1]) == ["train_loss"]
    assert sorted(result.evaluate_metrics_clientapp[1]) == ["eval_loss"]
    assert caplog.text.count("the metrics of 1 of 3 replies are left out") == 2


def test_arrays_that_are_no_adapter_of_the_model_are_refused(grid):
    connect(grid)
    with pytest.raises(ModelError, match=r"fedhello\.flower\.arrays\(model\)"):
        flower.FedHello(net(), "rgd-hla").start(grid, ArrayRecord(net().state_dict()), num_rounds=1)


def test_a_run_goes_on_from_arrays_of_another(grid):
    model = net()
    connect(grid)
    first = start(flower.FedHello(model, "gd-hla"), grid, model)
    strategy = flower.FedHello(net(), "gd-hla")
    strategy.start(grid, first.arrays, num_rounds=1, train_config=ConfigRecord({"lr": 0.5}))
    sent = grid.trained()[-1].content["arrays"]
    assert all(torch.equal(tensors(sent)[n], v) for n, v in tensors(first.arrays).items())


def test_a_second_start_is_a_run_of_its_own(grid):
    model = net()
    connect(grid)
    strategy = flower.FedHello(model, "fed-hello", options={"warmup": 1, "refresh": 1}, proxy=loader(9))
    results = [start(strategy, grid, net(), rounds=2) for _ in range(2)]
    assert (strategy.state.round, [report.round for report in strategy.reports]) == (2, [0, 1])
    first, second = (tensors(result.arrays) for result in results)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_values_that_end_all_scores_are_not_committed_and_the_run_goes_on(grid, caplog, monkeypatch):
    monkeypatch.setattr("fedhello.engine.tensors.LARGEST_VALUE", 1e30)  # deeper models overflow with less
    model = net()
    _, broken = connect(grid, (3, 3))
    grid.faults[broken] = _changed(
        lambda arrays, metrics: arrays.update({n: Array(a.numpy() * 0 + 1e18) for n, a in arrays.items()})
    )
    strategy = flower.FedHello(model, "fed-hello", options={"warmup": 1, "refresh": 1}, proxy=loader(9))

    def evaluate_fn(server_round, arrays):
        if server_round == 1:
            assert all(torch.equal(tensors(arrays)[n], v) for n, v in tensors(flower.arrays(net())).items())
            grid.faults.clear()

    start(strategy, grid, model, rounds=3, evaluate_fn=evaluate_fn)
    assert "round 1 changes nothing: with the combined values there are no Fisher scores" in caplog.text
    assert (strategy.state.round, [report.attempt for report in strategy.reports]) == (2, [0, 1, 0])


def test_a_client_weighs_for_no_more_samples_than_the_server_allows(grid):
    model = net()
    _, loud = connect(grid, (3, 3))
    grid.faults[loud] = _changed(_count(2**30))
    strategy = flower.FedHello(model, "gd-hla", most_samples=20)
    start(strategy, grid, model)
    assert [one.samples for one in strategy.reports[0].clients] == [9, 20]


def test_who_evaluates_is_drawn_from_the_seed_among_those_that_take_part(monkeypatch):
    found = []
    for order in ((0, 1, 2, 3), (3, 1, 0, 2)):
        grid = LocalGrid(monkeypatch)
        of = {grid.connect(client_app(k), blocks=k + 1, **{"partition-id": k}): k for k in order}
        grid.connect(client_app(9), name="refused")  # it states no budget
        model = net()
        strategy = flower.FedHello(model, "rgd-hla", min_available_nodes=4, fraction_evaluate=0.5, min_train_nodes=1)
        start(strategy, grid, model, rounds=6)
        asked = [m.metadata.dst_node_id for m in grid.sent if m.metadata.message_type == "evaluate"]
        assert len(asked) == 12 and set(asked) <= of.keys()
        found.append([of[node] for node in asked])
    assert found[0] == found[1]
    assert len({tuple(found[0][i : i + 2]) for i in range(0, 12, 2)}) > 1


def test_a_method_of_ones_own_is_found_by_name(grid, monkeypatch, tmp_path):
    (tmp_path / "own_flower_method.py").write_text(
        "import fedhello as fh\n"
        "def topmost(context):\n"
        "    return fh.Allocation((context.federation.num_blocks - 1,))\n"
        "mine = fh.Method('mine', 'the last block', 'here', allocate=topmost)\n"
    )
    monkeypatch.chdir(tmp_path)
    name = "own_flower_method:mine"
    model = net()
    connect(grid)
    strategy = flower.FedHello(model, name)
    METHODS.pop(name)
    start(strategy, grid, model)
    assert [one.blocks for one in strategy.reports[0].clients] == [(L - 1,), (L - 1,)]


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        *(({"quorum": quorum}, "expected quorum as a share") for quorum in (2.0, -1, 0, float("nan"), "half")),
        ({"budgets": {0: {"block": 1}}}, r"expected a budget of budgets\[0\]"),
        ({"budgets": {0: {}}}, r"expected a budget of budgets\[0\]"),
        ({"budgets": {0: 3}}, r"expected a budget of budgets\[0\]"),
        ({"budgets": {None: Budget(blocks=-1)}}, r"expected a budget of budgets\[None\]"),
        ({"most_samples": 0}, "expected most_samples"),
    ],
)
def test_settings_that_mean_nothing_are_refused_at_once(wrong, sentence):
    with pytest.raises(ConfigError, match=sentence):
        flower.FedHello(net(), "rgd-hla", **wrong)


HOSTILE = [(1e38, "out of bounds"), (3e38, "out of bounds"), (np.inf, "not finite"), (np.nan, "not finite")]


@pytest.mark.parametrize(("value", "reason"), HOSTILE)
def test_hostile_values_in_an_update_do_not_count_where_clients_score(grid, value, reason):
    model = net()
    for k in range(2):
        grid.connect(client_app(k, data=lambda context, k=k: (net(), loader(k))), blocks=3, **{"partition-id": k})
    grid.faults[max(grid.nodes)] = _changed(_put(lambda array: Array(array.numpy() * 0 + np.float32(value))))
    strategy = flower.FedHello(model, "fim-hla", options={"refresh": 1, "scores": "clients"})
    result = start(strategy, grid, model)
    assert [(one.client, one.reason) for one in strategy.reports[0].rejections] == [(1, reason)]
    assert all(bool(value.isfinite().all()) for value in tensors(result.arrays).values())


@pytest.mark.parametrize("value", [1e38, 3e38, np.inf, np.nan])
def test_hostile_sums_for_scores_are_left_out(grid, value, caplog):
    model = net()

    def own(k):
        app = client_app(k, data=lambda context: (net(), loader(k)))
        if k == 0:
            return app

        def hostile(message, context):
            reply = app(message, context)
            if message.metadata.message_type == "query.fedhello_score":
                sums = {"squares": torch.full((L,), value).double(), "count": torch.tensor(4.0).double()}
                reply.content["fedhello"] = ConfigRecord({"sums": encode_tensors(sums)})
            return reply

        return hostile

    for k in range(2):
        grid.connect(own(k), blocks=3, **{"partition-id": k})
    strategy = flower.FedHello(model, "fim-hla", options={"refresh": 1, "scores": "clients"})
    start(strategy, grid, model)
    assert "the Fisher scores are without client 1" in caplog.text
    assert np.isfinite(strategy.reports[0].scores).all() and strategy.state.round == 1


def test_values_that_end_the_models_outputs_are_not_committed(grid, caplog, monkeypatch):
    monkeypatch.setattr("fedhello.engine.tensors.LARGEST_VALUE", 1e30)
    model = net()
    _, broken = connect(grid, (3, 3))
    grid.faults[broken] = _changed(
        lambda arrays, metrics: arrays.update({n: Array(a.numpy() * 0 + 1e18) for n, a in arrays.items()})
    )
    strategy = flower.FedHello(model, "rgd-hla")
    start(strategy, grid, model)
    assert "round 1 changes nothing: with the combined values the model's outputs are not finite" in caplog.text
    assert strategy.state.round == 0


def test_an_update_beyond_the_usual_length_is_shortened_and_it_is_said(grid, caplog):
    """With the bound the global adapter stays near that of the three others, and without it, it does not."""

    def moved(**more):
        nodes = connect(grid, (3, 3, 3, 3))
        grid.faults[nodes[3]] = _changed(
            lambda arrays, metrics: arrays.update({n: Array(a.numpy() + 100) for n, a in arrays.items()})
        )
        strategy = flower.FedHello(net(), "full", min_train_nodes=4, min_available_nodes=4, **more)
        found = tensors(start(strategy, grid, net()).arrays)
        grid.nodes.clear()
        return strategy, max(float(value.abs().max()) for value in found.values())

    strategy, largest = moved()
    assert any("client 3 moved the model" in flag and "defence.max_norm" in flag for flag in strategy.reports[0].flags)
    assert "client 3 moved the model" in caplog.text
    assert largest < 5 < moved(max_norm=None)[1]
    with pytest.raises(ConfigError, match="max_norm as a number above 1"):
        flower.FedHello(net(), "full", max_norm=1)


def test_one_clients_weight_is_capped_by_what_the_others_state_and_it_is_said(grid, caplog):
    def led_to(count, **more):
        nodes = connect(grid, (3, 3, 3, 3))
        grid.faults[nodes[3]] = _changed(_count(count))
        strategy = flower.FedHello(net(), "full", min_train_nodes=4, min_available_nodes=4, **more)
        found = tensors(start(strategy, grid, net()).arrays)
        grid.nodes.clear()
        return strategy, found

    strategy, capped = led_to(2**31 - 1)
    assert strategy.reports[0].flags == (
        "client 3 weighs as 110 of the 2,147,483,647 samples that it states, since defence.max_share limits it",
    )  # 10 times 11, of counts 9, 10, 11
    assert "client 3 weighs as 110" in caplog.text
    assert all(torch.equal(capped[n], v) for n, v in led_to(110, max_share=None)[1].items())
    assert led_to(12)[0].reports[0].flags == ()
    with pytest.raises(ConfigError, match="max_share as a number of at least 1"):
        flower.FedHello(net(), "full", max_share=0.5)
