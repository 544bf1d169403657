"""From budgets and data to a federation: who is in which tier, what training costs there, and who can take part."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from math import ceil

import numpy as np

from fedhello.allocation.needs import needs
from fedhello.allocation.planner import cheapest
from fedhello.client.calibration import measure_speed
from fedhello.client.cost_model import Shape, StepCosts, batch_shapes
from fedhello.config.schema import Config, TierConfig, TrainConfig
from fedhello.costs import ActivationRule, Costs
from fedhello.errors import ConfigError
from fedhello.formatting import budget_words, human_bytes
from fedhello.model.adapter import LoraModel
from fedhello.types import Budget, Client, Federation

Batches = tuple[Shape, Sequence[Shape]]
"""A client's widest batch, and about which batches it meets in a round."""


def assign_tiers(clients: int, tiers: Sequence[TierConfig]) -> tuple[int, ...]:
    """Return each client's tier: consecutive ids, sizes by largest remainder, so thirds of 100 are 34, 33, 33."""
    quotas = [Fraction(tier.share).limit_denominator(10**6) * clients for tier in tiers]
    sizes = [int(quota) for quota in quotas]
    by_remainder = sorted(range(len(tiers)), key=lambda g: (sizes[g] - quotas[g], g))
    for g in by_remainder[: clients - sum(sizes)]:
        sizes[g] += 1
    return tuple(g for g, size in enumerate(sizes) for _ in range(size))


def with_speeds(
    config: Config,
    model: LoraModel,
    costs: StepCosts | None,
    autocast: bool,
    notes: list[str],
    answer: int | None = None,
) -> Config:
    """Give the tiers that state seconds but no speed this machine's."""
    tiers = config.clients.tiers
    unknown = [g for g, tier in enumerate(tiers) if tier.seconds is not None and tier.speed is None]
    if not unknown or costs is None:
        return config
    speed = measure_speed(model, costs, autocast, answer)
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
    steps: StepCosts | None,
    notes: list[str],
) -> tuple[Federation, tuple[int, ...]]:
    """Return the federation of the clients that can be invited, and every client's tier.

    Args:
        config: The configuration.
        parts: Per client, the positions of its samples in the data set.
        labels: Of the whole data set.
        lengths: Per client, the tokens of each of its samples.
        model: The model.
        steps: What its steps cost; None predicts nothing.
        notes: Gets a note on who is left out, and why.

    Raises:
        ConfigError: If a tier has no client or more blocks than there are, or too few clients can be invited.
    """
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
    budgets = tuple(tier.budget for tier in tiers)
    everyone = [
        Client(k, tier_of[k], budgets[tier_of[k]], len(part), tuple(np.unique(labels[part]).tolist()))
        for k, part in enumerate(parts)
    ]
    shapes = [batch_shapes(of_client, config.train.batch_size, config.train.epochs) for of_client in lengths]
    return federation_of(config, everyone, shapes, model, steps, notes), tier_of


def federation_of(
    config: Config,
    everyone: Sequence[Client],
    shapes: Sequence[Batches],
    model: LoraModel,
    steps: StepCosts | None,
    notes: list[str],
) -> Federation:
    """Return the federation of those clients that can be invited.

    Args:
        config: The configuration; its tiers are those of the clients.
        everyone: All clients.
        shapes: Per client, its widest batch and the batches of a round.
        model: The model.
        steps: What its steps cost; None predicts nothing.
        notes: Gets a note on who is left out, and why.

    Raises:
        ConfigError: If too few clients can be invited.
    """
    budgets = tuple(tier.budget for tier in config.clients.tiers)
    by_tier = [
        _largest([of_client for client, of_client in zip(everyone, shapes, strict=True) if client.tier == g])
        for g in range(len(budgets))
    ]
    costs = () if steps is None else tuple(_costs(config.train, steps.at(*shape)) for shape in by_tier)
    return Federation(
        clients=_invited(config, everyone, budgets, costs, by_tier, steps, notes),
        tiers=budgets,
        blocks=model.blocks.count,
        clients_per_round=config.train.clients_per_round,
        seed=config.run.seed,
        rule=config.train.activations,
        costs=costs,
        rank=config.model.lora.rank,
        scale=model.scale,
        quorum=ceil(config.train.quorum * config.train.clients_per_round - 1e-9),
        over_selection=config.train.over_selection,
        class_rows=_class_rows(config, model),
    )


