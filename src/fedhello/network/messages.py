"""Messages between server and clients, and the interface that carries them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from fedhello.types import Reason

PROTOCOL = 3
"""Version of the messages; server and clients must have the same."""


PROBE = bytes(2**19)
"""Bytes sent both ways when a client joins, for a first estimate of its rate."""


Fields = dict[str, Any]
"""Content of a message: name → bytes, str, int or float."""


@dataclass(frozen=True)
class Failure:
    """Why there is no reply."""

    reason: Reason
    detail: str = ""


Reply = Fields | Failure


class Link(Protocol):
    """Carries messages to nodes."""

    def nodes(self) -> frozenset[int]:
        """Return the nodes that are connected now."""
        ...

    def send(self, node: int, kind: str, fields: Fields, group: str = "") -> str:
        """Send a message and return its id; an empty one if it did not go out."""
        ...

    def reply(self, message_id: str) -> Reply | None:
        """Return the reply to a message; None if there is none yet. Does not wait for it."""
        ...

    def forget(self, message_id: str) -> None:
        """Drop the reply to a message when it comes."""
        ...


@dataclass(frozen=True)
class Address:
    """The address of a Flower process.

    Attributes:
        host: Name or IP address.
        port: TCP port.
        ca: The certificate of the authority that signed its certificate; None uses no TLS.
    """

    host: str
    port: int
    ca: Path | None = None

    @property
    def host_port(self) -> str:
        """Host and port in Flower's form."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def insecure(self) -> bool:
        """Whether it uses no TLS."""
        return self.ca is None

    def certificate(self) -> bytes | None:
        """Return the authority's certificate."""
        return None if self.ca is None else self.ca.read_bytes()


def invitation(config: Mapping[str, Any], labels: Sequence[str], run: str) -> Fields:
    """Return the content of the message ``join``."""
    return {
        "protocol": PROTOCOL,
        "version": version("fedhello"),
        "config": json.dumps(config),
        "labels": json.dumps(list(labels)),
        "run": run,
        "probe": PROBE,
    }


def one_line(text: object) -> str:
    """Return a client's text as one line of limited length."""
    found = "".join(c if c.isprintable() else " " for c in str(text))
    return found if len(found) <= 300 else found[:297] + "..."
