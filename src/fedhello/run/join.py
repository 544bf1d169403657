"""``fedhello client``: take part in a federation with one's own data, budget and machine.

    fedhello client          a small process that watches over two others, starts them anew, and ends them
      ├─ flower-supernode    speaks with the server
      └─ worker              holds model and data, and trains; see ``fedhello.engine.worker``

When the worker dies (its memory runs out, its training hangs), both are started anew, and the client joins again under
its name. When the SuperNode ends, since the server was away, it alone is; the worker keeps its model.
"""

import contextlib
import hashlib
import json
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from fedhello import embedded
from fedhello.engine.processes import end_with_parent, spawn, stop
from fedhello.errors import ConfigError, EngineError, FedhelloError, ModelError

if TYPE_CHECKING:
    from fedhello.engine.worker import Prepared

SHARE_OF_FREE = 0.8
"""Of the memory that is free once the model is loaded, what a client that names no budget may take."""

WAIT_TO_SEND = 3.0
"""Seconds that the last reply gets to reach the server: Flower looks for replies twice a second."""

PAUSE = 2.0
"""Seconds before something that ended is started anew."""


MOST_CRASHES, LONG = 5, 300.0
"""How often a worker may end within so many seconds of its start before that is an error."""


@dataclass(frozen=True)
class ClientOptions:
    """What a client brings.

    Attributes:
        name: Its stable name; letters, digits, dot, underscore and hyphen, at most 64.
        data: A file, a folder, an embedded data set or a hub id with its own samples; with ``part`` the whole data set.
        part: Take this part of the data set that the configuration splits over its clients.
        model: Where the foundation model is; None takes the server's name for it, if that is no path.
        device: As ``run.device``.
        columns: The data's columns where they are called otherwise than at the server: ``text``, ``label``, ….
        budget: ``blocks``, ``rank``, ``memory``, ``upload`` (bytes) and ``seconds``, those that bind.
    """

    name: str
    data: str | None = None
    part: int | None = None
    model: str | None = None
    device: str = "auto"
    columns: Mapping[str, str] = field(default_factory=dict)
    budget: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.data is None and self.part is None:
            raise ConfigError("expected --data, this client's own samples; found none")
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", self.name):
            raise ConfigError(
                f"expected --name to be letters, digits, dots, underscores and hyphens, at most 64; found {self.name!r}"
            )


def default_name(data: str | None, part: int | None, key: Path | None) -> str:
    """Return a name that stays the same when a client starts anew: of its key, its part, or its machine and data."""
    if key is not None:
        return key.name
    if part is not None:
        return f"part-{part:03d}"
    place = hashlib.sha256(str(data and Path(data).resolve()).encode()).hexdigest()[:8]
    return re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:48] + "-" + place


def prepare_client(options: ClientOptions, raw: Mapping[str, Any], labels: Sequence[str]) -> "Prepared":
    """Make a client of the server's configuration and of what it brings itself.

    Raises:
        FedhelloError: Of the kind that fits, if they do not go together.
    """
    import numpy as np

    from fedhello.client.memory import return_memory_at_once
    from fedhello.client.prediction import batch_shapes
    from fedhello.engine.remote import DeclaredBudget, Facts
    from fedhello.engine.worker import Prepared
    from fedhello.methods import METHODS
    from fedhello.run.samples import longest_answer
    from fedhello.run.session import training_settings

    config = _own_config(options, raw)
    samples, model, classes = _part(options, config, labels) if options.part is not None else _own(config, labels)
    notes: list[str] = []
    method = METHODS[config.method.name].bind(**config.method.options)
    settings = training_settings(config, method, model.device, notes)
    for note in notes:
        _say(f"note: {note}")
    budget = DeclaredBudget(**(options.budget or _tier_of_part(options, config) or _free_memory(model.device)))
    settings = replace(settings, measure_process=budget.memory is not None)
    if settings.measure_process:
        return_memory_at_once()
    initial = model.read(model.block_of)
    widest, batches = batch_shapes(samples.lengths(), config.train.batch_size, config.train.epochs)
    facts = Facts(
        name=options.name,
        samples=len(samples),
        classes=tuple(classes),
        widest=widest,
        batches=tuple(batches),
        budget=budget,
        speed=_speed(model, settings, longest_answer(samples, np.arange(len(samples)))),
        busy=0.0,
    )
    _say(_described(facts))
    return Prepared(model, samples, settings, facts, config.run.seed, initial)


