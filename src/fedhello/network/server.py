"""``fedhello server``: run a configuration with clients on other machines.

    fedhello server          the run: model, aggregation, evaluation, checkpoints; see ``fedhello.runs.runner``
      └─ flower-superlink    what clients connect with

Started again on the folder of an unfinished run, it resumes from the last checkpoint, with the same clients.
"""

import itertools
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from fedhello.client.cost_model import StepCosts
from fedhello.client.loss import LOSSES
from fedhello.config.checks import check_private
from fedhello.config.schema import Config
from fedhello.config.settings import head_settings, secure_settings, statistics_settings, training_settings
from fedhello.data.partition import PARTITIONS
from fedhello.errors import ConfigError
from fedhello.methods import METHODS
from fedhello.model.adapter import LoraModel
from fedhello.model.head import is_shared
from fedhello.model.pooling import NATIVE
from fedhello.model.private_sums import WHOLE
from fedhello.model.sources import CAUSAL_LM
from fedhello.model.statistics import LONGEST_FEATURE, like, longest_pooled
from fedhello.network.admission import Say, Unable, budgets_of, gather, key_of, with_tiers
from fedhello.network.deadlines import DeadlinePolicy
from fedhello.network.engine import RemoteEngine
from fedhello.network.keyring import Keyring
from fedhello.network.messages import Link, invitation
from fedhello.network.processes import free_port
from fedhello.network.registry import ClientInfo, ClientRegistry
from fedhello.network.resumed import checked, known_labels, known_roster, known_start
from fedhello.network.revival import LastingLink
from fedhello.network.superlink import ServerOptions, check_port, superlink
from fedhello.plugins import is_own
from fedhello.privacy.rounds import anonymous_federation
from fedhello.runs.callbacks import Callback, loading_teller, waiting_teller
from fedhello.runs.folder import RunFolder
from fedhello.runs.progress import restore_progress
from fedhello.runs.runner import run_session, warn
from fedhello.runs.summary import Summary
from fedhello.session import ClientEntry, Session
from fedhello.setup.clients import federate
from fedhello.setup.clients import unable as why_unable
from fedhello.setup.encoding import longest_answer
from fedhello.setup.federation import empty_federation
from fedhello.setup.masking import masked_costs, with_secure_sums
from fedhello.setup.prepare import Loaded, agreed_on, assemble, load, with_privacy
from fedhello.setup.private import anonymous
from fedhello.setup.private_plan import autocast_of, protects_samples
from fedhello.setup.training import on_device, score_costs, step_costs, with_copies
from fedhello.strategy import plain
from fedhello.types import Client

COLD_SECONDS = 120.0
"""What plain Flower's clients take besides: a new process per message, which loads the model and the data."""


ON_CLIENTS = {"name": "full"}
"""What clients are told of a method that is not fedhello's own: it runs on the server, and tasks say what trains."""


def served(config: Config) -> Config:
    """Return the configuration for serving: with Flower as the engine, and with a run name that is found again.

    Raises:
        ConfigError: If it cannot be run over a network.
    """
    method = METHODS[config.method.name]
    if not is_own(method.name) and method.local is not plain:
        raise ConfigError(
            "expected a method of your own that changes nothing on the clients for fedhello server, since clients "
            f"import no code that a server names; {method.name} has local=. Leave it out, or use fedhello run."
        )
    if not is_own(method.name) and config.privacy.secure:
        raise ConfigError(
            "expected a method of fedhello's own for privacy.secure over a network, since clients compute what they "
            f"contribute; found {method.name}. Choose another, or leave privacy.secure out."
        )
    for registry, name in ((PARTITIONS, config.data.partition.kind), (LOSSES, config.train.loss)):
        if name not in registry.own:
            raise ConfigError(
                f"expected a {registry.what} of fedhello's own for fedhello server, since it runs on the clients, "
                f"which import no code that a server names; found {registry.key}={name}"
            )
    if method.pooled:
        raise ConfigError(f"expected a federated method for fedhello server; {method.name} needs all data in one place")
    if config.model.head == "local":
        raise ConfigError(
            "expected a head that the server can evaluate; found model.head: local, which stays with the clients. "
            "Choose prototypes or aggregate."
        )
    _check_clients(config)
    name = config.run.name or _free_name(config)
    found = config.model_copy(update={"run": config.run.model_copy(update={"engine": "flower", "name": name})})
    check_private(found, method)
    return found


def _check_clients(config: Config) -> None:
    if config.clients.dropout:
        raise ConfigError("expected clients.dropout: 0, since real clients are lost by themselves; found another")
    if any(tier.cache is not None for tier in config.clients.tiers):
        raise ConfigError(
            "expected clients.tiers without cache for fedhello server, since clients over a network keep no "
            "activations yet; found one. Leave it out."
        )


def _free_name(config: Config) -> str:
    """Return the first name, made of method and seed, whose run does not exist or has not finished."""
    base = f"{config.method.name}-seed{config.run.seed}-flower"
    names = itertools.chain([base], (f"{base}-{number}" for number in itertools.count(2)))
    return next(name for name in names if not _has_finished(RunFolder(Path(config.run.out) / name)))


