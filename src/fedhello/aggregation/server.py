"""The server's step: the clients' mean change is a direction, and an optimiser on the server sets the step.

Reddi et al. 2021, "Adaptive federated optimization" (arXiv 2003.00295), and Hsu et al. 2019, "Measuring the effects of
non-identical data distribution for federated visual classification" (FedAvgM, arXiv 1909.06335). With Δ = θ̄ − θ, where
θ̄ is what the method's mean (or a robust rule) makes of θ,

    none      θ ← θ̄
    avgm      m ← β₁ m + Δ,                  θ ← θ + η m
    adagrad   v ← v + Δ²
    adam      v ← β₂ v + (1 − β₂) Δ²
    yogi      v ← v − (1 − β₂) Δ² sign(v − Δ²)

and for the last three m ← β₁ m + (1 − β₁) Δ, θ ← θ + η m / (√v + τ). At first m = 0 and v = τ². There is no correction
of the bias, as in the paper.

Θ is the adapter and the head that the clients share. Each tensor, and each component of a factor where ranks differ,
has a step of its own: it takes one in the rounds in which somebody trained it, and otherwise it, its m and its v stay
as they are, bit for bit. So momentum does not move a block that nobody trains.

The method state has m and v as ``server/m/NAME`` and ``server/v/NAME``.

    search    θ ← θ + α Δ,    α ∈ {0, ½, 1, 1½}

A line search in place of a fixed η. With ℓ_i(α) = −log p(y_i|x_i) of the server's validation samples i = 1 … n under
θ + α Δ, and d_i = ℓ_i(0) − ℓ_i(α), it is the α of the largest

    d̄ − s_d/√n,        s_d² = 1/(n−1) Σ_i (d_i − d̄)²

So the server takes a step only where the loss falls by more than the standard error of that fall. Without the second
term it would also take the many steps that suit these n samples by chance. Where clients hold few classes, their mean
is sometimes worse than θ; where they agree, the server goes further than their mean. Where a method averages products
rather than factors, a point between two factorisations is no point between the two models, and α is 0 or 1. Among
methods that measure the server's rate it stands beside FedExP (Jhunjhunwala et al. 2023, arXiv 2301.09604), which
derives one from the updates' norms; grid, measure and standard error are ours.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from fedhello.factors import along_components
from fedhello.strategy import STEPS, AggregationContext, AggregationResult, BoundMethod
from fedhello.types import Adapter, Update

ServerOptimizer = Literal["none", "avgm", "adam", "yogi", "adagrad", "search"]

DIVERGED = (
    "the mean of the updates makes losses on the server's validation data that are not finite, and was not taken; "
    "lower train.lr"
)

ValidationLosses = Callable[[Adapter], Float[Tensor, " n"]]
"""ℓ, −log p of each of the server's validation samples under an adapter; shape (n,), not finite where that is so."""


@dataclass(frozen=True)
class ServerStep:
    """How the server steps.

    Attributes:
        name: The optimiser; ``none`` takes θ̄ as it is, ``search`` is the line search.
        lr: η.
        beta1: β₁, of the momentum.
        beta2: β₂, of ``adam`` and ``yogi``.
        tau: τ, the adaptivity; smaller adapts more. For all but ``avgm``.
    """

    name: ServerOptimizer = "none"
    lr: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3


def with_server_step(method: BoundMethod, step: ServerStep, losses: ValidationLosses) -> BoundMethod:
    """Return the method with a server's step after its mean.

    Args:
        method: One that averages layer by layer; for ``search``, one with ``steps``.
        step: The step.
        losses: ℓ.
    """
    if step.name == "none":
        return method
    if step.name == "search":
        found = partial(searched, aggregate=method.aggregate, losses=losses, steps=method.steps)
        return replace(method, aggregate=found)
    return replace(method, aggregate=partial(stepped, aggregate=method.aggregate, step=step))


def searched(
    context: AggregationContext,
    updates: Iterable[Update],
    *,
    aggregate: Callable[[AggregationContext, Iterable[Update]], AggregationResult],
    losses: ValidationLosses,
    steps: Sequence[float] = STEPS,
) -> AggregationResult:
    """Combine updates, and choose α by the losses on the validation data; see ``search`` above.

    Args:
        context: With θ.
        updates: Passed on one by one.
        aggregate: How the method combines them, or a rule in its place.
        losses: ℓ of an adapter; a step with a loss that is not finite is not taken.
        steps: α to choose from, of equal ones the first; 0 and 1 are among them.

    Returns:
        The result, with α. Tensors without a contributor are the same objects as before; with α = 0 all are, and the
        method state is unchanged.
    """
    outcome = aggregate(context, updates)
    before, after = context.adapter.tensors, outcome.adapter.tensors

    def gone(step: float) -> Adapter:
        if step == 0:
            return context.adapter
        if step == 1:
            return outcome.adapter
        found = {n: x if x is before[n] else _between(before[n], x, step) for n, x in after.items()}
        return outcome.adapter.with_tensors(found)

    candidates = {step: gone(step) for step in steps}
    start = losses(context.adapter).double()
    gains = {step: sure_gain(start - losses(adapter).double()) if step else 0.0 for step, adapter in candidates.items()}
    step = max(steps, key=gains.__getitem__)
    flags = (*outcome.flags, *([DIVERGED] if gains[1.0] == -math.inf else []))
    method_state = outcome.method_state if step else context.method_state
    return replace(outcome, adapter=candidates[step], method_state=method_state, step=step, flags=flags)


