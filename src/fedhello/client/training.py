"""LocalTraining of Algorithm 1: one client trains the tensors of its allocation and returns their new values."""

import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedhello.client.activations import activation_policies
from fedhello.client.boundary import BoundaryCache, Reuse
from fedhello.client.cut import Cut
from fedhello.client.distillation import not_true_loss, teacher_logits
from fedhello.client.first_step import FirstStep
from fedhello.client.forward_gradient import estimate_gradients, joined_predictions, parts_of, primal
from fedhello.client.loss import LOSSES, DataLoss, add_proximal_gradient, data_loss, tail_products
from fedhello.client.memory import ProcessPeak, StepMemory
from fedhello.client.mode import lowest_trained, set_training, surroundings
from fedhello.client.outcome import are_finite, check_trained, not_finite
from fedhello.client.settings import TrainingSettings, learning_rate, rate_factor
from fedhello.client.tally import Tally
from fedhello.costs import ActivationPolicy
from fedhello.data.batches import Batch, Samples, training_batches
from fedhello.model.adapter import LoraModel
from fedhello.model.forward import Predictions, predictions
from fedhello.model.number_type import rounded_weights
from fedhello.randomness import generator, integer_seed

Trained = tuple[dict[str, Tensor], dict[str, float]]
"""A client's new values, and metrics; see ``local_training``."""


@dataclass(frozen=True)
class Assignment:
    """One client's training in one round.

    Attributes:
        client: Its id.
        round: t.
        names: Names of the tensors to train.
        data: The client's samples.
        classes: The labels that occur in its data.
        seed: The run's seed.
        policies: The activation policy of each block, length L; empty keeps all activations.
        absent: The blocks that are left out of the model.
        correction: c − c_k of SCAFFOLD, by name, for some of the trained tensors.
        boundary: Keeps the activations below the lowest trained block, of this client and others; None computes them in
            every step.
        cache: The most bytes that it keeps of this client.
        told: Called with the steps that are done, and with their number: before the first, and after each.
    """

    client: int
    round: int
    names: tuple[str, ...]
    data: Samples
    classes: tuple[int, ...]
    seed: int
    policies: tuple[ActivationPolicy, ...] = ()
    absent: tuple[int, ...] = ()
    correction: Mapping[str, Tensor] = field(default_factory=dict)
    boundary: BoundaryCache | None = None
    cache: int = 0
    told: Callable[[int, int], None] = lambda step, steps: None


def local_training(model: LoraModel, work: Assignment, settings: TrainingSettings) -> Trained:
    """Train the named tensors on one client's data, starting from the model's current values.

    Only the named tensors require gradients, so the optimiser, the gradients and the result hold exactly them, and the
    blocks below the lowest of them run without autograd.

    Args:
        model: Holds the start values; afterwards the trained values.
        work: The tensors and the data.
        settings: The settings of local training.

    Returns:
        The trained tensors' new values on the CPU, and metrics: ``loss`` (on the data, without added terms; mean over
        samples and epochs), ``samples`` (seen, over all epochs), ``steps``, ``batches`` (per epoch), ``tokens`` (with
        padding), ``widest_samples`` and ``widest_tokens`` of the widest step, of a language model also its
        ``widest_labels``, ``seconds``, and, if measured, that step's ``saved_bytes`` and ``peak_bytes`` (with the
        optimiser's state), and the ``process_bytes`` of the whole training.

    Raises:
        UpdateError: If the loss is not finite, or an allocated block, or everything, stays unchanged.
    """
    with rounded_weights(model, settings.autocast == "bfloat16"):
        return _trained(model, work, settings)


