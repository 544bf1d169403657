"""From budgets and data to a federation: who is in which tier, what training costs there, and who can take part."""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from fedhello.allocation.bytes import cheapest, needs
from fedhello.client.prediction import StepCosts, batch_shapes, measure_speed
from fedhello.errors import ConfigError
from fedhello.model.adapter import LoraModel
from fedhello.run.config import Config, TierConfig
from fedhello.types import Budget, Client, Costs, Federation, Rule
from fedhello.words import budget_words, human_bytes


def assign_tiers(clients: int, tiers: Sequence[TierConfig]) -> tuple[int, ...]:
    """Return each client's tier: consecutive ids, sizes by largest remainder, so thirds of 100 are 34, 33, 33."""
    quotas = [Fraction(tier.share).limit_denominator(10**6) * clients for tier in tiers]
    sizes = [int(quota) for quota in quotas]
    by_remainder = sorted(range(len(tiers)), key=lambda g: (sizes[g] - quotas[g], g))
    for g in by_remainder[: clients - sum(sizes)]:
        sizes[g] += 1
    return tuple(g for g, size in enumerate(sizes) for _ in range(size))


def with_speeds(config: Config, model: LoraModel, costs: StepCosts | None, notes: list[str]) -> Config:
    """Give the tiers that state seconds but no speed this machine's."""
    tiers = config.clients.tiers
    unknown = [g for g, tier in enumerate(tiers) if tier.seconds is not None and tier.speed is None]
    if not unknown or costs is None:
        return config
    speed = measure_speed(model, costs)
    notes.append(
        f"tiers {', '.join(map(str, unknown))} state seconds but no speed; planned with this machine's "
        f"{speed / 1e9:.0f} GFLOP/s, so another machine or moment may plan otherwise. Fix it with a tier's speed."
    )
    measured = [
        tier.model_copy(update={"speed": float(speed)}) if g in unknown else tier for g, tier in enumerate(tiers)
    ]
    return config.model_copy(update={"clients": config.clients.model_copy(update={"tiers": measured})})


def federate(
    config: Config,
    parts: Sequence[np.ndarray],
    labels: np.ndarray,
    lengths: Sequence[np.ndarray],
    model: LoraModel,
    costs: StepCosts | None,
    notes: list[str],
) -> tuple[Federation, tuple[int, ...]]:
    """Return the federation of the clients that can be invited, and every client's tier; note who is left out."""
    tiers, L = config.clients.tiers, model.blocks.count
    for g, tier in enumerate(tiers):
        if tier.blocks is not None and tier.blocks > L:
            raise ConfigError(
                f"expected clients.tiers.{g}.blocks to be at most {L}, the blocks of {config.model.name}; "
                f"found {tier.blocks}"
            )
    tier_of = assign_tiers(len(parts), tiers)
    empty = [g for g in range(len(tiers)) if g not in tier_of]
    if empty:
        raise ConfigError(
            f"expected every tier to have a client; of {len(parts)} clients, none falls into tier {empty[0]}. "
            "Raise data.clients or the tier's share."
        )
    costs_of = tier_costs(config, tier_of, lengths, costs)
    budgets = tuple(Budget(tier.blocks, tier.memory, tier.upload, tier.seconds, tier.speed) for tier in tiers)
    unable = [
        g
        for g, one in enumerate(costs_of)
        if not needs(one, cheapest(one, config.train.activations)).within(budgets[g])
    ]
    notes += [_below_floor(g, budgets[g], costs_of[g], config.train.activations) for g in unable]
    everyone = [
        Client(k, tier_of[k], budgets[tier_of[k]], len(part), tuple(np.unique(labels[part]).tolist()))
        for k, part in enumerate(parts)
    ]
    able = [client for client in everyone if client.tier not in unable]
    teachable = [c for c in able if config.train.loss == "cross_entropy" or len(c.classes) > 1]
    one_class = [client.id for client in able if client not in teachable]
    if one_class:
        notes.append(
            f"{len(one_class)} clients hold one class only and are not invited to train, since train.loss: restricted "
            f"would teach them nothing: {', '.join(map(str, one_class))}"
        )
    if len(teachable) < config.train.clients_per_round:
        raise ConfigError(
            f"expected {config.train.clients_per_round} clients to invite in each round; of {len(everyone)} clients, "
            f"{len(everyone) - len(able)} have a budget below the floor and {len(one_class)} hold one class only, "
            "which train.loss: restricted cannot use. Lower train.clients_per_round, or: "
            + " ".join(note for note in notes if "floor" in note or "one class" in note)
        )
    return (
        Federation(
            clients=tuple(teachable),
            tiers=budgets,
            blocks=L,
            clients_per_round=config.train.clients_per_round,
            seed=config.run.seed,
            rule=config.train.activations,
            costs=costs_of,
        ),
        tier_of,
    )


def tier_costs(
    config: Config, tier_of: Sequence[int], lengths: Sequence[np.ndarray], costs: StepCosts | None
) -> tuple[Costs, ...]:
    """Return what training takes at most in each tier: the widest batch and the longest round of its clients."""
    if costs is None:
        return ()
    found = []
    for g in range(len(config.clients.tiers)):
        shapes = [
            batch_shapes(lengths[k], config.train.batch_size, config.train.epochs)
            for k, tier in enumerate(tier_of)
            if tier == g
        ]
        widest = max(samples for (samples, _), _ in shapes), max(tokens for (_, tokens), _ in shapes)
        longest = max((batches for _, batches in shapes), key=lambda batches: sum(b * T for b, T in batches))
        found.append(costs.at(widest, longest))
    return tuple(found)


def _below_floor(tier: int, budget: Budget, costs: Costs, rule: Rule) -> str:
    """Say that a tier's budget does not afford the least there is to train, and what that would be."""
    least = cheapest(costs, rule)
    floor = needs(costs, least)
    what = "the head alone" if not least.blocks else "the last block"
    seconds = "" if budget.speed is None else f", {floor.flops / budget.speed:.2g} s"
    return (
        f"the budget of tier {tier} is below the floor, so its clients are left out: training {what} takes "
        f"{human_bytes(floor.memory_bytes)} of memory, {human_bytes(floor.upload_bytes)} of upload{seconds}; "
        f"the budget is {budget_words(budget)}. A smaller train.batch_size or data.max_length lowers the floor."
    )
