"""Every value that leaves a client, and who can see it: the one list that documentation and tests go by.

``docs/explanation/what-leaves-a-client.md`` shows ``page_table()``. A test records the messages of a run and fails on a
field that is not listed here, and on one that is listed and never sent.
"""

from dataclasses import dataclass
from typing import Literal

Setting = Literal["plain", "secure"]
"""Clients on other machines, without (``plain``) and with ``privacy.secure: true``."""

Viewer = Literal["server", "sum", "clients", "nobody"]

VIEWERS: dict[Viewer, str] = {
    "server": "the server",
    "sum": "the server, in a sum over clients alone",
    "clients": "one other client, encrypted by a key that the server does not have",
    "nobody": "–",
}
"""Who can see a value, in words."""


@dataclass(frozen=True)
class Leaf:
    """A value that leaves a client.

    Attributes:
        message: The kind of message that it answers, or several; ``any`` for all.
        field: Its name in the reply; of values within bytes or text, after a dot.
        what: What it is.
        plain: Who can see it in a federation on many machines.
        secure: Who can see it under secure sums (``privacy.secure``).
    """

    message: str
    field: str
    what: str
    plain: Viewer = "server"
    secure: Viewer = "nobody"

    def seen_by(self, setting: Setting) -> str:
        """Return who can see it under a setting, in words."""
        return VIEWERS[self.plain if setting == "plain" else self.secure]


_FACTS = (
    ("name", "its name"),
    ("samples", "number of its samples"),
    ("classes", "the labels that occur, as positions in the server's list; none for instruction data"),
    ("widest", "samples and tokens of its widest batch, which tells the length of its longest sample"),
    ("batches", "how many batches of a round have how many samples and tokens, which tells quantiles of its lengths"),
    ("budget", "its budget: blocks, rank, memory, upload, seconds"),
    ("speed", "FLOP/s of its machine"),
    ("busy", "seconds that it took to load model and data"),
)

_METRICS = (
    ("loss", "mean loss on its samples while it trains"),
    ("samples", "number of samples that it trained on, each counted once per epoch"),
    ("steps", "number of optimiser steps"),
    ("batches", "number of batches"),
    ("tokens", "number of tokens, padding included"),
    ("widest_samples", "samples of its first batch, the widest"),
    ("widest_tokens", "tokens per sample of that batch"),
    ("widest_labels", "predicted tokens of that batch, of a language model"),
    ("seconds", "seconds of training"),
    ("saved_bytes", "bytes kept for backward in its first step (train.measure_memory)"),
    ("peak_bytes", "most bytes of tensors in its first step (train.measure_memory)"),
    ("process_bytes", "by how much its process grew (with a memory budget)"),
    ("passes_below", "passes through the blocks below its lowest trained one, if it keeps activations"),
)

LEAVES: tuple[Leaf, ...] = (
    *(Leaf("join", f"facts.{name}", what, secure="server") for name, what in _FACTS),
    Leaf("join", "probe", "512 KiB of zeros, by which its rate is measured", secure="server"),
    Leaf(
        "sums",
        "sums.counts",
        "number of its samples of each class; in plain, not of classes with fewer than its owner lets leave",
        secure="sum",
    ),
    Leaf("sums", "sums.features", "sum of the model's features over its samples of each class", secure="sum"),
    Leaf(
        "sums",
        "sums.moments",
        "sums of products of features over its samples; over few samples in plain, their trace alone",
        secure="sum",
    ),
    Leaf("scores", "scores.squares", "squared norm of the gradient, summed over samples, per block", secure="sum"),
    Leaf("scores", "scores.count", "number of samples in it", secure="sum"),
    Leaf("train", "update.run", "the run's id, as the server sent it"),
    Leaf("train", "update.client", "its number in the run, as the server sent it"),
    Leaf("train", "update.round", "the round, as the server sent it"),
    Leaf("train", "update.samples", "number of its samples: its weight", secure="sum"),
    Leaf("train", "update.metrics.loss", _METRICS[0][1], secure="sum"),
    *(Leaf("train", f"update.metrics.{name}", what) for name, what in _METRICS[1:]),
    Leaf("train", "update.tensors", "values of the factors and of the head that it trained", secure="sum"),
    Leaf("train", "update.digest", "SHA-256 of the update"),
    Leaf("any", "error", "why it does not answer, as a word", secure="server"),
    Leaf("keys", "keys.encryption", "public key (X25519) for the shares", plain="nobody", secure="server"),
    Leaf("keys", "keys.masks", "public key (X25519) for the masks", plain="nobody", secure="server"),
    Leaf("keys", "keys.vouched", "with a key, its public key and signature", plain="nobody", secure="server"),
    Leaf("shares", "sealed", "shares of the seeds of its masks", plain="nobody", secure="clients"),
    Leaf("shares", "commitments", "hashes of the seeds of its own masks", plain="nobody", secure="server"),
    Leaf("train, sums, scores", "masked", "its vector with masks on, uniformly random by itself", "nobody", "server"),
    Leaf("unmask", "shares.index", "its number among those who hold shares", plain="nobody", secure="server"),
    Leaf("unmask", "shares.own", "shares of the own masks of those who stayed", plain="nobody", secure="server"),
    Leaf("unmask", "shares.pairs", "shares of the pair masks of those who left", plain="nobody", secure="server"),
)
"""All of them."""

STARTS, ENDS = "<!-- made from fedhello.network.leaves -->", "<!-- end -->"
"""What stands before and after the table in the page."""


def answers(message: str) -> list[Leaf]:
    """Return what leaves in answer to a kind of message without secure sums, errors apart."""
    return [one for one in LEAVES if one.message == message and one.plain != "nobody"]


def page_table() -> str:
    """Return the table of the page, in Markdown, between its two marks."""
    head = "| Answers | Field | What it is | Plain: seen by | Secure sums: seen by |\n|---|---|---|---|---|"
    rows = [
        f"| {one.message} | `{one.field}` | {one.what} | {one.seen_by('plain')} | {one.seen_by('secure')} |"
        for one in LEAVES
    ]
    return "\n".join([STARTS, "", head, *rows, "", ENDS])


def unlisted(message: str, fields: set[str]) -> list[str]:
    """Return the fields of a reply that are not in the list.

    Args:
        message: The kind of message that it answers.
        fields: The names of the fields, as in ``Leaf.field``.

    Example:
        >>> unlisted("train", {"update.tensors", "update.location"})
        ['update.location']
    """
    listed = {one.field for one in LEAVES if {message, "any"} & set(one.message.split(", "))}
    return sorted(fields - listed)
