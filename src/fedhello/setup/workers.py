"""How many clients train at the same time on this machine."""

from typing import Literal

import torch

from fedhello.allocation.needs import needs
from fedhello.client.loss import LOSSES
from fedhello.client.settings import TrainingSettings
from fedhello.client.trial import SMALLEST
from fedhello.engine.workers import IN_TURN, MOST, Workers, can_fork
from fedhello.errors import ConfigError
from fedhello.model.adapter import LoraModel
from fedhello.setup.machine import available_memory, processors
from fedhello.types import Allocation, Federation

OWN_MEMORY = 128 * 2**20
"""Bytes that a process writes to besides a step's tensors; measured for one of 0.8 GB: 50 MB."""


def workers_of(
    asked: Literal["auto"] | int, model: LoraModel, settings: TrainingSettings, federation: Federation
) -> tuple[Workers, tuple[str, ...]]:
    """Return how many clients train at the same time, and a note where that is not as always.

    The threads that torch has in this process are shared out, so a user's limit on them holds for all together. By
    ``auto`` they are no more than the processors that this process's container is given.

    Args:
        asked: ``auto``, or the most.
        model: The model, on its device.
        settings: How clients train.
        federation: The clients that can be invited, with the costs of their steps.

    Raises:
        ConfigError: If more than one is asked for where that cannot be.
    """
    reason = _against(model, settings, federation)
    if asked != "auto" and asked > 1 and reason is not None:
        raise ConfigError(f"expected run.workers=1, since {reason}; found {asked}. Leave it out.")
    threads = torch.get_num_threads()
    if asked == "auto":
        threads = min(threads, processors())
    most = min(threads if asked == "auto" else asked, federation.invited, MOST)
    if most < 2 or reason is not None:
        return IN_TURN, ()
    if asked == "auto":
        if sum(weight.numel() for weight in model.module.parameters()) < SMALLEST:
            return IN_TURN, ()
        most, reason = _affordable(most, settings, federation)
        if most < 2:
            return IN_TURN, (f"clients train one after the other, since {reason}; run.workers decides otherwise",)
    workers = Workers(most, max(1, threads // most))
    if asked != "auto":
        return workers, ()
    each = f"{workers.threads} thread{'s' * (workers.threads > 1)}"
    return workers, (
        f"up to {most} clients train at the same time, each in a process with {each}; run.workers=1 trains them one "
        "after the other",
    )


def _against(model: LoraModel, settings: TrainingSettings, federation: Federation) -> str | None:
    """Return why no more than one client can train at a time; None if more can."""
    if model.device.type != "cpu":
        return f"clients share a device ({model.device.type})"
    if torch.accelerator.is_available():  # torch refuses backward in a copy of a process that could use one
        return "this machine has another device than its CPU, and torch trains in no copy of such a process"
    if any(budget.cache is not None for budget in federation.tiers):
        return "a tier has a cache, which is kept in this process"
    return None if can_fork() else "this process cannot make copies of itself, which takes Linux"


def _affordable(most: int, settings: TrainingSettings, federation: Federation) -> tuple[int, str]:
    """Return how many clients may train at the same time without being asked for, and what speaks against more."""
    if settings.loss not in LOSSES.own:
        return 1, f"train.loss={settings.loss} is not the package's own, and may keep something from one to the next"
    if not federation.costs:
        return 1, "the memory of their steps is not predicted"
    everything = Allocation(tuple(range(federation.num_blocks)))
    each = OWN_MEMORY + max(needs(costs, everything).memory_bytes for costs in federation.costs)
    return min(most, available_memory() // each), "there is not enough memory for more"
