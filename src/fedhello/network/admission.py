"""Wait for clients to join, and admit those that can take part."""

import json
import time
from collections.abc import Callable, Sequence
from math import ceil
from typing import Any

from fedhello.config.load import parse_config
from fedhello.config.schema import Config
from fedhello.errors import ClientsError, ConfigError
from fedhello.network.registry import Arrival, ClientInfo, ClientRegistry, not_admitted, taken
from fedhello.notes import Line

BACK_SECONDS = 60.0
"""Seconds that a resumed run waits for clients beyond its quorum; others are admitted later."""


Say = Callable[[str], None]

Waiting = Callable[[int, int], None]
"""Function that is called with how many clients are here, and how many are waited for."""

Unable = Callable[[ClientInfo], str | None]
"""Function that returns why a client cannot train anything; None if it can."""


def gather(
    lobby: ClientRegistry,
    config: Config,
    roster: Sequence[ClientInfo],
    say: Say,
    wait: Callable[[float], None] = time.sleep,
    unable: Unable = lambda facts: None,
    waiting: Waiting = lambda here, wanted: None,
) -> tuple[tuple[ClientInfo, ...], dict[int, int], dict[int, float]]:
    """Wait for clients to join: all of ``data.clients``, or, for a resumed run, a quorum of the roster.

    A client that cannot take part is refused with the reason, and the run waits for others.

    Args:
        lobby: The connected nodes.
        config: The configuration.
        roster: The clients of a resumed run; empty for a new one.
        say: Called with messages for the user.
        wait: Waits some seconds.
        unable: Says of a client whether it can train within its budget.
        waiting: Called with the clients that are here and that are waited for, again and again.

    Returns:
        The members by id, the node of each connected member, and its rate in bytes per second.

    Raises:
        ClientsError: If too few join within ``run.wait`` seconds.
    """
    wanted = len(roster) or config.data.clients
    enough = ceil(config.train.quorum * config.train.clients_per_round) if roster else wanted
    here: dict[str, tuple[ClientInfo, int, float]] = {}
    begin = said = lobby.clock()
    while len(here) < wanted:
        arrivals = lobby.look()
        here = {name: found for name, found in here.items() if found[1] in lobby.connected}
        for arrival in arrivals:
            complaint = _welcome(arrival, lobby, here, lambda facts: _admit(facts, config, roster, unable))
            if complaint is None:
                here_now = {"name": arrival.name, "connected": len(here), "wanted": wanted}
                say(Line(f"{arrival.name} has joined: {len(here)} of {wanted}", event="joined", **here_now))
            elif not arrival.seen:
                say(not_admitted(arrival.name, complaint))
        waiting(len(here), wanted)
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
            left = config.run.wait - passed
            words = f"waiting for clients: {len(here)} of {wanted}, {left:.0f} s left"
            say(Line(words, event="waiting", connected=len(here), wanted=wanted, seconds_left=round(left)))
        wait(0.2)
    members = tuple(roster) or tuple(here[name][0] for name in sorted(here))
    ids = {member.name: k for k, member in enumerate(members)}
    nodes = {ids[name]: node for name, (_, node, _) in here.items()}
    return members, nodes, {ids[name]: rate for name, (_, _, rate) in here.items()}


def _welcome(
    arrival: Arrival, lobby: ClientRegistry, here: dict[str, tuple[ClientInfo, int, float]], admit: Unable
) -> str | None:
    """Admit an arrival and return None; else return why not."""
    facts = arrival.facts
    if isinstance(facts, str):
        return facts
    if facts.name in here:
        lobby.keep(arrival)
        return taken(facts.name)
    complaint = admit(facts)
    if complaint is None:
        here[facts.name] = (facts, arrival.node, arrival.rate)
    return complaint


def _admit(facts: ClientInfo, config: Config, roster: Sequence[ClientInfo], unable: Unable) -> str | None:
    """Return why a client cannot take part; None if it can."""
    if roster and not any(member.same_client(facts) for member in roster):
        return f"{facts.name!r} did not take part, with this data, from the start"
    b, T = config.train.batch_size, config.data.max_length
    most = ceil(facts.samples / b) * config.train.epochs
    widest, shapes, counts = facts.shapes
    if sum(counts) > most or any(samples > b or tokens > T for samples, tokens in (widest, *shapes)):
        return (
            f"{facts.name!r} cannot take part: expected at most {most} batches of {b} x {T} tokens from "
            f"{facts.samples} samples; it states more"
        )
    try:
        with_tiers(config, [facts], config.data.clients)
        complaint = unable(facts)
    except ConfigError as error:
        complaint = str(error)
    return None if complaint is None else f"{facts.name!r} cannot take part: {complaint}"


def with_tiers(config: Config, members: Sequence[ClientInfo], clients: int = 0) -> Config:
    """Return the configuration with one tier per distinct budget of the members, in the order of their ids.

    Args:
        config: The configuration.
        members: All members, or one that asks to join.
        clients: How many clients there will be, if more than these.

    Raises:
        ConfigError: If the method cannot use a budget.
    """
    budgets = budgets_of(members)
    tiers = [_tier(member, sum(key_of(m) == key for m in members) / len(members)) for key, member in budgets.items()]
    plain = config.model_dump(mode="json")
    plain["clients"]["tiers"] = tiers
    plain["data"]["clients"] = max(len(members), clients, config.train.clients_per_round)
    return parse_config(plain)


def key_of(member: ClientInfo) -> str:
    """Return a key that identifies a budget."""
    return json.dumps(member.as_budget().limits)


def budgets_of(members: Sequence[ClientInfo]) -> dict[str, ClientInfo]:
    """Return one member per distinct budget, by the budget's key, in the order of ids."""
    found: dict[str, ClientInfo] = {}
    for member in members:
        found.setdefault(key_of(member), member)
    return found


def _tier(member: ClientInfo, share: float) -> dict[str, Any]:
    """Return a tier in the form of a configuration."""
    found = member.as_budget().limits
    units = {"memory": "B", "upload": "B"}
    tier = {key: f"{value}{units[key]}" if key in units else value for key, value in found.items()}
    if "speed" in tier:
        tier["speed"] = f"{tier['speed']:.0f}FLOP/s"
    return {"share": share, **tier}
