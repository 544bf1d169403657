"""``fedhello server``: play a configuration with clients on other machines.

    fedhello server          the run: model, aggregation, evaluation, checkpoints; see ``fedhello.runs.runner``
      └─ flower-superlink    what clients connect with

Started again on the folder of a run that has not finished, it goes on from the last checkpoint, with the same clients.
"""

import itertools
import json
import secrets
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from torch import Tensor

from fedhello.config.schema import Config, parse_config
from fedhello.errors import ClientsError, ConfigError, EngineError, RunFolderError
from fedhello.methods import METHODS
from fedhello.model.adapter import LoraModel
from fedhello.model.loading import CAUSAL_LM
from fedhello.model.pooling import NATIVE
from fedhello.model.statistics import LONGEST_FEATURE, like, longest_pooled
from fedhello.network.client import free_port
from fedhello.network.engine import Address, Arrival, Facts, Link, Lobby, Pace, RemoteEngine, invitation, taken
from fedhello.network.processes import spawn, stop
from fedhello.runs.folder import RunFolder
from fedhello.runs.progress import restore, store_config
from fedhello.runs.runner import Observer, play, warn
from fedhello.setup.clients import federation_of
from fedhello.setup.encoding import longest_answer
from fedhello.setup.prepare import (
    Loaded,
    Session,
    assemble,
    load,
    score_costs,
    statistics_settings,
    step_costs,
    training_settings,
)
from fedhello.types import Client

START_SECONDS = 60.0
"""How long the SuperLink may take until it listens."""

BACK_SECONDS = 60.0
"""How long a run that goes on waits for clients beyond its quorum; the others are admitted when they come."""

COLD_SECONDS = 120.0
"""What plain Flower's clients take besides: a new process per message, which loads the model and the data."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class ServerOptions:
    """How clients reach the server.

    Attributes:
        host: The address that it listens on; this machine alone by default.
        port: Its port; 0 takes a free one.
        keys: The folder with ``ca.crt``, ``server.pem``, ``server.key`` and the public keys ``*.pub`` of the clients
            that may connect; None speaks without TLS, to whoever comes.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    keys: Path | None = None

    def __post_init__(self) -> None:
        if self.keys is not None:
            absent = [name for name in ("ca.crt", "server.pem", "server.key") if not (self.keys / name).is_file()]
            if absent:
                raise ConfigError(
                    f"expected ca.crt, server.pem and server.key in {self.keys}; {', '.join(absent)} is missing. Make "
                    f"them: fedhello keys server --host NAME --out {self.keys}"
                )
            if not self.public_keys:
                raise ConfigError(
                    f"expected a public key NAME.pub of each client in {self.keys}; found none. Make them: "
                    f"fedhello keys client NAME --out {self.keys}"
                )

    @property
    def public_keys(self) -> list[Path]:
        """The keys of the clients that may connect."""
        return [] if self.keys is None else sorted(self.keys.glob("*.pub"))

    @property
    def address(self) -> Address:
        """Where this machine itself reaches the SuperLink."""
        local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return Address(local, self.port, None if self.keys is None else self.keys / "ca.crt")

    def superlink(self, secret: Path) -> list[str]:
        """Return the arguments that start the SuperLink."""
        own = ["--isolation", "process", "--superexec-auth-secret-file", str(secret)]
        where = ["--host", self.host, "--port", str(self.port)]
        if self.keys is None:
            return ["superlink", "--insecure", *where, *own]
        tls = [("--ssl-ca-certfile", "ca.crt"), ("--ssl-certfile", "server.pem"), ("--ssl-keyfile", "server.key")]
        files = [word for option, name in tls for word in (option, str(self.keys / name))]
        return ["superlink", *files, "--enable-supernode-auth", *where, *own]

    def client_command(self, data: str = "my.csv") -> str:
        """Return the command that joins from another machine."""
        host = socket.gethostname() if self.host in ("0.0.0.0", "::") else self.host
        proof = "" if self.keys is None else " --ca ca.crt --key NAME"
        return f"fedhello client --server {host}:{self.port}{proof} --data {data} --memory 4GB"


def served(config: Config) -> Config:
    """Return the configuration as it is served: with Flower as the engine, in a folder that can be found again.

    Raises:
        ConfigError: If it cannot be played over a network.
    """
    method = METHODS[config.method.name]
    if method.pooled:
        raise ConfigError(f"expected a federated method for fedhello server; {method.name} needs all data in one place")
    if config.model.head == "local":
        raise ConfigError(
            "expected a head that the server can evaluate; found model.head: local, which stays with the clients. "
            "Choose prototypes or aggregate."
        )
    if config.clients.dropout:
        raise ConfigError("expected clients.dropout: 0, since real clients are lost by themselves; found another")
    name = config.run.name or _free_name(config)
    return config.model_copy(update={"run": config.run.model_copy(update={"engine": "flower", "name": name})})


