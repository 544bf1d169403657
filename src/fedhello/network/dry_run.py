"""What would leave a client: every message kind with its fields and their bytes, without a connection to anybody."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from fedhello.client.scoring import BlockSums
from fedhello.client.settings import METRICS
from fedhello.config.read import load_config
from fedhello.config.schema import Config
from fedhello.data.columns import read_rows
from fedhello.data.names import clean
from fedhello.data.sources import training_table
from fedhello.engine.wire import RUN_ID, decode_tensors, encode_tensors, encode_update
from fedhello.errors import ConfigError
from fedhello.formatting import human_bytes
from fedhello.network.consent import described
from fedhello.network.leaves import Leaf, answers
from fedhello.network.messages import PROBE, invitation
from fedhello.network.options import ClientOptions
from fedhello.network.own_data import own_source
from fedhello.network.preparation import prepare_client
from fedhello.network.refusals import SENTENCES
from fedhello.network.worker import Prepared, Worker
from fedhello.types import Allocation, Update


@dataclass(frozen=True)
class Leaving:
    """A field of a message that leaves.

    Attributes:
        name: Of the field.
        what: What it holds.
        bytes: Its bytes; None if they depend on the server's configuration.
        value: The value itself, where it is short and known.
    """

    name: str
    what: str
    bytes: int | None = None
    value: str | None = None


@dataclass(frozen=True)
class DryRun:
    """What would leave a client, and what its owner consents to.

    Attributes:
        messages: Message kind → the fields of its reply; empty if the owner refuses it.
        consent: What the owner allows and refuses, as lines.
        notes: What cannot be known without the server.
    """

    messages: Mapping[str, tuple[Leaving, ...]]
    consent: tuple[str, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values for JSON."""
        messages = {kind: [asdict(one) for one in leaving] for kind, leaving in self.messages.items()}
        return {"messages": messages, "consent": list(self.consent), "notes": list(self.notes)}

    def lines(self) -> list[str]:
        """Return it as lines of text."""
        found = ["what the owner consents to:", *(f"  {line}" for line in self.consent), "what leaves, by message:"]
        for kind, leaving in self.messages.items():
            found.append(f"  {kind}" if leaving else f"  {kind}: refused, so nothing but a code")
            for one in leaving:
                size = "size depends on the server" if one.bytes is None else human_bytes(one.bytes)
                value = "" if one.value is None else f" = {one.value}"
                found.append(f"    {one.name}: {one.what}{value} ({size})")
        return found + [f"note: {note}" for note in self.notes]


def dry_run(options: ClientOptions, config: str | Path | Mapping[str, Any] | Config | None = None) -> DryRun:
    """Return what would leave a client; nothing is sent, and nothing is trained.

    Args:
        options: The client's options.
        config: The federation's configuration, for the sizes that depend on it; None leaves them open.

    Raises:
        FedhelloError: Of the matching kind, if the client could not take part.
    """
    messages = _unprepared(options) if config is None else _prepared(options, config)
    consent = options.consent
    if not consent.statistics:
        messages["sums"] = ()
    if not consent.scores:
        messages["scores"] = ()
    codes = Leaving("error", f"one of {', '.join(SENTENCES)}; no text", max(map(len, SENTENCES)))
    messages |= {"bye": (Leaving("(empty)", "an empty reply", 0),), "any that fails or is refused": (codes,)}
    notes = [
        "Flower's own requests come on top: an id of this connection, public key and address, and the time of each",
        "the bytes are those before TLS and Flower's framing",
    ]
    if config is None:
        notes.append("sizes that depend on the server's configuration are shown with the configuration (--config FILE)")
    else:
        notes.append("the labels of the federation are taken to be those of this client's data")
        if load_config(config).privacy.secure:
            notes.append(
                "sums are secure: of sums, scores and updates the server sees those over several clients alone"
            )
    return DryRun(messages, tuple(described(consent)), tuple(notes))


def _unprepared(options: ClientOptions) -> dict[str, tuple[Leaving, ...]]:
    """Return what leaves by message, with what the data alone show."""
    known = {"facts.name": options.name}
    if options.part is None:
        labels, samples = _labels(options)
        known |= {"facts.samples": f"at most {samples}", "facts.classes": f"at most {len(labels)} of them"}
    return {
        kind: tuple(Leaving(one.field, one.what, None, known.get(one.field)) for one in answers(kind))
        for kind in ("join", "sums", "scores", "train")
    }