def _costs(train: TrainConfig, costs: Costs) -> Costs:
    """Return costs with those of the teacher, where there is one: a pass forward of all samples once per round."""
    if not train.distillation:
        return costs
    return replace(costs, flops_outside=costs.flops_outside + costs.flops_outside // train.epochs)


def _class_rows(config: Config, model: LoraModel) -> tuple[str, ...]:
    """Return the names of the logits layer's tensors if clients learn the rows of their own classes alone."""
    if config.train.loss != "restricted":
        return ()
    logits = [model.head_tensor_name(kind) for kind in ("weight", "bias")]
    return tuple(name for name in logits if name in model.head_names)


def _largest(shapes: Sequence[Batches]) -> Batches:
    """Return the widest batch and the longest round, as batches, of a tier's clients."""
    widest = max(samples for (samples, _), _ in shapes), max(tokens for (_, tokens), _ in shapes)
    return widest, max((batches for _, batches in shapes), key=lambda batches: sum(b * T for b, T in batches))


def _invited(
    config: Config,
    everyone: Sequence[Client],
    budgets: Sequence[Budget],
    costs: Sequence[Costs],
    shapes: Sequence[Batches],
    steps: StepCosts | None,
    notes: list[str],
) -> tuple[Client, ...]:
    """Return the clients that can train something; note who cannot, and why."""
    rule = config.train.activations
    reasons: list[str] = []
    limited = [g for g, budget in enumerate(budgets) if not budget.only_counts]
    unable = [g for g in limited if not needs(costs[g], cheapest(costs[g], rule)).within(budgets[g])]
    for g in unable:
        batch = _largest_batch(budgets[g], shapes[g][0], steps, rule)
        reasons.append(_below_floor(g, budgets[g], costs[g], rule, batch))
    able = [client for client in everyone if client.tier not in unable]
    one_class = [c.id for c in able if config.train.loss == "restricted" and len(c.classes) < 2]
    if one_class:
        reasons.append(
            f"{len(one_class)} clients hold one class only and are not invited to train, since train.loss: restricted "
            f"would teach them nothing: {', '.join(map(str, one_class))}"
        )
    notes += reasons
    invited = tuple(client for client in able if client.id not in one_class)
    if len(invited) < config.train.clients_per_round:
        raise ConfigError(
            f"expected {config.train.clients_per_round} clients to invite in each round; {len(invited)} of "
            f"{len(everyone)} can train: {'; '.join(reasons)}. Lower train.clients_per_round, "
            + ("raise the budgets" if unable else "or choose train.loss: cross_entropy or adjusted")
            + "."
        )
    return invited


def _below_floor(tier: int, budget: Budget, costs: Costs, rule: ActivationRule, batch: int | None) -> str:
    """Say that a tier's budget does not afford the least there is to train, what that would be, and what helps.

    Args:
        tier: Its number.
        budget: Its budget.
        costs: Its costs.
        rule: The policies allowed.
        batch: The largest batch whose floor fits; None if there is none.
    """
    least = cheapest(costs, rule)
    floor = needs(costs, least)
    what = "the head alone" if not least.blocks else "the last block"
    seconds = "" if budget.speed is None else f", {floor.flops / budget.speed:.2g} s"
    advice = "" if batch is None else f"; train.batch_size={batch} would fit"
    return (
        f"the budget of tier {tier} is below the floor, so its clients are left out: training {what} takes "
        f"{human_bytes(floor.memory_bytes)} of memory, {human_bytes(floor.upload_bytes)} of upload{seconds}; "
        f"the budget is {budget_words(budget)}{advice}"
    )


def _largest_batch(budget: Budget, widest: Shape, steps: StepCosts | None, rule: ActivationRule) -> int | None:
    """Return the largest batch, of samples as long as the widest one's, whose floor fits; None where none does."""
    for samples in range(widest[0] - 1, 0, -1):
        shape = samples, widest[1]
        # A smaller batch needs less memory, hardly less time for all samples, and no less upload.
        costs = None if steps is None else steps.at(shape, [shape] * -(-widest[0] // samples))
        if costs is not None and needs(costs, cheapest(costs, rule)).within(budget):
            return samples
    return None
