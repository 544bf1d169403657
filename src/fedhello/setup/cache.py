"""Say which clients cannot use the cache that their tier gives."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedhello.client.boundary import BoundaryCache, Kept, bytes_kept, computed
from fedhello.client.cut import Cut, form_of
from fedhello.client.mode import set_training
from fedhello.client.settings import TrainingSettings
from fedhello.data.batches import Samples
from fedhello.errors import ConfigError
from fedhello.formatting import human_bytes
from fedhello.model.adapter import LoraModel
from fedhello.types import Budget, Client


def boundary_cache(folder: str | None) -> BoundaryCache:
    """Return where a run's clients keep activations.

    Args:
        folder: For files; None keeps them in memory.

    Raises:
        ConfigError: If this system cannot reserve a file's room.
    """
    if folder is None:
        return BoundaryCache()
    if not hasattr(os, "posix_fallocate"):
        raise ConfigError("expected run.cache_folder on Linux alone; found another system. Leave it out.")
    return BoundaryCache(folder=Path(folder))


@dataclass(frozen=True)
class Keeping:
    """Whether clients keep what stands below their lowest trained block.

    Attributes:
        refused: Why nobody does, as a note; None if those do whose tier has a ``cache``.
        sample: What is kept of one sample, if so; None without such a tier.
    """

    refused: str | None = None
    sample: Kept | None = None


def keeping(
    model: LoraModel, tiers: Sequence[Budget], samples: Samples, settings: TrainingSettings, protects_samples: bool
) -> Keeping:
    """Return whether clients keep activations; a model is tried once, with nothing but the head above.

    A round tries it again where it is cut, and logs a refusal.

    Args:
        model: The model.
        tiers: The tiers' budgets.
        samples: Of all clients.
        settings: The settings of local training.
        protects_samples: Whether each step draws its samples anew, under differential privacy.
    """
    if all(tier.cache is None for tier in tiers):
        return Keeping()
    everyone = "clients.tiers[].cache is not used"
    if protects_samples or settings.samples is not None:
        return Keeping(f"{everyone}, since each round draws some of the samples")
    cut = Cut(model.blocks.count, (), settings.batch_size, settings.autocast == "bfloat16", model.frozen_dropout)
    set_training(model, cut.lowest)
    form = form_of(model, samples, cut)
    if isinstance(form, str):
        return Keeping(f"{everyone}: {form}")
    return Keeping(None, computed(model, samples.subset(np.array([0])), cut, form, "", most=2**62))


def tiers_that_keep(
    keeping: Keeping, clients: Sequence[Client], samples: Samples, parts: Sequence[np.ndarray]
) -> frozenset[int]:
    """Return the tiers with a cache that holds the activations of each of their clients.

    Args:
        keeping: Whether activations are kept at all.
        clients: All clients, by id.
        samples: Of all clients.
        parts: Client → the positions of its samples.
    """
    kept = keeping.sample
    if kept is None:
        return frozenset()
    given = [(client, client.budget.cache) for client in clients if client.budget.cache is not None]
    short = {client.tier for client, most in given if bytes_kept(samples.subset(parts[client.id]), kept) > most}
    return frozenset(client.tier for client, _ in given) - short


def cache_notes(keeping: Keeping, clients: Sequence[Client], data: Mapping[int, Samples]) -> tuple[str, ...]:
    """Return why activations below the lowest trained block are not kept, and for how many clients.

    Args:
        keeping: Whether they are.
        clients: The clients that may be invited.
        data: Client → its samples.
    """
    kept = keeping.sample
    if kept is None:
        return () if keeping.refused is None else (keeping.refused,)
    given = {client.id: client.budget.cache for client in clients if client.budget.cache is not None}
    sizes = {k: bytes_kept(data[k], kept) for k in given}
    short = [k for k, most in given.items() if sizes[k] > most]
    if not short:
        return ()
    largest = human_bytes(max(sizes[k] for k in short))
    return (
        f"clients.tiers[].cache is too small for {len(short)} of {len(given)} clients, whose activations are computed "
        f"in every step; up to {largest} would hold them",
    )
