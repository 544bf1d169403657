"""Say which clients cannot use the cache that their tier gives."""

from collections.abc import Mapping, Sequence

import numpy as np

from fedhello.client.boundary import bytes_kept, computed
from fedhello.client.cut import Cut, form_of
from fedhello.client.mode import set_training
from fedhello.client.settings import TrainingSettings
from fedhello.data.batches import Samples
from fedhello.formatting import human_bytes
from fedhello.model.adapter import LoraModel
from fedhello.types import Client


def cache_notes(
    model: LoraModel,
    clients: Sequence[Client],
    data: Mapping[int, Samples],
    settings: TrainingSettings,
    protects_samples: bool,
) -> tuple[str, ...]:
    """Return why activations below the lowest trained block are not kept, and for which clients.

    A model is tried once, with nothing but the head above. A round tries it again where it is cut, and logs a refusal.

    Args:
        model: The model.
        clients: The clients that may be invited.
        data: Client → its samples.
        settings: The settings of local training.
        protects_samples: Whether each step draws its samples anew, under differential privacy.
    """
    given = {client.id: client.budget.cache for client in clients if client.budget.cache is not None}
    if not given:
        return ()
    everyone = "clients.tiers[].cache is not used"
    if protects_samples or settings.samples is not None:
        return (f"{everyone}, since each round draws some of the samples",)
    one = data[min(given)]
    cut = Cut(model.blocks.count, (), settings.batch_size, settings.autocast == "bfloat16", model.frozen_dropout)
    set_training(model, cut.lowest)
    form = form_of(model, one, cut)
    if isinstance(form, str):
        return (f"{everyone}: {form}",)
    kept = computed(model, one.subset(np.array([0])), cut, form, "", most=2**62)
    assert kept is not None
    sizes = {k: bytes_kept(data[k], kept) for k in given}
    short = [k for k, most in given.items() if sizes[k] > most]
    if not short:
        return ()
    largest = human_bytes(max(sizes[k] for k in short))
    return (
        f"clients.tiers[].cache is too small for {len(short)} of {len(given)} clients, whose activations are computed "
        f"in every step; up to {largest} would hold them",
    )
