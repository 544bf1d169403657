"""A network in one process: workers that answer at once, faults on demand, a clock that moves when waited on."""

import itertools

from fedhello.client.settings import TrainingSettings
from fedhello.config.load import load_config
from fedhello.network.engine import DeadlinePolicy, RemoteEngine
from fedhello.network.messages import invitation
from fedhello.network.options import ClientOptions
from fedhello.network.preparation import prepare_client
from fedhello.network.registry import ClientInfo, ClientRegistry, DeclaredBudget
from fedhello.network.server import served
from fedhello.network.worker import Worker
from fedhello.types import Allocation, Task

SETTINGS = TrainingSettings(
    rounds=4, epochs=1, batch_size=4, optimizer="adamw", lr=1e-2, lr_schedule="constant", lr_decay=1.0,
    weight_decay=0.0, momentum=0.0, loss="cross_entropy", autocast="none",
)  # fmt: skip


def remote_facts(k, samples):
    return ClientInfo(
        name=f"client-{k}", samples=samples, classes=(0, 1, 2), widest=(4, 9), batches=((4, 9, 1),),
        budget=DeclaredBudget(blocks=2), speed=1e9, busy=0.0,
    )  # fmt: skip


def remote_tasks(local, t=0, allocations=None):
    adapter = local.model.snapshot(share_head=True)
    found = allocations or {k: Allocation(tuple(range(k + 1))) for k in sorted(local.data)}
    return [Task(k, t, allocation, adapter) for k, allocation in found.items()]


class Network:
    """A ``Link`` to workers, by name. ``faults`` maps (name, kind) to what becomes of the next such messages.

    ``silent``: no reply ever; ``slow``: the reply takes ``delay`` seconds, a number or a function of the fields;
    ``down``: the node disconnects; a function changes the reply.
    """

    def __init__(self):
        self.now = 0.0
        self.delay = 0.0
        self.workers = {}
        self.node_of = {}
        self.sent = []
        self.faults = {}
        self.forgotten = []
        self._replies = {}
        self._numbers = itertools.count(100)

    def connect(self, name, worker):
        """Connect, or connect again, a worker with a new node."""
        self.workers[name] = worker
        self.node_of[name] = next(self._numbers)
        return self.node_of[name]

    def nodes(self):
        return frozenset(self.node_of.values())

    def send(self, node, kind, fields, group=""):
        name = next((name for name, found in self.node_of.items() if found == node), None)
        if name is None:
            return ""
        message = f"message {next(self._numbers)}"
        self.sent.append((name, kind, fields, message))
        fault = self.faults.get((name, kind), [])
        fault = fault.pop(0) if fault else None
        if fault == "silent":
            return message
        if fault == "down":
            del self.node_of[name]
            return message
        reply = self.workers[name].answer(kind, fields)
        if callable(fault):
            reply = fault(reply)
        delay = self.delay(fields) if callable(self.delay) else self.delay
        self._replies[message] = (self.now + (delay if fault == "slow" else 0.0), reply)
        return message

    def reply(self, message_id):
        due, reply = self._replies.get(message_id, (float("inf"), None))
        return reply if due <= self.now else None

    def forget(self, message_id):
        self.forgotten.append(message_id)

    def clock(self):
        return self.now

    def wait(self, seconds):
        self.now += seconds


def remote_engine(network, federation, facts, settings, prepared, **more):
    """Return an engine over a network whose clients have all joined; ``prepared`` maps k to a client."""
    labels = ["a", "b", "c"]
    run = "this-run"
    asked = invitation({}, labels, run)
    lobby = ClientRegistry(network, asked, len(labels), network.clock)
    nodes = {}
    for k, client in prepared.items():
        worker = Worker(lambda config, labels, client=client: client, watched=False)
        nodes[k] = network.connect(client.facts.name, worker)
    pace = more.pop("pace", DeadlinePolicy(floor=10.0, factor=2.0, unpredicted=20.0))
    engine = RemoteEngine(
        network, federation, facts, settings, run, lobby, pace=pace, clock=network.clock, wait=network.wait, **more
    )
    engine.look_around()
    assert engine.node_of == nodes
    return engine


def config_of(place, *overrides):
    return served(load_config(place / "net.yaml", overrides))


def network_of(clients=3, **brought):
    network = Network()
    for k in range(clients):
        options = ClientOptions(f"part-{k:03d}", data="texts.csv", part=k, model="tiny", **brought)
        worker = Worker(lambda raw, labels, options=options: prepare_client(options, raw, labels), watched=False)
        network.connect(options.name, worker)
    return network