def _own_config(options: ClientOptions, raw: Mapping[str, Any]) -> Any:
    """Return the server's configuration with this client's model, data, columns and device.

    Raises:
        ModelError: If the server names a model by a path.
        ConfigError: If it names data by a path, or the configuration is not one.
    """
    from fedhello.run.config import parse_config

    raw = {key: dict(value) if isinstance(value, Mapping) else value for key, value in raw.items()}
    model, data, run = (raw.setdefault(key, {}) for key in ("model", "data", "run"))
    if options.model is not None:
        model |= {"name": options.model, "revision": None}
    elif not _is_public(str(model.get("name"))):
        raise ModelError(
            f"expected --model, where this client has the model, since the server names a path: {model.get('name')!r}"
        )
    if options.data is not None:
        data["name"] = options.data
    elif not _is_public(str(data.get("name"))):
        raise ConfigError("expected --data besides --part, since the server's data set is a path there; found none")
    if options.part is None:
        # A client trains on all that it has; what the server keeps of its own data does not concern it.
        data |= {"partition": {"kind": "iid"}, "validation": 0.1, "test": 0.1, "samples": None, "split": None}
    elif any(isinstance(data.get(part), str) for part in ("validation", "test", "public")):
        raise ConfigError("expected shares in data.validation, data.test and data.public for --part; found names")
    data |= options.columns
    run["device"] = options.device
    return parse_config(raw)


def _is_public(name: str) -> bool:
    """Whether a name is an embedded one or a hub id, and no path on this machine."""
    from fedhello.data.hub import is_hub_id

    return name.startswith(embedded.PREFIX) or (is_hub_id(name) and not Path(name).exists())


def _own(config: Any, labels: Sequence[str]) -> tuple[Any, Any, list[int]]:
    """Return a client's own samples, the model, and the classes that occur."""
    from fedhello.run.data import load_data
    from fedhello.run.samples import MODEL_KINDS, encode
    from fedhello.run.session import load_model

    data = load_data(config.data, labels)
    model = load_model(config, labels, MODEL_KINDS[data.kind])
    samples, notes = encode(config, data, model)
    for note in (*data.notes, *notes):
        _say(f"note: {note}")
    # Categories of instructions are no classes.
    return samples, model, [] if data.kind == "instructions" else sorted(set(samples.labels.tolist()))


def _part(options: ClientOptions, config: Any, labels: Sequence[str]) -> tuple[Any, Any, list[int]]:
    """Return the same for a part of the data set that the configuration splits."""
    from fedhello.run.data import partition_data
    from fedhello.run.session import load

    loaded = load(config)
    if list(loaded.data.label_names) != list(labels):
        raise ConfigError(
            f"expected the server's classes, {', '.join(labels)}, in {config.data.name}; found "
            f"{', '.join(loaded.data.label_names)}"
        )
    parts = partition_data(config.data, loaded.data, loaded.held_out, config.run.seed)
    if not 0 <= (options.part or 0) < len(parts):
        raise ConfigError(f"expected --part within 0 … {len(parts) - 1}; found {options.part}")
    samples = loaded.samples.subset(parts[options.part or 0])
    return samples, loaded.model, sorted(set(samples.labels.tolist()))


def _tier_of_part(options: ClientOptions, config: Any) -> dict[str, Any]:
    """Return the budget that the configuration gives to a part, as it does on one machine."""
    from fedhello.run.federation import assign_tiers

    if options.part is None:
        return {}
    tier = assign_tiers(config.data.clients, config.clients.tiers)[options.part]
    found = asdict(config.clients.tiers[tier].budget)
    return {key: value for key, value in found.items() if key != "speed" and value is not None}


def _free_memory(device: Any) -> dict[str, int]:
    """Return a share of what is free on the device now, with the model loaded."""
    import psutil
    import torch

    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    return {"memory": int(SHARE_OF_FREE * free)}


def _speed(model: Any, settings: Any, answer: int | None) -> float | None:
    from fedhello.client.prediction import calibrate, measure_speed

    if model.has_magnitudes:
        return None  # nothing predicts the FLOPs of DoRA
    autocast = settings.autocast == "bfloat16"
    return measure_speed(model, calibrate(model, autocast, ["keep"], answer), autocast, answer)


