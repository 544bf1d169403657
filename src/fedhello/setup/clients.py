"""Make a federation from budgets and data: each client's tier, its costs, and whether it can take part."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np

from fedhello.allocation.needs import needs
from fedhello.allocation.planner import cheapest
from fedhello.client.calibration import measure_speed
from fedhello.client.cost_model import Shape, StepCosts
from fedhello.client.settings import TrainingSettings
from fedhello.costs import ActivationRule, Costs
from fedhello.errors import ConfigError
from fedhello.formatting import budget_words, first_few, human_bytes
from fedhello.model.adapter import LoraModel
from fedhello.session import ClientEntry
from fedhello.types import Budget, Client, Federation

Batches = tuple[Shape, Sequence[Shape]] | tuple[Shape, Sequence[Shape], Sequence[int]]
"""The shape of a client's widest batch, the expected shapes of its batches in a round, and how many have each shape."""


def assign_tiers(clients: int, shares: Sequence[float]) -> tuple[int, ...]:
    """Return each client's tier: consecutive ids, sizes by largest remainder (thirds of 100 are 34, 33, 33)."""
    quotas = [Fraction(share).limit_denominator(10**6) * clients for share in shares]
    sizes = [int(quota) for quota in quotas]
    by_remainder = sorted(range(len(shares)), key=lambda g: (sizes[g] - quotas[g], g))
    for g in by_remainder[: clients - sum(sizes)]:
        sizes[g] += 1
    return tuple(g for g, size in enumerate(sizes) for _ in range(size))


def with_speeds(
    budgets: Sequence[Budget], model: LoraModel, costs: StepCosts | None, autocast: bool, answer: int | None = None
) -> tuple[tuple[Budget, ...], tuple[str, ...]]:
    """Return the budgets, with this machine's speed for those with seconds but no speed, and a note on that.

    Args:
        budgets: The budgets of the tiers.
        model: The model.
        costs: The costs of its steps; None without a prediction.
        autocast: Whether clients train in bfloat16.
        answer: Of a language model, the tokens of the longest response.
    """
    unknown = [g for g, budget in enumerate(budgets) if budget.seconds is not None and budget.speed is None]
    if not unknown or costs is None:
        return tuple(budgets), ()
    speed = measure_speed(model, costs, autocast, answer)
    note = (
        f"tiers {', '.join(map(str, unknown))} state seconds but no speed; planned with this machine's "
        f"{speed / 1e9:.0f} GFLOP/s, so the plan may differ on another machine. Set a tier's speed to fix it."
    )
    measured = (replace(b, speed=float(speed)) if g in unknown else b for g, b in enumerate(budgets))
    return tuple(measured), (note,)


def tiers_of(shares: Sequence[float], budgets: Sequence[Budget], clients: int, model: LoraModel) -> tuple[int, ...]:
    """Return every client's tier.

    Raises:
        ConfigError: If a tier has no client, or more blocks than the model.
    """
    L = model.blocks.count
    for g, budget in enumerate(budgets):
        if budget.blocks is not None and budget.blocks > L:
            raise ConfigError(
                f"expected clients.tiers.{g}.blocks to be at most {L}, the blocks of {model.source.base_name}; "
                f"found {budget.blocks}"
            )
    tier_of = assign_tiers(clients, shares)
    empty = [g for g in range(len(budgets)) if g not in tier_of]
    if empty:
        raise ConfigError(
            f"expected every tier to have a client; of {clients} clients, none is in tier {empty[0]}. "
            "Raise data.clients or the tier's share."
        )
    return tier_of


def clients_of(
    parts: Sequence[np.ndarray], labels: np.ndarray, tier_of: Sequence[int], budgets: Sequence[Budget]
) -> tuple[Client, ...]:
    """Return the clients of a partition.

    Args:
        parts: Per client, the positions of its samples in the data set.
        labels: The labels of the whole data set, shape (n,).
        tier_of: Per client, its tier.
        budgets: Per tier, its budget.
    """
    return tuple(
        Client(k, tier_of[k], budgets[tier_of[k]], len(part), tuple(np.unique(labels[part]).tolist()))
        for k, part in enumerate(parts)
    )


def federate(
    empty: Federation,
    everyone: Sequence[Client],
    shapes: Sequence[Batches],
    steps: StepCosts | None,
    settings: TrainingSettings,
    keeps: Collection[int] = (),
) -> tuple[Federation, tuple[str, ...]]:
    """Return the federation of the clients that can be invited, and notes on the others.

    Args:
        empty: The federation without clients and costs.
        everyone: All clients.
        shapes: Per client, its widest batch and the batches of a round.
        steps: The costs of steps; None without a prediction.
        settings: The settings of local training.
        keeps: The tiers whose clients all keep activations, which the costs count as computed anew in each round.

    Raises:
        ConfigError: If too few clients can be invited.
    """
    by_tier = [
        _largest([of_client for client, of_client in zip(everyone, shapes, strict=True) if client.tier == g])
        for g in range(len(empty.tiers))
    ]
    costs = () if steps is None else tuple(_costs(settings, steps.at(*shape)) for shape in by_tier)
    costs = tuple(one.with_kept_activations(1 / settings.epochs) if g in keeps else one for g, one in enumerate(costs))
    federation = replace(empty, costs=costs)
    invited, notes = _invited(federation, everyone, by_tier, steps, settings)
    return replace(federation, clients=invited), notes