def _has_finished(folder: RunFolder) -> bool:
    return (folder.path / "summary.json").is_file() and folder.summary().status == "finished"


def serve(
    config: Config,
    options: ServerOptions,
    callbacks: Callable[[RunFolder], Sequence[Callback]],
    say: Say,
    ready: Callable[[ServerOptions], None] = lambda options: None,
    accept_data: bool = False,
) -> tuple[RunFolder, Summary]:
    """Run a configuration with clients that join over the network.

    Args:
        config: The result of ``served``.
        options: How clients reach the server.
        callbacks: Makes the callbacks for a run's folder.
        say: Called with messages for the user.
        ready: Called once clients can connect.
        accept_data: Whether a run that is resumed goes on with other data of the server.

    Returns:
        The run's folder, and the summary.

    Raises:
        FedhelloError: Of the matching kind, for every error that the user can fix.
    """
    from fedhello.network.flower import ControlledNodes, opened

    folder = RunFolder(Path(config.run.out) / (config.run.name or ""))
    config, lr = checked(folder, config)
    options = replace(options, port=options.port or free_port())
    check_port(options)
    secret = secrets.token_bytes(32)
    log = folder.path.with_name(f"{folder.path.name}.flower.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    happened: list[str] = []

    def note(line: str) -> None:
        happened.append(line)
        warn(folder, line) if folder.path.is_dir() else say(line)

    keys = None if options.keys is None else Keyring(options.keys, ControlledNodes(options.address), note)

    @contextmanager
    def connected() -> Iterator[Link]:
        if keys is not None:
            keys.register_all()
        with opened(options.address, secret) as link:
            yield link

    with superlink(options, secret, log) as process:
        say("loading the model and the server's data …")
        observers = callbacks(folder)
        start = known_start(folder, config)
        loaded = load(config, labels=known_labels(folder), tell=loading_teller(observers), start=start)
        process.wait()
        with LastingLink(process, connected, note) as link:
            say(f"listening at {options.host}:{options.port}; on each client's machine: {options.client_command()}")
            ready(options)
            return folder, play_over(link, loaded, folder, observers, say, keys, happened, accept_data, lr)


def serve_on(link: Link, file: Path, say: Say) -> None:
    """Run a configuration file over an existing link, under plain ``flwr run``."""
    from fedhello.config.load import load_config

    config = served(load_config(file))
    slower = {"deadline_floor": config.run.deadline_floor + COLD_SECONDS}
    config = config.model_copy(update={"run": config.run.model_copy(update=slower)})
    folder = RunFolder(Path(config.run.out) / (config.run.name or ""))
    config, lr = checked(folder, config)
    loaded = load(config, labels=known_labels(folder), start=known_start(folder, config))
    play_over(link, loaded, folder, [], say, lr=lr)


def play_over(
    link: Link,
    loaded: Loaded,
    folder: RunFolder,
    callbacks: Sequence[Callback],
    say: Say,
    keys: Keyring | None = None,
    happened: Sequence[str] = (),
    accept_data: bool = False,
    lr: float | None = None,
) -> Summary:
    """Wait for the clients, run the remaining rounds, and tell the clients when the run has finished.

    Args:
        link: Carries the messages.
        loaded: The loaded configuration.
        folder: The run's folder.
        callbacks: Observe the run.
        say: Called with messages for the user.
        keys: The keys of the clients; None without.
        happened: What befell the link, which grows during the run and goes into its notes.
        accept_data: As for ``serve``.
        lr: η of round 0 from here on; None leaves it.

    Raises:
        ClientsError: If too few clients join in time.
    """
    run = secrets.token_hex(8)
    roster = known_roster(folder)
    lobby = ClientRegistry(link, _invitation(loaded, run), len(loaded.data.label_names))
    if keys is not None:
        lobby.owners, lobby.refresh = keys.owners, keys.refresh
    tell = waiting_teller(callbacks)
    members, nodes, rates = gather(lobby, loaded.config, roster, say, unable=_unable(loaded), waiting=tell)
    session, engine = remote_session(loaded, lobby, members, run)
    engine.node_of, engine.rates, engine.happened = nodes, rates, happened
    if roster:
        with folder.locked():
            resumed = restore_progress(session, folder, lambda line: warn(folder, line), accept_data, lr)
            folder.write_config(session.config_yaml)
            engine.note = lambda line: warn(folder, line)
            summary = run_session(session, folder, callbacks, resumed)
    else:
        engine.note = say
        summary = run_session(session, folder, callbacks)
    if summary.status in ("finished", "stopped"):  # an unfinished run may be resumed, so its clients wait
        engine.goodbye("finished")
    return summary


def _unable(loaded: Loaded) -> Unable:
    """Return the function that says why a client that joins cannot train; the model is calibrated once, if at all."""
    model, config = loaded.model, loaded.config
    settings, _ = on_device(training_settings(config), config.train.autocast, loaded.method, model, loaded.samples)
    answer = longest_answer(loaded.samples, loaded.held_out.train)
    head, rule = head_settings(config.model), config.train.activations
    known: list[StepCosts | None] = []

    def unable(facts: ClientInfo) -> str | None:
        budget, steps = facts.as_budget(), None
        if not budget.only_counts:
            known[:] = known or [step_costs(model, settings, head, [budget], rule, answer)]
            (steps,) = known
        return why_unable(budget, facts.classes, facts.shapes, steps, rule, settings)

    return unable


def _invitation(loaded: Loaded, run: str) -> dict[str, Any]:
    """Return the configuration for clients, without paths on this machine."""
    told = loaded.config.model_dump(mode="json")
    told["model"]["adapter"] = None  # every task brings the adapter
    told["run"] = {"seed": loaded.config.run.seed}
    if not is_own(loaded.config.method.name):
        told["method"] = ON_CLIENTS
    for section, key in (("model", "name"), *(("data", key) for key in ("name", "validation", "test", "public"))):
        name = told[section][key]
        if isinstance(name, str) and Path(name).exists():
            told[section][key] = f"./{Path(name).name}"
    return invitation(told, loaded.data.label_names, run)


def remote_session(
    loaded: Loaded, lobby: ClientRegistry, members: Sequence[ClientInfo], run: str
) -> tuple[Session, RemoteEngine]:
    """Return the session of a run whose clients have joined, and its engine.

    Raises:
        ConfigError: If the method cannot run with them.
    """
    model, config = loaded.model, with_tiers(loaded.config, members)
    autocast = autocast_of(config, loaded.row)
    settings, chosen = on_device(training_settings(config), autocast, loaded.method, model, loaded.samples)
    answer = longest_answer(loaded.samples, loaded.held_out.train)
    empty = empty_federation(config, model)
    costs = step_costs(model, settings, head_settings(config.model), empty.tiers, empty.rule, answer)
    tier_of = tuple(list(budgets_of(members)).index(key_of(member)) for member in members)
    everyone = [
        Client(k, tier_of[k], empty.tiers[tier_of[k]], member.samples, member.classes)
        for k, member in enumerate(members)
    ]
    shapes = [member.shapes for member in members]
    if costs is not None and config.privacy.secure:
        adapter = model.snapshot(is_shared(config.model.head))
        costs = masked_costs(costs, adapter, config.train.clients_per_round, secure_settings(config.privacy))
    if costs is not None and protects_samples(config, loaded.row):
        costs = with_copies(costs, settings.batch_size)
    federation, left_out = federate(empty, everyone, shapes, costs, settings)
    notes = (*loaded.notes, *chosen, *left_out, *_on_moments(loaded, config, members))
    loaded = replace(loaded, config=config, notes=notes)
    is_private = config.privacy.epsilon is not None
    if is_private:
        loaded, federation = with_privacy(loaded, federation, settings), anonymous_federation(federation)
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
        scoring=score_costs(empty.tiers, loaded.method, model, answer),
        pace=DeadlinePolicy(config.run.deadline_floor, config.run.deadline_factor),
        patience=config.run.wait,
    )
    histogram = np.zeros((len(members), len(loaded.data.label_names)), dtype=int)
    labels = loaded.data.label_names
    roster = tuple(
        ClientEntry(
            k, tier_of[k], member.samples, tuple(labels[c] for c in member.classes), member.model_dump(mode="json")
        )
        for k, member in enumerate(members)
    )
    if is_private:
        roster = anonymous(roster)
    if config.privacy.secure:
        from fedhello.network.secure import SecureRemoteEngine

        agreed = agreed_on(loaded, federation)
        engine = masked = SecureRemoteEngine.over(engine, agreed)
        loaded = replace(loaded, method=with_secure_sums(loaded.method, agreed, masked.unmask))
    return assemble(loaded, federation, roster, engine, histogram), engine


