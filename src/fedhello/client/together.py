"""LocalTraining of several clients in one forward and backward pass per step, with an adapter each.

The frozen weights are read once for all of them, and a GPU has more to do at a time. Each client has its own tensors,
batches, loss, gradients and moments of the optimiser, as where it trains alone, so the result is the same but for
rounding. What is padded to the shape that the batches have in common counts for nothing: rows are left out of the
loss, tokens out of attention. A client that has done its steps drops out. Only dropout masks differ: alone they come
from a stream of each client's own, and together from one.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from fedhello.client.loss import add_proximal_gradient
from fedhello.client.mode import lowest_trained, set_training, surroundings
from fedhello.client.settings import TrainingSettings, learning_rate
from fedhello.client.tally import Tally
from fedhello.client.training import (
    Assignment,
    Goal,
    Trained,
    drift_of,
    goal_of,
    optimizer_of,
    outcome,
    positions_of,
    shift,
)
from fedhello.data.batches import IGNORED, Batch
from fedhello.errors import UpdateError
from fedhello.model.adapter import LoraModel
from fedhello.model.forward import predictions
from fedhello.model.number_type import rounded_weights
from fedhello.model.together import Owners, each_its_own, owners
from fedhello.randomness import integer_seed


@dataclass(frozen=True)
class _Client:
    """A client that trains beside others.

    Attributes:
        work: Its training.
        own: Name → its parameter.
        before: Their values before.
        goal: Its objective.
        drift: What each step of some parameters is corrected by.
        tally: What is counted.
        batches: The positions of the samples of each of its steps.
    """

    work: Assignment
    own: Mapping[str, nn.Parameter]
    before: Mapping[str, Tensor]
    goal: Goal
    drift: list[tuple[nn.Parameter, Tensor]]
    tally: Tally
    batches: Sequence[np.ndarray]


def train_together(
    model: LoraModel, works: Sequence[Assignment], starts: Sequence[Mapping[str, Tensor]], settings: TrainingSettings
) -> list[Trained | UpdateError]:
    """Train the named tensors of several clients; see ``local_training``, of which memory is not measured here.

    Args:
        model: Holds all values that do not train; those that train stay as they are.
        works: The clients' trainings, of the same tensors, blocks and round.
        starts: The start values of each.
        settings: The settings of local training, without terms that a client adds to its loss.

    Returns:
        What ``local_training`` returns, or raises, for each.

    Raises:
        ModelError: If one of the tensors is not of a linear layer.
    """
    first, begin = works[0], time.perf_counter()
    held = dict(zip(sorted(first.names), model.set_trainable(first.names), strict=True))
    layers = owners(model, held)
    model.set_trainable(())
    seed = integer_seed(first.seed, "dropout", first.round, *(work.client for work in works))
    with rounded_weights(model, settings.autocast == "bfloat16"), surroundings(model, first.absent, seed):
        set_training(model, lowest_trained(model, first.names))
        clients = [_begun(model, work, held, start, settings) for work, start in zip(works, starts, strict=True)]
        everything = [named for one in clients for named in one.own.items()]
        optimizer = optimizer_of(model, everything, settings, learning_rate(settings, first.round))
        for step in range(max(len(one.batches) for one in clients)):
            here = [one for one in clients if step < len(one.batches)]
            _step(model, layers, here, step, optimizer, settings)
            for one in here:
                one.work.told(step + 1, len(one.batches))
    seconds = (time.perf_counter() - begin) / len(clients)
    return [_outcome(model, one, settings, seconds) for one in clients]


def _begun(
    model: LoraModel,
    work: Assignment,
    held: Mapping[str, nn.Parameter],
    start: Mapping[str, Tensor],
    settings: TrainingSettings,
) -> _Client:
    own = {name: nn.Parameter(start[name].to(like, copy=True)) for name, like in held.items()}
    before = {name: value.detach().to("cpu", copy=True) for name, value in own.items()}
    goal = goal_of(model, work, settings, [(own[name], before[name]) for name in own])
    tally = Tally(torch.zeros((), dtype=torch.float64, device=model.device))
    drift = drift_of(model, work, settings, own)
    return _Client(work, own, before, goal, drift, tally, list(positions_of(work, settings)))


def _step(
    model: LoraModel,
    layers: Owners,
    clients: Sequence[_Client],
    step: int,
    optimizer: torch.optim.Optimizer,
    settings: TrainingSettings,
) -> None:
    """Take one step of each client."""
    batches = [one.work.data.batch(one.batches[step]) for one in clients]
    whole = joined(batches, getattr(clients[0].work.data, "pad", 0)).to(model.device)
    values = {name: torch.stack([one.own[name] for one in clients]) for name in clients[0].own}
    with (
        each_its_own(model, layers, values),
        torch.autocast(model.device.type, torch.bfloat16, enabled=settings.autocast == "bfloat16"),
    ):
        found = predictions(model, whole)
    rows = len(whole.labels) // len(clients)
    edges = [edge for k, batch in enumerate(batches) for edge in (k * rows, k * rows + len(batch.labels))]
    ends = torch.searchsorted(found.sample, torch.tensor(edges, device=found.sample.device)).tolist()
    parts = [slice(*ends[2 * k : 2 * k + 2]) for k in range(len(clients))]
    losses = [one.goal.loss(found.z[part], found.y[part]) for one, part in zip(clients, parts, strict=True)]
    torch.autograd.backward(torch.stack(losses).sum())
    for one, batch, loss in zip(clients, batches, losses, strict=True):
        if settings.proximal:
            add_proximal_gradient(one.goal.start, settings.proximal)
        one.tally.add(batch, len(batch.labels), loss.detach(), loss.detach())
    optimizer.step()  # leaves out whoever has no gradient, since it has done its steps
    optimizer.zero_grad(set_to_none=True)
    for one in clients:
        shift(one.drift)


def joined(batches: Sequence[Batch], padding: int) -> Batch:
    """Return batches as one: each filled up to the most rows, with rows of its own, and the most tokens.

    Args:
        batches: The batches.
        padding: The id of the token to fill up with.
    """
    rows = max(len(batch.labels) for batch in batches)
    fill = {"input_ids": padding, "labels": IGNORED}
    parts: dict[str, list[Tensor]] = {}
    widest = max(batch.shape[1] for batch in batches)
    for batch in batches:
        texts = "input_ids" in batch.inputs
        again = torch.arange(rows) % len(batch.labels)
        for name, value in {**batch.inputs, "labels": batch.labels}.items():
            if texts and value.dim() == 2:
                value = pad(value, (0, widest - value.shape[1]), value=fill.get(name, 0))
            parts.setdefault(name, []).append(value[again])
    whole = {name: torch.cat(values) for name, values in parts.items()}
    return Batch(whole, whole.pop("labels"))


def _outcome(model: LoraModel, one: _Client, settings: TrainingSettings, seconds: float) -> Trained | UpdateError:
    after = {name: value.detach().to("cpu", copy=True) for name, value in one.own.items()}
    try:
        return after, outcome(model, one.work, settings, (one.before, after), one.tally, seconds)
    except UpdateError as error:
        return error