def _labels(options: ClientOptions) -> tuple[list[str], int]:
    """Return the labels of a client's own data that its owner allows, and the number of their samples."""
    source, columns = own_source(str(options.data), options.consent.columns, options.encoding)
    (table,) = training_table(source, None, [])[0].values()
    only = options.consent.labels
    allowed = None if only is None else {clean(label) for label in only}
    labels = [label for label in read_rows(table, columns).labels if allowed is None or label in allowed]
    return sorted(set(labels)), len(labels)


def _prepared(options: ClientOptions, config: Any) -> dict[str, tuple[Leaving, ...]]:
    """Return what leaves by message, from the real encoders on the client's own data."""
    told = load_config(config).model_dump(mode="json")
    if options.part is not None:
        raise ConfigError(
            "expected a dry run with a configuration of a client's own data; found a part. Leave one out."
        )
    labels, _ = _labels(options)
    ready: list[Prepared] = []

    def prepare(raw: dict[str, Any], names: Any) -> Prepared:
        ready.append(prepare_client(options, raw, names))
        return ready[0]

    worker = Worker(prepare, watched=False, consent=options.consent)
    joined = worker.answer("join", invitation(told, labels, "dry-run"))
    if worker.failure is not None:
        raise worker.failure
    client, L = ready[0], ready[0].model.blocks.count
    facts = {f"facts.{name}": value for name, value in json.loads(str(joined["facts"])).items()}
    messages = {"join": tuple(_joined(one, facts) for one in answers("join"))}
    if options.consent.statistics and client.facts.classes:
        reply = worker.answer("sums", {"client": 0, "run": "dry-run"}).get("sums")
        messages["sums"] = _fields("sums", reply if isinstance(reply, bytes) else None)
    zeros = BlockSums(torch.zeros(L, dtype=torch.float64), torch.ones((), dtype=torch.float64))
    messages["scores"] = _fields("scores", encode_tensors(zeros.tensors))
    return messages | {"train": _update(client, options)}


def _joined(one: Leaf, facts: Mapping[str, Any]) -> Leaving:
    """Return a field of the reply to ``join``, with its value if it is short."""
    if one.field not in facts:
        return Leaving(one.field, one.what, len(PROBE))
    text = json.dumps(facts[one.field])
    return Leaving(one.field, one.what, len(text), text if len(text) <= 60 else f"{text[:57]}...")


def _fields(kind: str, payload: bytes | None) -> tuple[Leaving, ...]:
    """Return the fields of a reply in safetensors; without a payload, their sizes are open."""
    size = None if payload is None else len(payload)
    tensors = {} if payload is None else decode_tensors(payload)
    sizes = {f"{kind}.{name}": value.nbytes for name, value in tensors.items()}
    return (Leaving(kind, "all of it", size), *(Leaving(o.field, o.what, sizes.get(o.field)) for o in answers(kind)))


def _update(client: Prepared, options: ClientOptions) -> tuple[Leaving, ...]:
    """Return the fields of the largest update within the budget of blocks, with the values before any training."""
    adapter = client.model.snapshot(share_head=True)
    most = options.consent.budget.blocks
    L = client.model.blocks.count
    blocks = tuple(range(L))[L - min(L, L if most is None else most) :]
    tensors = {name: adapter.tensors[name] for name in adapter.names(Allocation(blocks))}
    bare = Update(0, 0, client.facts.samples, {}, dict.fromkeys(METRICS, 0.0))
    header = len(encode_update(bare, "x" * RUN_ID))
    whole = len(encode_update(Update(0, 0, bare.samples, tensors, bare.metrics), "x" * RUN_ID))
    shapes = [Leaving(f"update.tensors.{name}", f"shape {tuple(v.shape)}", v.nbytes) for name, v in tensors.items()]
    fields = [Leaving(one.field, one.what) for one in answers("train")]
    total = f"all of it, at most, for {len(blocks)} of {L} blocks and the head; {header} bytes are not tensors"
    return (Leaving("update", total, whole), *fields, *shapes)
