"""Case 54: 50 MB over a link of 1 MB/s: deadlines follow bytes and rates, none is fixed."""

import contextlib
import json
import shutil
from dataclasses import replace

import pytest
import torch
from machines import Machines
from shaped import shaped_link
from transformers import BertConfig, BertForSequenceClassification

from fedhello.network.engine import DeadlinePolicy
from fedhello.network.messages import PROBE
from fedhello.network.registry import Arrival
from fedhello.types import Update
from network import remote_tasks

MEGABYTE = 10**6


@pytest.mark.parametrize(
    ("size", "rate"), [(50 * MEGABYTE, MEGABYTE), (50 * MEGABYTE, MEGABYTE // 10), (1000, MEGABYTE)]
)
def test_the_deadline_leaves_room_for_the_transfer_at_the_measured_rate(size, rate):
    transfer = size / rate
    found = DeadlinePolicy().seconds(size, rate, 0.0, 1.0)
    assert found >= 3 * transfer
    assert found <= 3 * transfer + 30


def test_a_slow_client_is_waited_for_and_a_fast_one_not_as_long(remote_world):
    _network, engine, local = remote_world()
    task = remote_tasks(local)[1]
    engine.rates |= {1: float(MEGABYTE)}
    slow = engine.seconds(task, 50 * MEGABYTE)
    engine.rates |= {1: 100.0 * MEGABYTE}
    assert slow > 100 > engine.seconds(task, 50 * MEGABYTE)


def test_an_update_that_takes_most_of_its_deadline_counts(remote_world):
    network, engine, local = remote_world()
    engine.rates = dict.fromkeys(range(3), 500.0)  # bytes per second: what a few kB need minutes for
    asked = remote_tasks(local)
    network.delay = lambda fields: 0.9 * fields["seconds"]
    network.faults["client-1", "train"] = ["slow"]
    replies = list(engine.train(asked))
    assert all(isinstance(reply, Update) for reply in replies)
    assert network.now > 30


def test_the_rate_is_estimated_by_a_probe_when_a_client_joins(remote_world):
    _, engine, _ = remote_world()
    facts = engine.members[0]
    busy = facts.model_copy(update={"busy": 60.0})  # it loaded a model meanwhile
    arrival = Arrival(1, busy, 61.0)
    assert arrival.rate == pytest.approx(2 * len(PROBE))
    assert replace(arrival, facts=facts).rate < arrival.rate


WIDE = """
model: {name: ./wide, lora: {rank: 256, alpha: 256, targets: all-linear}}
data: {name: texts.csv, clients: 1, proxy: 4, max_length: 16, partition: {kind: iid}}
clients: {tiers: [{share: 1, blocks: 4}]}
method: {name: full}
train: {rounds: 1, clients_per_round: 1, lr: 1e-2, autocast: none}
run: {name: net, wait: 600}
"""

WATCHED = """
import json

from fedhello.cli.main import main
from fedhello.network.engine import RemoteEngine

send, replies = RemoteEngine._send, RemoteEngine._replies
asked = {}


def size(reply):
    return sum(len(value) for value in reply.values() if isinstance(value, bytes)) if isinstance(reply, dict) else 0


def sending(engine, client, kind, *more, **named):
    one = send(engine, client, kind, *more, **named)
    asked[one.message] = {"kind": kind, "rate": engine.rates[client], "deadline": one.deadline - one.began}
    return one


def replying(engine, sent):
    for one, reply in replies(engine, sent):
        entry = asked[one.message] | {"seconds": engine.clock() - one.began, "down": one.bytes_down, "up": size(reply)}
        with open("messages.jsonl", "a") as file:
            print(json.dumps(entry), file=file)
        yield one, reply


RemoteEngine._send, RemoteEngine._replies = sending, replying
main()
"""
"""``fedhello server``, which also writes down each message's bytes, deadline, and seconds until its reply."""


@pytest.fixture
def far_apart(workplace, tmp_path):
    """A server and a client on a link of 1 MB/s, and a model whose adapter has 50 MB."""
    pytest.importorskip("flwr", reason="needs the extra flower")
    folder = tmp_path / "place"
    shutil.copytree(workplace, folder, ignore=shutil.ignore_patterns("runs"))
    shutil.copytree(folder / "tiny", folder / "wide")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BertConfig(num_hidden_layers=4, intermediate_size=2304, max_position_embeddings=32)
        BertForSequenceClassification(config).save_pretrained(folder / "wide")
    (folder / "watched.py").write_text(WATCHED)
    with contextlib.ExitStack() as stack:
        try:
            (host, there), (_, here) = stack.enter_context(shaped_link(MEGABYTE))
        except PermissionError as error:
            pytest.skip(f"needs network namespaces and links of a given rate: {error}")
        yield stack.enter_context(
            contextlib.closing(Machines(folder, WIDE, host, inside={"server": there, "client": here}))
        )


@pytest.mark.slow
def test_an_update_of_50_mb_over_a_shaped_link_of_1_mb_per_second_counts(far_apart):
    net = far_apart
    net.server(module="watched")
    net.client(0, "--model", "wide")
    assert net.end("server", 900) == 0, net.all_said()
    assert net.end("client-0", 60) == 0, net.all_said()
    (entry,) = net.rounds()
    assert (entry["failed"], entry["rejections"], len(entry["clients"])) == (None, [], 1)
    trained = entry["clients"][0]
    facts = json.loads((net.run / "clients.json").read_text())["clients"][0]["facts"]
    messages = [json.loads(line) for line in (net.folder / "messages.jsonl").read_text().splitlines()]
    print(*messages, sep="\n")
    _first_sums, train, sums, _bye = messages
    assert [message["kind"] for message in messages] == ["sums", "train", "sums", "bye"]
    assert min(train["down"], train["up"], sums["down"]) > 50 * MEGABYTE
    # The link was really shaped, and took longer than the minute after which a fixed deadline would end.
    assert 60 < 0.95 * (train["down"] + train["up"]) / MEGABYTE < train["seconds"]
    training = trained["metrics"]["flops"] / facts["speed"]
    bytes_ = train["down"] + 1.1 * train["up"]  # the most that it may send
    assert train["deadline"] == pytest.approx(30 + 3 * (bytes_ / train["rate"] + training), rel=0.01)
    # The probe, which waits for Flower's polls too, gives a lower bound on the rate; the large message raises it.
    assert train["rate"] < sums["rate"] < 1.1 * MEGABYTE
    transfer = (sums["down"] + sums["up"]) / sums["rate"]
    assert 30 + 3 * transfer < sums["deadline"] < 60 + 3 * transfer
    assert all(message["seconds"] < message["deadline"] for message in messages)