def _free_name(config: Config) -> str:
    """Return the first name, made of method and seed, whose run has not finished: it begins, or goes on."""
    base = f"{config.method.name}-seed{config.run.seed}-flower"
    names = itertools.chain([base], (f"{base}-{number}" for number in itertools.count(2)))
    return next(name for name in names if not _has_finished(RunFolder(Path(config.run.out) / name)))


def _has_finished(folder: RunFolder) -> bool:
    return (folder.path / "summary.json").is_file() and folder.summary()["status"] == "finished"


@contextmanager
def superlink(options: ServerOptions, secret: bytes, log: Path) -> Iterator[Callable[[], None]]:
    """Start a SuperLink, which ends with this context or this process, whichever is first; yield what waits for it."""
    with TemporaryDirectory(prefix="fedhello-") as folder:  # of mode 0700
        secret_file = Path(folder) / "secret"
        secret_file.touch(0o600)
        secret_file.write_bytes(secret)
        child = spawn("fedhello.network.flower", options.superlink(secret_file), log, home=Path(folder) / "flwr")
        try:
            yield lambda: _wait_until_it_listens(child, options, log)
        finally:
            stop(child)


def _wait_until_it_listens(child: subprocess.Popen[bytes], options: ServerOptions, log: Path) -> None:
    where, end = options.address, time.monotonic() + START_SECONDS
    while time.monotonic() < end and child.poll() is None:
        try:
            socket.create_connection((where.host, where.port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise EngineError(f"expected Flower's SuperLink to listen at {where.host_port}; it does not. See {log}.")


def check_port(options: ServerOptions) -> None:
    """Check that nobody else listens where the server is to.

    Raises:
        EngineError: If somebody does.
    """
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((options.host, options.port))
        except OSError as error:
            raise EngineError(
                f"expected to listen at {options.host}:{options.port}; {error.strerror}. Give another --host or --port."
            ) from error


def serve(
    config: Config,
    options: ServerOptions,
    observers: Callable[[RunFolder], Sequence[Observer]],
    say: Say,
    ready: Callable[[ServerOptions], None] = lambda options: None,
) -> tuple[RunFolder, dict[str, Any]]:
    """Play a configuration with clients that join over the network.

    Args:
        config: As ``served`` returns it.
        options: How clients reach the server.
        observers: Make those who watch.
        say: Told of everything that a user should hear of.
        ready: Called once clients can connect.

    Returns:
        The run's folder, and the summary.

    Raises:
        FedhelloError: Of the kind that fits.
    """
    from fedhello.network.flower import opened, register

    folder = RunFolder(Path(config.run.out) / (config.run.name or ""))
    _check_folder(folder)
    options = replace(options, port=options.port or free_port())
    check_port(options)
    secret = secrets.token_bytes(32)
    log = folder.path.with_name(f"{folder.path.name}.flower.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with superlink(options, secret, log) as listens:
        say("loading the model and the server's data …")
        loaded = load(config)
        listens()
        register(options.address, options.public_keys)
        with opened(options.address, secret) as link:
            say(f"listening at {options.host}:{options.port}; on each client's machine: {options.client_command()}")
            ready(options)
            return folder, play_over(link, loaded, folder, observers(folder), say)


def _check_folder(folder: RunFolder) -> None:
    """Check that a run can begin, or go on, in a folder."""
    if _has_finished(folder):
        raise RunFolderError(f"expected a run that has not finished; {folder.path} has. Give another run.name.")


def serve_on(link: Link, file: Path) -> None:
    """Play a configuration's file over a link that is there already, under plain ``flwr run``."""
    from fedhello.config.schema import load_config

    config = served(load_config(file))
    slower = {"deadline_floor": config.run.deadline_floor + COLD_SECONDS}
    config = config.model_copy(update={"run": config.run.model_copy(update=slower)})
    folder = RunFolder(Path(config.run.out) / (config.run.name or ""))
    _check_folder(folder)
    play_over(link, load(config), folder, [], print)


def play_over(link: Link, loaded: Loaded, folder: RunFolder, observers: Sequence[Observer], say: Say) -> dict[str, Any]:
    """Wait for the clients, play the run, or what is left of it, and say goodbye once it has finished.

    Raises:
        ClientsError: If too few clients join in time.
    """
    run = secrets.token_hex(8)
    roster = _roster(folder)
    lobby = Lobby(link, _invitation(loaded, run), len(loaded.data.label_names))
    members, nodes, rates = gather(lobby, loaded.config, roster, say)
    session, engine = remote_session(loaded, lobby, members, run)
    engine.node_of, engine.rates = nodes, rates
    if roster:
        with folder.locked():
            resumed = restore(session, folder, lambda line: warn(folder, line))
            store_config(folder, session.config)
            engine.note = lambda line: warn(folder, line)
            summary = play(session, folder, observers, resumed)
    else:
        engine.note = say
        summary = play(session, folder, observers)
    if summary["status"] == "finished":  # any other run may go on, and is to find its clients waiting
        engine.goodbye("finished")
    return summary


def _roster(folder: RunFolder) -> tuple[Facts, ...]:
    """Return who takes part in a run that goes on, by id; nobody where it has not begun."""
    file = folder.path / "clients.json"
    if not file.is_file():
        return ()
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
        return tuple(Facts.model_validate_json(json.dumps(row["facts"])) for row in rows)
    except (ValueError, KeyError, TypeError) as error:
        raise RunFolderError(
            f"expected the folder of a run with Flower; {file} does not say who takes part: {error!r}"
        ) from error


def _invitation(loaded: Loaded, run: str) -> dict[str, Any]:
    """Return what clients are told of the run; where things are on this machine is no part of it."""
    plain = loaded.config.model_dump(mode="json")
    plain["run"] = {"seed": loaded.config.run.seed}
    for section, key in (("model", "name"), *(("data", key) for key in ("name", "validation", "test", "public"))):
        name = plain[section][key]
        if isinstance(name, str) and Path(name).exists():
            plain[section][key] = f"./{Path(name).name}"
    return invitation(plain, loaded.data.label_names, run)


def gather(
    lobby: Lobby,
    config: Config,
    roster: Sequence[Facts],
    say: Say,
    wait: Callable[[float], None] = time.sleep,
) -> tuple[tuple[Facts, ...], dict[int, int], dict[int, float]]:
    """Wait for the clients to join: all of ``data.clients``, or those of the roster, of whom the quorum is enough.

    Returns:
        The members by id, the node of each that is connected, and its rate in bytes per second.

    Raises:
        ClientsError: If too few join within ``run.wait`` seconds.
    """
    wanted = len(roster) or config.data.clients
    enough = ceil(config.train.quorum * config.train.clients_per_round) if roster else wanted
    here: dict[str, tuple[Facts, int, float]] = {}
    begin = said = lobby.clock()
    while len(here) < wanted:
        arrivals = lobby.look()
        here = {name: found for name, found in here.items() if found[1] in lobby.connected}
        for arrival in arrivals:
            complaint = _welcome(arrival, lobby, config, roster, here)
            if complaint is None:
                say(f"{arrival.name} has joined: {len(here)} of {wanted}")
            elif not arrival.seen:
                say(f"a client was not admitted: {complaint}")
        passed = lobby.clock() - begin
        if len(here) >= enough and passed > BACK_SECONDS:
            break
        if passed > config.run.wait:
            raise ClientsError(
                f"expected {enough} clients within {config.run.wait:.0f} s; {len(here)} joined. Start more, lower "
                "data.clients and train.clients_per_round, or raise run.wait."
            )
        if lobby.clock() - said > 10:
            said = lobby.clock()
            say(f"waiting for clients: {len(here)} of {wanted}, {config.run.wait - passed:.0f} s left")
        wait(0.2)
    members = tuple(roster) or tuple(here[name][0] for name in sorted(here))
    ids = {member.name: k for k, member in enumerate(members)}
    nodes = {ids[name]: node for name, (_, node, _) in here.items()}
    return members, nodes, {ids[name]: rate for name, (_, _, rate) in here.items()}


def _welcome(
    arrival: Arrival,
    lobby: Lobby,
    config: Config,
    roster: Sequence[Facts],
    here: dict[str, tuple[Facts, int, float]],
) -> str | None:
    """Count an arrival among those who are here; else return why not."""
    facts = arrival.facts
    if isinstance(facts, str):
        return facts
    if facts.name in here:
        lobby.keep(arrival)
        return taken(facts.name)
    complaint = _admit(facts, config, roster)
    if complaint is None:
        here[facts.name] = (facts, arrival.node, arrival.rate)
    return complaint


def _admit(facts: Facts, config: Config, roster: Sequence[Facts]) -> str | None:
    """Return why a client cannot take part; None if it can."""
    if roster and not any(member.same_client(facts) for member in roster):
        return f"{facts.name!r} did not take part, with this data, from the start"
    b, T = config.train.batch_size, config.data.max_length
    most = ceil(facts.samples / b) * config.train.epochs
    if len(facts.batches) > most or any(
        samples > b or tokens > T for samples, tokens in (facts.widest, *facts.batches)
    ):
        return (
            f"{facts.name!r} cannot take part: expected at most {most} batches of {b} x {T} tokens from "
            f"{facts.samples} samples; it speaks of more"
        )
    try:
        with_tiers(config, [facts])
    except ConfigError as error:
        return f"{facts.name!r} cannot take part: {error}"
    return None


def with_tiers(config: Config, members: Sequence[Facts]) -> Config:
    """Return the configuration with one tier for each different budget of the members, in the order of their ids.

    Raises:
        ConfigError: If the method cannot use a budget.
    """
    budgets = _budgets(members)
    tiers = [_tier(member, sum(_key(m) == key for m in members) / len(members)) for key, member in budgets.items()]
    plain = config.model_dump(mode="json")
    plain["clients"]["tiers"] = tiers
    plain["data"]["clients"] = max(len(members), config.train.clients_per_round)
    return parse_config(plain)


def _key(member: Facts) -> str:
    return json.dumps(asdict(member.as_budget()))


def _budgets(members: Sequence[Facts]) -> dict[str, Facts]:
    """Return a member of each different budget, by the budget, in the order of ids."""
    found: dict[str, Facts] = {}
    for member in members:
        found.setdefault(_key(member), member)
    return found


def _tier(member: Facts, share: float) -> dict[str, Any]:
    """Return a tier as a configuration writes it."""
    found = {key: value for key, value in asdict(member.as_budget()).items() if value is not None}
    units = {"memory": "B", "upload": "B"}
    tier = {key: f"{value}{units[key]}" if key in units else value for key, value in found.items()}
    if "speed" in tier:
        tier["speed"] = f"{tier['speed']:.0f}FLOP/s"
    return {"share": share, **tier}


def remote_session(loaded: Loaded, lobby: Lobby, members: Sequence[Facts], run: str) -> tuple[Session, RemoteEngine]:
    """Put the session of a run together whose clients have joined.

    Raises:
        ConfigError: If the method cannot run with them.
    """
    model, notes = loaded.model, loaded.notes
    config = with_tiers(loaded.config, members)
    settings = training_settings(config, loaded.method, model.device, notes)
    answer = longest_answer(loaded.samples, loaded.held_out.train)
    costs = step_costs(config, model, settings, answer)
    tier_of = tuple(list(_budgets(members)).index(_key(member)) for member in members)
    everyone = [
        Client(k, tier_of[k], config.clients.tiers[tier_of[k]].budget, member.samples, member.classes)
        for k, member in enumerate(members)
    ]
    shapes = [(member.widest, member.batches) for member in members]
    federation = federation_of(config, everyone, shapes, model, costs, notes)
    engine = RemoteEngine(
        link=lobby.link,
        federation=federation,
        members=members,
        settings=settings,
        run=run,
        lobby=lobby,
        costs=costs,
        sums_like=_sums_like(loaded),
        longest_feature=_longest_feature(model),
        scoring=score_costs(config, loaded.method, model, answer),
        pace=Pace(config.run.deadline_floor, config.run.deadline_factor),
        patience=config.run.wait,
    )
    histogram = np.zeros((len(members), len(loaded.data.label_names)), dtype=int)
    session = assemble(replace(loaded, config=config), federation, tier_of, engine, histogram)
    return replace(session, described=_described(members, tier_of, session.labels)), engine


def _described(members: Sequence[Facts], tier_of: Sequence[int], labels: Sequence[str]) -> tuple[dict[str, Any], ...]:
    return tuple(
        {
            "client": k,
            "tier": tier_of[k],
            "samples": member.samples,
            "labels": [labels[c] for c in member.classes],
            "facts": member.model_dump(mode="json"),
        }
        for k, member in enumerate(members)
    )


def _sums_like(loaded: Loaded) -> dict[str, Tensor]:
    if loaded.model.kind == CAUSAL_LM:
        return {}
    moments = statistics_settings(loaded.config).moments
    return like(loaded.model.classes, loaded.model.logits_layer.in_features, moments)


def _longest_feature(model: LoraModel) -> float:
    if model.kind == CAUSAL_LM or model.pooling == NATIVE:
        return LONGEST_FEATURE
    return longest_pooled(model.logits_layer.in_features)