def _trained(model: LoraModel, work: Assignment, settings: TrainingSettings) -> Trained:
    begin = time.perf_counter()
    before = model.read(work.names)
    parameters = dict(zip(sorted(work.names), model.set_trainable(work.names), strict=True))
    optimizer = optimizer_of(model, parameters.items(), settings, learning_rate(settings, work.round))
    process, tally = ProcessPeak(model.device), Tally(torch.zeros((), dtype=torch.float64, device=model.device))

    dropout = integer_seed(work.seed, "dropout", work.round, work.client)
    with surroundings(model, work.absent, dropout), process if settings.measure_process else nullcontext():
        goal = goal_of(model, work, settings, [(parameters[name], before[name]) for name in parameters])
        drift = drift_of(model, work, settings, parameters)
        reuse = _reuse(model, work, settings)
        forward = _Forward(model, work, settings, goal, reuse)
        first = FirstStep(model, _kind_of_step(work, settings, before, reuse)) if settings.measure_memory else None
        steps = steps_of(work, settings)
        work.told(0, steps)
        for positions in positions_of(work, settings):
            batch = work.data.batch(positions).to(model.device)
            measured = None if first is None else first.watch(batch)
            with policies_of(model, work, measured), measured or nullcontext():
                if settings.tangents:
                    loss, objective = forward.gradients(batch, positions, tally.steps)
                else:
                    with forward.known(positions):
                        loss, objective = _gradients(model, batch, positions, goal, settings)
                _step(goal, optimizer, settings, measured)
                shift(drift)
            tally.add(batch, len(positions), loss, objective)
            work.told(tally.steps, steps)
    after = model.read(work.names)
    metrics = outcome(model, work, settings, (before, after), tally, time.perf_counter() - begin)
    if first is not None:
        metrics |= _step_bytes(first, optimizer, drift, tally.steps)
    if process.peak_bytes is not None:
        metrics["process_bytes"] = process.peak_bytes
    return after, metrics if reuse is None else reuse.counted(metrics)


def outcome(
    model: LoraModel,
    work: Assignment,
    settings: TrainingSettings,
    values: tuple[Mapping[str, Tensor], Mapping[str, Tensor]],
    tally: Tally,
    seconds: float,
) -> dict[str, float]:
    """Check what came of a training, and return its metrics; see ``local_training``.

    Args:
        model: The model.
        work: The client's training.
        settings: The settings of local training.
        values: The trained tensors before and after it.
        tally: What was counted.
        seconds: How long it took.
    """
    before, after = values
    if not are_finite({**after, "": tally.loss}):
        raise not_finite(model, work.client, work.round, settings, before, *map(float, tally.first))
    check_trained(model, work.client, work.round, before, after)
    return tally.metrics(settings.epochs, seconds)


def _kind_of_step(
    work: Assignment, settings: TrainingSettings, before: Mapping[str, Tensor], reuse: Reuse | None
) -> Hashable | None:
    """Return what the memory of a step follows from beside model and batch; None if it must be measured."""
    # Without backward a step that is measured is rounded in another way than one that is not.
    if reuse is not None or settings.loss not in LOSSES.own or settings.tangents:
        return None
    trained = tuple((name, value.shape) for name, value in sorted(before.items()))
    return trained, work.policies, work.absent, work.classes, tuple(work.correction), replace(settings, lr=0.0)


def _step_bytes(
    first: FirstStep, optimizer: torch.optim.Optimizer, drift: list[tuple[nn.Parameter, Tensor]], steps: int
) -> dict[str, float]:
    """Return the bytes that were measured in the first step, and are held in all."""
    # In the first step the optimiser's state is created after backward; later steps hold it throughout.
    state = _state_bytes(optimizer) if steps > 1 else 0
    found = first.bytes()
    peak = max(found.backward_peak + state, found.peak)
    return {"saved_bytes": found.saved, "peak_bytes": peak + sum(shift.nbytes for _, shift in drift)}


