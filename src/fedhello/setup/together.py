"""Which engine trains the clients on this machine, how many at the same time, and whether they can share a pass."""

from dataclasses import replace
from typing import Literal

import numpy as np
import torch

from fedhello.client.loss import LOSSES
from fedhello.client.settings import TrainingSettings
from fedhello.client.together import joined
from fedhello.data.batches import Samples
from fedhello.engine.batched import MOST, BatchedEngine
from fedhello.engine.local import LocalEngine
from fedhello.engine.workers import Workers
from fedhello.errors import ConfigError, ModelError
from fedhello.model.adapter import LoraModel
from fedhello.model.forward import predictions
from fedhello.model.together import each_its_own, owners
from fedhello.setup.workers import workers_of
from fedhello.types import Federation

TOLERANCE = 1e-3
"""By how much logits may differ, relative to the largest, where clients share a pass; the rest is rounding."""


def engine_of(
    engine: Literal["local", "flower", "batched"],
    asked: Literal["auto"] | int,
    model: LoraModel,
    settings: TrainingSettings,
    federation: Federation,
    samples: Samples,
    private: bool = False,
) -> tuple[type[LocalEngine], Workers, TrainingSettings, tuple[str, ...]]:
    """Return the engine's class, how many clients train at the same time, how they train, and notes.

    Args:
        engine: The name of the engine.
        asked: ``auto``, or the most clients at the same time.
        model: The model, on its device.
        settings: How clients train.
        federation: The clients that can be invited, with the costs of their steps.
        samples: The samples of all clients.
        private: Whether the run is under differential privacy.

    Raises:
        ConfigError: If clients cannot train as asked.
    """
    if engine != "batched":
        workers, notes = workers_of(asked, model, settings, federation)
        return LocalEngine, workers, settings, notes
    reason = _against(model, settings, federation, private) or mixed_up(model, samples)
    if reason is not None:
        raise ConfigError(f"expected run.engine=local, since {reason}; found batched.")
    most = MOST if asked == "auto" else asked
    notes = (
        f"up to {min(most, federation.invited)} clients that train the same blocks share each pass; dropout masks are "
        "other ones than those of run.engine=local",
    )
    if settings.measure_memory:
        notes += ("the memory of clients is not measured, since they train together",)
    return BatchedEngine, Workers(most, torch.get_num_threads()), replace(settings, measure_memory=False), notes


def _against(model: LoraModel, settings: TrainingSettings, federation: Federation, private: bool) -> str | None:
    """Return why no clients can share a pass; None if they can."""
    reasons = {
        "a tier states memory, and what a client takes is measured of each alone": settings.measure_process,
        "a tier has a cache, whose activations are one client's": any(t.cache is not None for t in federation.tiers),
        "privacy.epsilon bounds what one client changes, and in one pass it changes others' masks": private,
        "passes of train.activations=forward are of one client": settings.tangents > 0,
        "train.distillation runs a teacher of each client's own": settings.distillation > 0,
        "hetlora's penalty is one of the model's own factors": settings.tail_penalty > 0,
        f"train.loss={settings.loss} is not the package's own, and may not fit into a pass with others": (
            settings.loss not in LOSSES.own
        ),
        "DoRA's magnitudes depend on a client's whole weights": model.has_magnitudes,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def mixed_up(model: LoraModel, samples: Samples) -> str | None:
    """Return why clients in one pass would not compute what each computes alone; None if they do.

    It is tried, with two clients of random values and one sample each.

    Args:
        model: The model; it is left as it was.
        samples: Some samples, at least one.
    """
    names = [name for name, block in model.block_of.items() if block is not None or model.logits_path is not None]
    before = model.read(names)
    random = torch.Generator().manual_seed(0)
    values = [{n: v + 0.1 * torch.randn(v.shape, generator=random) for n, v in before.items()} for _ in range(2)]
    lengths = samples.lengths()
    batches = [samples.batch(np.array([position])) for position in (int(lengths.argmax()), int(lengths.argmin()))]
    whole = joined(batches, getattr(samples, "pad", 0)).to(model.device)
    training = model.module.training
    model.module.eval()
    try:
        layers = owners(model, dict(zip(sorted(names), model.set_trainable(names), strict=True)))
        stacked = {n: torch.stack([one[n] for one in values]).to(model.device) for n in names}
        with torch.no_grad():
            with each_its_own(model, layers, stacked):
                together = predictions(model, whole)
            for k, (one, batch) in enumerate(zip(values, batches, strict=True)):
                model.write(one)
                alone = predictions(model, batch.to(model.device)).z
                error = (together.z[together.sample == k] - alone).abs().max() / alone.abs().max()
                if not error < TOLERANCE:
                    return f"a pass of this model for two clients mixes them (their logits are off by {error:.1g})"
    except (ModelError, RuntimeError) as error:
        return f"this model cannot run for several clients at once ({' '.join(str(error).split())})"
    finally:
        model.write(before)
        model.set_trainable(())
        model.module.train(training)
    return None
