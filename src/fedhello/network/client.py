"""A client: its options, and the process that trains, which ``fedhello.network.supervisor`` keeps running."""

import hashlib
import json
import re
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from fedhello.errors import ConfigError
from fedhello.network.consent import DEFAULT_CONSENT, Consent, read_consent
from fedhello.network.processes import end_with_parent
from fedhello.notes import show_notes


@dataclass(frozen=True)
class ClientOptions:
    """The options of a client.

    Attributes:
        name: Its stable name; letters, digits, dot, underscore and hyphen, at most 64.
        data: A file, a folder, an embedded data set or a hub id with its own samples; with ``part`` the whole data set.
        part: Take this part of the data set that the configuration splits over its clients.
        model: Where the foundation model is; None takes the server's name for it, if that is no path.
        device: A value of ``run.device``.
        consent: What the owner of the data consents to, with the columns and the budget.
        key: The file of the client's private key; None without one.

    Raises:
        ConfigError: If there are no data, or the name is not valid.
    """

    name: str
    data: str | None = None
    part: int | None = None
    model: str | None = None
    device: str = "auto"
    consent: Consent = DEFAULT_CONSENT
    key: str | None = None

    def __post_init__(self) -> None:
        if self.data is None and self.part is None:
            raise ConfigError("expected data (--data), this client's own samples; found none")
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", self.name):
            raise ConfigError(
                "expected the client's name (--name) to be letters, digits, dots, underscores and hyphens, at most 64; "
                f"found {self.name!r}"
            )

    def to_json(self) -> str:
        """Return the options as text for another process."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "consent"}
        return json.dumps({**own, "consent": self.consent.model_dump_json(exclude_unset=True)})

    @classmethod
    def from_json(cls, text: str) -> "ClientOptions":
        """Return the options in the text of ``to_json``."""
        found = json.loads(text)
        return cls(**found | {"consent": Consent.model_validate_json(found["consent"])})


def default_name(data: str | None, part: int | None, key: Path | None) -> str:
    """Return a name that is the same at every start: from the key, the part, or the machine and the data."""
    if key is not None:
        return key.name
    if part is not None:
        return f"part-{part:03d}"
    place = hashlib.sha256(str(data and Path(data).resolve()).encode()).hexdigest()[:8]
    return re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:48] + "-" + place


def cold_worker(node_config: Mapping[str, Any]) -> Any:
    """Return a worker for one message, with the options in ``flower-supernode --node-config``."""
    from fedhello.network.preparation import prepare_client
    from fedhello.network.worker import Worker

    limits = ("blocks", "rank", "upload", "seconds", "memory")
    columns = ("text", "label", "image", "prompt", "response")
    more = {
        "budget": {key: node_config[key] for key in limits if key in node_config},
        "columns": {key: str(node_config[key]) for key in columns if key in node_config},
    }
    part = node_config.get("part")
    data = node_config.get("data")
    options = ClientOptions(
        name=str(node_config.get("name") or default_name(data and str(data), part, None)),
        data=data and str(data),
        part=None if part is None else int(part),
        model=str(node_config["model"]) if "model" in node_config else None,
        consent=read_consent(node_config.get("consent"), more),
    )
    return Worker(lambda raw, labels: prepare_client(options, raw, labels), watched=False, consent=options.consent)


def _last_words(secret: Path) -> Path:
    return secret.with_name("failure")


def said_by(secret: Path) -> str:
    """Return why the worker started with a secret cannot take part; empty if it gave no reason."""
    file = _last_words(secret)
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def main() -> None:
    """Run the worker of a client; arguments: ``OPTIONS PORT SECRET``."""
    end_with_parent()
    show_notes()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    from fedhello.network.flower import answered
    from fedhello.network.messages import Address
    from fedhello.network.preparation import prepare_client, say
    from fedhello.network.worker import Worker

    raw, port, secret = sys.argv[1:]
    options = ClientOptions.from_json(raw)
    consent, key = options.consent, options.key
    worker = Worker(lambda config, labels: prepare_client(options, config, labels), consent=consent, key=key)
    answered(
        Address("127.0.0.1", int(port)),
        Path(secret).read_bytes(),
        worker.answer,
        going_on=lambda: worker.ended is None and worker.failure is None,
    )
    if worker.failure is not None:
        _last_words(Path(secret)).write_text(str(worker.failure), encoding="utf-8")
        sys.exit(worker.failure.exit_code)
    say(f"the run is over: {worker.ended}")


if __name__ == "__main__":
    main()