def steps_of(work: Assignment, settings: TrainingSettings) -> int:
    """Return the number of batches that ``positions_of`` yields."""
    samples = len(work.data) if settings.samples is None else min(settings.samples, len(work.data))
    return settings.epochs * -(-samples // settings.batch_size)


def positions_of(work: Assignment, settings: TrainingSettings) -> Iterator[np.ndarray]:
    """Yield the positions of each batch, epoch by epoch."""
    lengths = work.data.lengths()
    for epoch in range(settings.epochs):
        order = generator(work.seed, "order", work.round, work.client, epoch)
        if settings.samples is None or settings.samples >= len(lengths):
            yield from training_batches(lengths, settings.batch_size, order)
            continue
        drawn = np.sort(order.choice(len(lengths), size=settings.samples, replace=False))
        for positions in training_batches(lengths[drawn], settings.batch_size, order):
            yield drawn[positions]


def _reuse(model: LoraModel, work: Assignment, settings: TrainingSettings) -> Reuse | None:
    """Put the model into training mode; return how its steps go on from kept activations, None if they do not."""
    lowest = lowest_trained(model, work.names)
    set_training(model, lowest)
    drawn = settings.samples is not None and settings.samples < len(work.data)
    if work.boundary is None or drawn:  # a pass over all samples takes longer than a round on some
        return None
    cut = Cut(lowest, work.absent, settings.batch_size, settings.autocast == "bfloat16", model.frozen_dropout)
    return work.boundary.reuse(model, work.data, work.client, cut, work.cache, settings.measure_memory)


def policies_of(model: LoraModel, work: Assignment, memory: StepMemory | None = None) -> AbstractContextManager[None]:
    """Return the context in which blocks run under the client's activation policies.

    Args:
        model: The model.
        work: With the policies.
        memory: Notes what is saved for backward; None without a measurement.
    """
    if not work.policies:
        return nullcontext()
    return activation_policies(model.block_modules(), work.policies, _unnoted if memory is None else memory.note)


def _unnoted(_: Tensor) -> None:
    """Do nothing: used without a memory measurement."""


def _state_bytes(optimizer: torch.optim.Optimizer) -> int:
    values = [value for state in optimizer.state.values() for value in state.values()]
    return sum(value.nbytes for value in values if isinstance(value, Tensor))


@dataclass(frozen=True)
class Goal:
    """The objective of one client in a round.

    Attributes:
        loss: The loss on its data.
        start: The trained parameters, each with its value at the round's start, θ^t, on the CPU.
        teacher: Logits of its samples under θ^t, float32 on the CPU, shape (n, C); None without distillation.
    """

    loss: DataLoss
    start: Sequence[tuple[nn.Parameter, Tensor]]
    teacher: Tensor | None


def goal_of(
    model: LoraModel, work: Assignment, settings: TrainingSettings, start: Sequence[tuple[nn.Parameter, Tensor]]
) -> Goal:
    """Return the objective of one client.

    Args:
        model: The model; for a teacher, with the values of the round's start.
        work: The client's training.
        settings: The settings of local training.
        start: The trained parameters, each with its value at the round's start, on the CPU.
    """
    teacher = None
    if settings.distillation:
        order = generator(work.seed, "teacher", work.round, work.client)
        autocast = settings.autocast == "bfloat16"
        teacher = teacher_logits(model, work.data, settings.batch_size, autocast, order)
    data, device = work.data.labels, model.device
    loss = data_loss(settings.loss, work.classes, data, lambda: model.num_labels, settings.adjustment, device)
    return Goal(loss, start, teacher)


def _gradients(
    model: LoraModel, batch: Batch, positions: np.ndarray, goal: Goal, settings: TrainingSettings
) -> tuple[Tensor, Tensor]:
    """Compute gradients by backward; return the loss, and the objective: with the terms of method and settings."""
    with _number_type(model, settings):
        found = predictions(model, batch)
    loss = goal.loss(found.z, found.y)
    objective = _with_additions(loss, model, found, positions, goal, settings)
    torch.autograd.backward(objective)
    return loss.detach(), objective.detach()


def _number_type(model: LoraModel, settings: TrainingSettings) -> AbstractContextManager[Any]:
    return torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=settings.autocast == "bfloat16")


