"""A client: the process that trains, which ``fedhello.network.supervisor`` keeps running."""

import hashlib
import json
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedhello.errors import DataError
from fedhello.network.consent import read_consent
from fedhello.network.options import ClientOptions, default_name
from fedhello.network.processes import end_with_parent
from fedhello.notes import always, show_notes
from fedhello.streams import keep_going


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
        encoding=str(node_config["encoding"]) if "encoding" in node_config else None,
        consent=read_consent(node_config.get("consent"), more),
    )
    return Worker(lambda raw, labels: prepare_client(options, raw, labels), watched=False, consent=options.consent)


def _last_words(secret: Path) -> Path:
    return secret.with_name("failure")


def said_by(secret: Path) -> str:
    """Return why the worker started with a secret cannot take part; empty if it gave no reason."""
    file = _last_words(secret)
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def check_kept(folder: Path, config: Mapping[str, Any], digest: str) -> None:
    """Check that a restarted worker reads the data with which this client joined; their digest stays with the client.

    Args:
        folder: The client's own folder, which lasts as long as the client.
        config: The server's configuration, on which it depends which samples are used.
        digest: Of the samples.

    Raises:
        DataError: If the data have changed.
    """
    asked = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
    file = folder / f"data-{asked[:16]}"
    if not file.exists():
        file.write_text(digest, encoding="utf-8")
    elif file.read_text(encoding="utf-8") != digest:
        raise DataError(
            "expected the data with which this client joined, since what it has sent is of these; they have changed. "
            "Restore them, or end this client and start it again to take part with the new ones."
        )


def main() -> None:
    """Run the worker of a client; arguments: ``OPTIONS PORT SECRET``."""
    keep_going()
    end_with_parent()
    show_notes()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    from fedhello.network.flower import answered
    from fedhello.network.messages import Address
    from fedhello.network.preparation import prepare_client, say
    from fedhello.network.worker import Prepared, Worker

    raw, port, secret = sys.argv[1:]
    options = ClientOptions.from_json(raw)
    always(name=options.name)
    consent, key = options.consent, options.key

    def prepare(config: dict[str, Any], labels: Sequence[str]) -> Prepared:
        folder = Path(secret).parent
        say("asked to join; checking what the server wants …")
        prepared = prepare_client(options, config, labels, folder / "ledger.json")
        check_kept(folder, config, prepared.digest)
        say("waiting for the other clients and the first round …")
        return prepared

    worker = Worker(prepare, consent=consent, key=key)
    say("waiting for the server to ask this client to join …")
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