def _described(facts: Any) -> str:
    from fedhello.words import budget_words

    speed = "" if facts.speed is None else f", {facts.speed / 1e9:.0f} GFLOP/s"
    return f"joined as {facts.name}: {facts.samples} samples, budget {budget_words(facts.as_budget())}{speed}"


def cold_worker(node_config: Mapping[str, Any]) -> Any:
    """Return a worker for one message, with the options that ``flower-supernode --node-config`` gives."""
    from fedhello.engine.worker import Worker

    budget = {key: node_config[key] for key in ("blocks", "rank", "upload", "seconds") if key in node_config}
    if "memory" in node_config:
        budget["memory"] = parse_bytes(str(node_config["memory"]))
    part = node_config.get("part")
    data = node_config.get("data")
    options = ClientOptions(
        name=str(node_config.get("name") or default_name(data and str(data), part, None)),
        data=data and str(data),
        part=None if part is None else int(part),
        model=str(node_config["model"]) if "model" in node_config else None,
        budget=budget,
    )
    return Worker(lambda raw, labels: prepare_client(options, raw, labels), watched=False)


def parse_bytes(text: str) -> int:
    """Read bytes with a unit.

    Raises:
        ConfigError: If they are none.
    """
    from pydantic import TypeAdapter, ValidationError

    from fedhello.run.config import Bytes

    try:
        return TypeAdapter(Bytes).validate_python(text)
    except ValidationError:
        raise ConfigError(f"expected bytes with a unit, such as 300MB or 4GB; found {text!r}") from None