@dataclass(frozen=True)
class _Forward:
    """Computes the gradients of a step without backward, but for the head's, which needs only what stands above.

    Attributes:
        model: The model.
        work: The client's training.
        settings: The settings of local training.
        goal: The objective.
        reuse: How passes go on from kept activations; None if they do not.
    """

    model: LoraModel
    work: Assignment
    settings: TrainingSettings
    goal: Goal
    reuse: Reuse | None

    def gradients(self, batch: Batch, positions: np.ndarray, step: int) -> tuple[Tensor, Tensor]:
        """Set the gradients of a step; return the loss and the objective, as the last pass found them."""
        model, work = self.model, self.work
        head = [name for name in work.names if model.block_of[name] is None]
        factors = model.set_trainable([name for name in work.names if name not in head])
        model.set_trainable(head)
        found: tuple[Tensor, Tensor] | None = None
        if head:
            with self.known(positions):
                found = _gradients(model, batch, positions, self.goal, self.settings)

        def objective() -> Tensor:
            nonlocal found
            joined = joined_predictions([self._predicted(part) for part in parts_of(positions)])
            loss = self.goal.loss(joined.z, joined.y)
            total = _with_additions(loss, model, joined, positions, self.goal, self.settings)
            found = primal(loss), primal(total)
            return total

        if factors:
            seed = integer_seed(work.seed, "tangents", work.round, work.client, step)
            estimate_gradients(model, factors, objective, self.settings.tangents, seed)
        assert found is not None
        return found

    def _predicted(self, positions: np.ndarray) -> Predictions:
        with self.known(positions), _number_type(self.model, self.settings):
            return predictions(self.model, self.work.data.batch(positions).to(self.model.device))

    def known(self, positions: np.ndarray) -> AbstractContextManager[None]:
        return nullcontext() if self.reuse is None else self.reuse.at(positions)


def _step(goal: Goal, optimizer: torch.optim.Optimizer, settings: TrainingSettings, memory: StepMemory | None) -> None:
    """Let the optimiser take a step along the gradients, with what method and settings add to them."""
    if settings.proximal:
        add_proximal_gradient(goal.start, settings.proximal)
    if memory is not None:
        memory.note_backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _with_additions(
    loss: Tensor,
    model: LoraModel,
    found: Predictions,
    positions: np.ndarray,
    goal: Goal,
    settings: TrainingSettings,
) -> Tensor:
    """Return the loss on the samples at some positions plus the terms that method and settings add."""
    total = loss
    if settings.tail_penalty:
        total = total + settings.tail_penalty * tail_products(model.trained_pairs(), settings.tail_from)
    if goal.teacher is not None:
        teacher = goal.teacher[torch.from_numpy(positions)].to(found.z.device)
        kept = not_true_loss(found.z, found.y, teacher, settings.distillation_temperature)
        total = total + settings.distillation * kept
    return total


def drift_of(
    model: LoraModel, work: Assignment, settings: TrainingSettings, parameters: Mapping[str, nn.Parameter]
) -> list[tuple[nn.Parameter, Tensor]]:
    """Return the parameters that SCAFFOLD corrects, each with η (c − c_k), which is subtracted after every step."""
    found = []
    for name, value in work.correction.items():
        factor = rate_factor(model.block_of[name], model.blocks.count, settings.lr_head, settings.lr_depth)
        found.append((parameters[name], value.to(parameters[name]) * (learning_rate(settings, work.round) * factor)))
    return found


def shift(drift: list[tuple[nn.Parameter, Tensor]]) -> None:
    """Subtract from parameters, after a step, what corrects it."""
    for parameter, shift in drift:
        parameter.detach().sub_(shift)


def optimizer_of(
    model: LoraModel, parameters: Iterable[tuple[str, nn.Parameter]], settings: TrainingSettings, lr: float
) -> torch.optim.Optimizer:
    """Return the optimiser of the named parameters, grouped by learning rate, with η = ``lr``.

    Args:
        model: The model.
        parameters: Each with its name.
        settings: The settings of local training.
        lr: η.
    """
    together: dict[float, list[nn.Parameter]] = {}
    for name, parameter in parameters:
        factor = rate_factor(model.block_of[name], model.blocks.count, settings.lr_head, settings.lr_depth)
        together.setdefault(factor, []).append(parameter)
    groups = [{"params": alike, "lr": lr * factor} for factor, alike in together.items()]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=lr, weight_decay=settings.weight_decay)
    return torch.optim.SGD(groups, lr=lr, weight_decay=settings.weight_decay, momentum=settings.momentum)