def _on_moments(loaded: Loaded, config: Config, members: Sequence[ClientInfo]) -> Iterator[str]:
    """Yield a note on clients whose second moments would tell single samples, which their owners may keep back."""
    moments = statistics_settings(config).moments
    if config.model.head != "solved" or config.privacy.secure or moments.kind == "means":
        return
    most = moments.width(loaded.model.logits_layer.in_features)
    few = sum(member.samples <= most for member in members)
    if few:
        yield (
            f"{few} of {len(members)} clients have no more samples than {most}, the features whose products they sum; "
            "with data of their own they send the trace of these sums alone, unless their owners allow more "
            "(least_for_moments), and the head may be worse for it. With privacy.secure=true they send all"
        )


def _sums_like(loaded: Loaded) -> dict[str, Tensor]:
    if loaded.model.kind == CAUSAL_LM:
        return {}
    config = loaded.config
    moments = statistics_settings(config).moments if config.privacy.epsilon is None else WHOLE
    found = like(loaded.model.num_labels, loaded.model.logits_layer.in_features, moments)
    if config.privacy.epsilon is not None and config.privacy.head == "means":
        found["moments"] = found["moments"][:0]
    return found


def _longest_feature(model: LoraModel) -> float:
    if model.kind == CAUSAL_LM or model.pooling == NATIVE:
        return LONGEST_FEATURE
    return longest_pooled(model.logits_layer.in_features)