def _costs(settings: TrainingSettings, costs: Costs) -> Costs:
    """Return the costs plus those of the teacher, if any: one forward pass over all samples per round."""
    if not settings.distillation:
        return costs
    return replace(costs, flops_outside=costs.flops_outside + costs.flops_outside // settings.epochs)


def _largest(shapes: Sequence[Batches]) -> Batches:
    """Return the widest batch and the batches of the most expensive round among a tier's clients."""
    widest = tuple(map(max, zip(*(widest for widest, *_ in shapes), strict=True)))
    _, batches, *counts = max(shapes, key=_tokens)
    return (widest, batches, counts[0]) if counts else (widest, batches)


def _tokens(shapes: Batches) -> int:
    """Return the number of tokens, padding included, in the batches of a round."""
    _, batches, *counts = shapes
    return sum(n * b * T for n, (b, T, *_) in zip(counts[0] if counts else [1] * len(batches), batches, strict=True))


def _invited(
    federation: Federation,
    everyone: Sequence[Client],
    shapes: Sequence[Batches],
    steps: StepCosts | None,
    settings: TrainingSettings,
) -> tuple[tuple[Client, ...], tuple[str, ...]]:
    """Return the clients that can train something, and notes on the others with the reasons."""
    rule, budgets, costs = federation.rule, federation.tiers, federation.costs
    reasons: list[str] = []
    limited = [g for g, budget in enumerate(budgets) if not budget.only_counts]
    unable = [g for g in limited if not needs(costs[g], cheapest(costs[g], rule)).within(budgets[g])]
    for g in unable:
        batch = _largest_batch(budgets[g], shapes[g][0], steps, rule)
        floor = _below_floor(budgets[g], costs[g], rule, batch)
        reasons.append(f"the budget of tier {g} is below the floor, so its clients are left out: {floor}")
    able = [client for client in everyone if client.tier not in unable]
    one_class = [c.id for c in able if settings.loss == "restricted" and len(c.classes) < 2]
    if one_class:
        reasons.append(
            f"{len(one_class)} clients hold only one class and are not invited to train, since train.loss: restricted "
            f"has no gradient there: {first_few(one_class)}"
        )
    alone = set(one_class)
    invited = tuple(client for client in able if client.id not in alone)
    if len(invited) < federation.clients_per_round:
        raise ConfigError(
            f"expected {federation.clients_per_round} clients to invite in each round; {len(invited)} of "
            f"{len(everyone)} can train: {'; '.join(reasons)}. Lower train.clients_per_round, "
            + ("raise the budgets" if unable else "or choose train.loss: cross_entropy or adjusted")
            + "."
        )
    return invited, tuple(reasons)


def unable(
    budget: Budget,
    classes: Sequence[int],
    shape: Batches,
    steps: StepCosts | None,
    rule: ActivationRule,
    settings: TrainingSettings,
) -> str | None:
    """Return why a client that joins cannot train anything; None if it can.

    Args:
        budget: Its budget.
        classes: The labels that occur in its data.
        shape: Its widest batch and the batches of a round.
        steps: The costs of steps; None without a prediction.
        rule: The allowed activation policies.
        settings: The settings of local training.
    """
    if settings.loss == "restricted" and len(classes) < 2:
        return "it holds only one class, and train.loss: restricted has no gradient there"
    if steps is None or budget.only_counts:
        return None
    costs = _costs(settings, steps.at(*shape))
    if needs(costs, cheapest(costs, rule)).within(budget):
        return None
    floor = _below_floor(budget, costs, rule, _largest_batch(budget, shape[0], steps, rule))
    return f"its budget is below the floor: {floor}"


def _below_floor(budget: Budget, costs: Costs, rule: ActivationRule, batch: int | None) -> str:
    """Return the least possible costs of training beside a budget that is below them, and how to fix it.

    Args:
        budget: The budget.
        costs: The costs of its clients.
        rule: The allowed activation policies.
        batch: The largest batch size whose floor fits; None if there is none.
    """
    least = cheapest(costs, rule)
    floor = needs(costs, least)
    what = "the head alone" if not least.blocks else "the last block"
    seconds = "" if budget.speed is None else f", {floor.flops / budget.speed:.2g} s"
    advice = "" if batch is None else f"; train.batch_size={batch} would fit"
    return (
        f"training {what} takes "
        f"{human_bytes(floor.memory_bytes)} of memory, {human_bytes(floor.upload_bytes)} of upload{seconds}; "
        f"the budget is {budget_words(budget)}{advice}"
    )


def _largest_batch(budget: Budget, widest: Shape, steps: StepCosts | None, rule: ActivationRule) -> int | None:
    """Return the largest batch size, for samples as long as in the widest batch, whose floor fits; None if none."""
    for samples in range(widest[0] - 1, 0, -1):
        shape = (samples, widest[1], *(-(-n * samples // widest[0]) for n in widest[2:]))
        # A smaller batch needs less memory, about the same time for all samples, and the same upload.
        costs = None if steps is None else steps.at(shape, [shape] * -(-widest[0] // samples))
        if costs is not None and needs(costs, cheapest(costs, rule)).within(budget):
            return samples
    return None


def roster_of(tiers: Sequence[int], histogram: np.ndarray, names: Sequence[str]) -> tuple[ClientEntry, ...]:
    """Return what a run's files say of its clients.

    Args:
        tiers: Each client's tier, length K.
        histogram: Each client's samples of each class, shape (K, C).
        names: The classes' names, length C.
    """
    return tuple(
        ClientEntry(k, tier, sum(row), dict(zip(names, row, strict=True)))
        for k, (tier, row) in enumerate(zip(tiers, histogram.tolist(), strict=True))
    )