def sure_gain(fall: Float[Tensor, " n"], errors: float = 1.0) -> float:
    """Return d̄ − z s_d/√n of n falls d in the loss; −∞ where one is not finite, or one alone has no spread.

    Args:
        fall: d, shape (n,).
        errors: z, how many standard errors are taken off.
    """
    if not bool(fall.isfinite().all()) or len(fall) < 2:
        return -math.inf
    return float(fall.mean()) - errors * float(fall.std()) / math.sqrt(len(fall))


def _between(before: Float[Tensor, "*shape"], after: Float[Tensor, "*shape"], step: float) -> Float[Tensor, "*shape"]:
    return (before.double() + step * (after.double() - before.double())).to(before.dtype)


def stepped(
    context: AggregationContext,
    updates: Iterable[Update],
    *,
    aggregate: Callable[[AggregationContext, Iterable[Update]], AggregationResult],
    step: ServerStep,
) -> AggregationResult:
    """Combine updates, and go from θ towards the result as the optimiser says.

    Args:
        context: With θ, and with m and v of earlier rounds.
        updates: Passed on one by one.
        aggregate: The layer-wise mean, or a rule in its place.
        step: The optimiser.

    Returns:
        The outcome, with m and v to remember. Tensors without a contributor are the very same objects as before.
    """
    trained: dict[str, Tensor] = {}
    outcome = aggregate(context, _noted(context, updates, trained))
    tensors, method_state = dict(outcome.adapter.tensors), dict(outcome.method_state)
    for name in sorted(trained):
        before, where = context.adapter.tensors[name], trained[name]
        m_name, v_name = f"server/m/{name}", f"server/v/{name}"
        m = context.method_state.get(m_name, torch.zeros_like(before))
        v = context.method_state.get(v_name, torch.full_like(before, step.tau**2))
        change, new_m, new_v = step_of(tensors[name].double() - before.double(), m.double(), v.double(), step)
        after = (before.double() + change).to(before.dtype)
        tensors[name] = torch.where(where, after, before)
        method_state[m_name] = torch.where(where, new_m.to(before.dtype), m)
        if step.name != "avgm":
            method_state[v_name] = torch.where(where, new_v.to(before.dtype), v)
    return replace(outcome, adapter=outcome.adapter.with_tensors(tensors), method_state=method_state)


def step_of(
    delta: Float64[Tensor, "*shape"], m: Float64[Tensor, "*shape"], v: Float64[Tensor, "*shape"], step: ServerStep
) -> tuple[Float64[Tensor, "*shape"], Float64[Tensor, "*shape"], Float64[Tensor, "*shape"]]:
    """Return what is added to θ, and the new m and v, by the formulas above.

    Args:
        delta: Δ.
        m: As it was; the same shape.
        v: As it was, likewise; ``avgm`` returns it unchanged.
        step: The optimiser, neither ``none`` nor ``search``.
    """
    square = delta.square()
    if step.name == "avgm":
        m = step.beta1 * m + delta
        return step.lr * m, m, v
    match step.name:
        case "adagrad":
            v = v + square
        case "adam":
            v = step.beta2 * v + (1 - step.beta2) * square
        case "yogi":
            v = v - (1 - step.beta2) * square * (v - square).sign()
    m = step.beta1 * m + (1 - step.beta1) * delta
    return step.lr * m / (v.sqrt() + step.tau), m, v


def _noted(
    context: AggregationContext, updates: Iterable[Update], trained: dict[str, Bool[Tensor, "..."]]
) -> Iterator[Update]:
    """Pass updates on, and store where each tensor was trained: bool, of a shape that broadcasts to the tensor's."""
    for update in updates:
        for name, value in update.tensors.items():
            where = _where(context, update, name, value)
            trained[name] = trained[name] | where if name in trained else where
        yield update


def _where(context: AggregationContext, update: Update, name: str, value: Float[Tensor, "..."]) -> Bool[Tensor, "..."]:
    if value.shape == context.adapter.tensors[name].shape:
        return torch.tensor(True)
    held = torch.zeros(context.federation.rank, dtype=torch.bool)
    held[list(context.components(update, name))] = True
    return along_components(name, held)