@dataclass(frozen=True)
class Connection:
    """How a client reaches the server.

    Attributes:
        host: The server's name or IP address.
        port: Its port.
        ca: The certificate of the authority that vouches for it; None speaks without TLS.
        key: The private key that the client proves itself with; None has none.
        patience: Seconds that it waits for a server that cannot be reached.
    """

    host: str
    port: int
    ca: Path | None = None
    key: Path | None = None
    patience: float = 600.0

    def __post_init__(self) -> None:
        for option, file in (("--ca", self.ca), ("--key", self.key)):
            if file is not None and not file.is_file():
                raise ConfigError(f"expected {option} to name a file; {file} is none")
        if self.key is not None and self.ca is None:
            raise ConfigError("expected --ca besides --key, since a key proves nothing without TLS; found none")

    def supernode(self, port: int, secret: Path) -> list[str]:
        """Return the arguments that start a SuperNode for this connection, which listens on a port of this machine."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        tls = ["--insecure"] if self.ca is None else ["--root-certificates", str(self.ca)]
        proof = [] if self.key is None else ["--auth-supernode-private-key", str(self.key)]
        own = ["--isolation", "process", "--superexec-auth-secret-file", str(secret), "--port", str(port)]
        return ["supernode", "--superlink", f"{host}:{self.port}", *tls, *proof, *own]

    def answers(self) -> bool:
        """Whether something listens there."""
        try:
            socket.create_connection((self.host, self.port), timeout=5).close()
        except OSError:
            return False
        return True


def take_part(connection: Connection, options: ClientOptions, say: Callable[[str], None], log: Path | None) -> None:
    """Take part in a run until it is over.

    Args:
        connection: How the server is reached.
        options: What this client brings.
        say: Told of everything that a user should hear of.
        log: Gets what Flower says; None drops it at the end.

    Raises:
        FedhelloError: Of the kind that fits, if this client cannot take part, or the server is away for too long.
    """
    with TemporaryDirectory(prefix="fedhello-") as folder:  # of mode 0700
        supervisor = _Supervisor(connection, options, say, Path(folder), log or Path(folder) / "flower.log")
        with contextlib.closing(supervisor):
            supervisor.watch()


class _Supervisor:
    """Watches over SuperNode and worker."""

    def __init__(
        self, connection: Connection, options: ClientOptions, say: Callable[[str], None], folder: Path, log: Path
    ) -> None:
        self._connection, self._options, self._say, self._log = connection, options, say, log
        self._secret = folder / "secret"
        self._secret.touch(0o600)
        self._secret.write_bytes(secrets.token_bytes(32))
        self._port = free_port()
        self._crashes, self._began, self._said = 0, 0.0, ""
        self._node: subprocess.Popen[bytes] | None = None
        self._worker: subprocess.Popen[bytes] | None = None
        self._home = folder / "flwr"

    def watch(self) -> None:
        """Keep both running until the run is over."""
        seen = time.monotonic()
        while True:
            if self._connection.answers():
                seen = time.monotonic()
                self._start_what_is_missing()
            else:
                self._stop_node()  # else it would wait longer and longer between two tries
            if time.monotonic() - seen > self._connection.patience:
                where = f"{self._connection.host}:{self._connection.port}"
                raise EngineError(
                    f"expected a server at {where}; nothing answered for {self._connection.patience:.0f} s"
                )
            if self._over():
                return
            time.sleep(PAUSE)

    def _start_what_is_missing(self) -> None:
        if self._node is None:
            arguments = self._connection.supernode(self._port, self._secret)
            self._node = spawn("fedhello.engine.flower", arguments, self._log, self._home)
        if self._worker is None:
            arguments = [json.dumps(asdict(self._options)), str(self._port), str(self._secret)]
            self._worker = spawn("fedhello.run.join", arguments, home=self._home)
            self._began = time.monotonic()

    def _over(self) -> bool:
        """See who has ended; return whether the run is over."""
        if self._worker is not None and self._worker.poll() is not None:
            code, self._worker = self._worker.returncode, None
            if code == 0:
                time.sleep(WAIT_TO_SEND)
                return True
            if code in known_codes():
                time.sleep(WAIT_TO_SEND)
                raise SystemExit(code)  # the worker has said why
            self._count_crash(_why(code))
            self._stop_node()  # a new node is known to be new, and gets no reply that is not coming any more
        if self._node is not None and self._node.poll() is not None:
            # With a key, Flower refuses the same node for about a minute after an end that was not orderly.
            self._say_once(f"the connection ended ({_why(self._node.returncode)}); connecting again")
            self._node = None
        return False

    def _count_crash(self, why: str) -> None:
        """Say that the worker ended, unless it does so again and again.

        Raises:
            EngineError: If it does.
        """
        self._crashes = 1 if time.monotonic() - self._began > LONG else self._crashes + 1
        if self._crashes > MOST_CRASHES:
            raise EngineError(f"expected the training process to go on; it ended {MOST_CRASHES} times, at last {why}")
        self._say(f"the training process ended ({why}); starting it anew")

    def _say_once(self, line: str) -> None:
        """Say what may come to be said every few seconds."""
        if line != self._said:
            self._say(line)
        self._said = line

    def _stop_node(self) -> None:
        if self._node is not None:
            stop(self._node)
            self._node = None

    def close(self) -> None:
        """End both."""
        for child in (self._worker, self._node):
            if child is not None:
                stop(child)


def known_codes() -> set[int]:
    """Return the exit codes of errors that starting anew does not help against."""
    from fedhello import errors

    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, FedhelloError)]
    return {kind.exit_code for kind in kinds} - {FedhelloError.exit_code}


def _why(code: int) -> str:
    from fedhello.engine.worker import HUNG

    if code == HUNG:
        return "training took longer than the server waits for"
    return f"by signal {signal.Signals(-code).name}" if code < 0 else f"with code {code}"


def parse_server(text: str) -> tuple[str, int]:
    """Read HOST:PORT, where an IPv6 address stands in brackets.

    Raises:
        ConfigError: If it is none.
    """
    found = re.fullmatch(r"(?:\[([^\]]+)\]|([^:/]+)):(\d{1,5})", text)
    if found is None or not 0 < int(found[3]) < 2**16:
        raise ConfigError(f"expected --server to be HOST:PORT, such as 192.168.0.7:8000; found {text!r}")
    return found[1] or found[2], int(found[3])


def free_port() -> int:
    """Return a TCP port of this machine that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def main() -> None:
    """Be the worker of a client: ``OPTIONS PORT SECRET``."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's affair; Flower raises it, too, in its threads
    from fedhello.engine.flower import answered
    from fedhello.engine.remote import Address
    from fedhello.engine.worker import Worker

    raw, port, secret = sys.argv[1:]
    options = ClientOptions(**json.loads(raw))
    worker = Worker(lambda config, labels: prepare_client(options, config, labels))
    answered(
        Address("127.0.0.1", int(port)),
        Path(secret).read_bytes(),
        worker.answer,
        going_on=lambda: worker.ended is None and worker.failure is None,
    )
    if worker.failure is not None:
        _say(f"error: {worker.failure}")
        sys.exit(worker.failure.exit_code)
    _say(f"the run is over: {worker.ended}")


if __name__ == "__main__":
    main()
