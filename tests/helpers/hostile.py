"""A server played by hand: what it tells and asks a client, whatever its owner thinks of it."""

import json
from types import SimpleNamespace

from machines import CONFIG

from fedhello.engine.wire import encode_task
from fedhello.network.consent import Consent
from fedhello.network.options import ClientOptions
from fedhello.network.preparation import prepare_client
from fedhello.network.server import _invitation
from fedhello.network.worker import Worker
from fedhello.setup.prepare import load
from fedhello.types import Allocation, Task
from network import config_of

LABELS = ["fruit", "metal"]


def told_at(place, labels=LABELS, **sections):
    """Return the message join of a server in a folder, with some keys of its configuration changed."""
    (place / "net.yaml").write_text(CONFIG)
    fields = _invitation(load(config_of(place)), "r")
    raw = json.loads(fields["config"])
    for section, keys in sections.items():
        raw[section] |= keys
    return fields | {"config": json.dumps(raw), "labels": json.dumps(list(labels))}


def client_of(data="texts.csv", model="tiny", part=None, **consent):
    """Return a client that has not joined yet, and what it has prepared so far."""
    options = ClientOptions("a", data, part, model, consent=Consent(**consent))
    ready = SimpleNamespace(client=None)

    def prepare(raw, labels):
        ready.client = prepare_client(options, raw, labels)
        return ready.client

    return Worker(prepare, watched=False, consent=options.consent), ready


def work_for(client, blocks=(0,), tensors=None, **allocation):
    """Return the message train for some blocks of a client's model."""
    adapter = client.model.snapshot(share_head=True)
    if tensors is not None:
        adapter = adapter.with_tensors(tensors)
    payload = encode_task(Task(0, 0, Allocation(tuple(blocks), **allocation), adapter))
    return {"client": 0, "run": "r", "task": payload, "seconds": 60.0}
