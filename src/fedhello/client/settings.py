"""The settings of local training, and quantities that follow from them without a model."""

import math
from dataclasses import dataclass, replace
from typing import Literal

from fedhello.factors import kept_rank
from fedhello.types import Task

LearningRateSchedule = Literal["constant", "cosine", "linear", "exponential", "published"]


OptimizerName = Literal["adamw", "sgd"]


ALWAYS_MEASURED = (
    "loss", "samples", "steps", "batches", "tokens", "widest_samples", "widest_tokens", "seconds",
)  # fmt: skip
"""Metrics that ``local_training`` always measures."""


METRICS = (*ALWAYS_MEASURED, "widest_labels", "saved_bytes", "peak_bytes", "process_bytes", "passes_below")
"""All metrics that ``local_training`` can measure."""


LOWEST_RATE = 1e-3
"""Lower bound of a falling rate, as a share of η, so that steps do not vanish in rounding."""


@dataclass(frozen=True)
class TrainingSettings:
    """How every client trains.

    Attributes:
        rounds: T, the number of rounds of the schedule.
        epochs: Local passes over the client's data per round.
        batch_size: Largest batch.
        optimizer: ``adamw`` or ``sgd``; its state is reset in each round.
        lr: η, the learning rate of round 0.
        lr_schedule: How η falls over the rounds; see ``learning_rate``.
        lr_decay: γ of the exponential schedule.
        weight_decay: The optimiser's weight decay, on LoRA factors and head.
        momentum: The momentum of ``sgd``.
        loss: Name of the loss on a client's data; see ``fedhello.client.loss``.
        autocast: ``bfloat16`` runs the forward pass in torch's bf16 autocast; ``none`` in float32.
        measure_memory: Measure saved and peak bytes in each client's first, widest step.
        measure_process: Measure how far the process's memory rises during each client's training.
        samples: The most samples of a client in one epoch, drawn for each epoch; None for all.
        tail_penalty: λ of HetLoRA's regulariser; see ``fedhello.factors.tail_regulariser``.
        tail_from: γ of HetLoRA's regulariser.
        tail_least: r_min of HetLoRA: where a tail fades, no less is uploaded; None uploads all ranks in any case.
        adjustment: τ of the loss ``adjusted``.
        proximal: μ of FedProx; 0 leaves it out. See ``fedhello.client.loss``.
        distillation: λ of not-true distillation from the model that the client received; 0 leaves it out. See
            ``fedhello.client.distillation``.
        distillation_temperature: T of the distillation.
        lr_head: Factor on η for the head; see ``rate_factor``.
        lr_depth: ξ, the factor on the learning rate from each block to the one below.
        tangents: m, the number of directions along which a step estimates the gradient; 0 computes it by backward. See
            ``fedhello.client.forward_gradient``.
        scaffold: Whether steps are corrected by SCAFFOLD's control variates; see ``fedhello.aggregation.control``.
    """

    rounds: int
    epochs: int
    batch_size: int
    optimizer: OptimizerName
    lr: float
    lr_schedule: LearningRateSchedule
    lr_decay: float
    weight_decay: float
    momentum: float
    loss: str
    autocast: Literal["none", "bfloat16"]
    measure_memory: bool = True
    measure_process: bool = False
    samples: int | None = None
    tail_penalty: float = 0.0
    tail_from: float = 1.0
    tail_least: int | None = None
    adjustment: float = 1.0
    proximal: float = 0.0
    distillation: float = 0.0
    distillation_temperature: float = 1.0
    lr_head: float = 1.0
    lr_depth: float = 1.0
    scaffold: bool = False
    tangents: int = 0


def with_rate(settings: TrainingSettings, lr: float | None) -> TrainingSettings:
    """Return the settings with another learning rate of round 0; None leaves it."""
    return settings if lr is None else replace(settings, lr=lr)


def learning_rate(settings: TrainingSettings, t: int) -> float:
    """Return η_t, the learning rate of round t within 0 … T−1.

    constant      η
    cosine        η (1 + cos(π t/T)) / 2, but at least η/1000
    linear        η (1 − t/T), but at least η/1000
    exponential   η γᵗ, as in Fed-HeLLo's paper (γ = 0.99)
    published     η γ in every round: Fed-HeLLo's published code, because of an operator's precedence
    """
    match settings.lr_schedule:
        case "constant":
            return settings.lr
        case "cosine":
            return settings.lr * max(LOWEST_RATE, (1 + math.cos(math.pi * t / settings.rounds)) / 2)
        case "linear":
            return settings.lr * max(LOWEST_RATE, 1 - t / settings.rounds)
        case "exponential":
            return settings.lr * settings.lr_decay**t
        case "published":
            return settings.lr * settings.lr_decay


def moments(settings: TrainingSettings) -> int:
    """Return the number of values kept between steps per trained value: the optimiser's moments and a correction."""
    state = 2 if settings.optimizer == "adamw" else 1 if settings.momentum else 0
    return state + settings.scaffold


def rank_kept(task: Task, settings: TrainingSettings) -> int | None:
    """Return the rank that a client uploads if its tail fades (HetLoRA); None where it uploads all in any case."""
    if settings.tail_least is None:
        return None
    return kept_rank(task.adapter.rank, settings.tail_from, settings.tail_least)


def optimizer_copies(settings: TrainingSettings) -> int:
    """Return how many copies of the largest trained tensor the optimiser's step makes for a moment, on a CPU."""
    return 2 if settings.optimizer == "adamw" else int(settings.weight_decay > 0)


def steps_of(settings: TrainingSettings, samples: int) -> int:
    """Return K_k, the number of steps that a client with n_k = ``samples`` takes in a round."""
    seen = samples if settings.samples is None else min(samples, settings.samples)
    return settings.epochs * -(-seen // settings.batch_size)


def rate_factor(block: int | None, num_blocks: int, lr_head: float, lr_depth: float) -> float:
    """Return the factor on η for a tensor: ξ^(L−1−l) in block l, ``lr_head`` in the head.

    Howard & Ruder 2018, "Universal language model fine-tuning for text classification" (arXiv 1801.06146), with
    ξ = 1/2.6: lower blocks hold more general features and should change less.

    Args:
        block: l; None for the head.
        num_blocks: L.
        lr_head: The head's factor.
        lr_depth: ξ.
    """
    return lr_head if block is None else lr_depth ** (num_blocks - 1 - block)
