"""Settings of local training on this machine, and the costs of a step and of a pass for Fisher scores."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fedhello.aggregation.control import Distance
from fedhello.allocation.planner import OPTIONS
from fedhello.client.calibration import calibrate, check_calibrated, with_optimizer, with_tangents
from fedhello.client.cost_model import Peak, StepCosts
from fedhello.client.known_costs import Settings, known_costs
from fedhello.client.memory import RESERVE
from fedhello.client.private_training import gradient_copies
from fedhello.client.scoring import calibrate_scoring
from fedhello.client.settings import (
    METRICS,
    TrainingSettings,
    learning_rate,
    rate_factor,
    steps_of,
    with_rate,
)
from fedhello.client.trial import pays, time_in_bfloat16, time_in_eager
from fedhello.costs import FORWARD, KEEP, ActivationPolicy, ActivationRule
from fedhello.data.batches import Samples
from fedhello.engine.wire import upload_bound
from fedhello.errors import ConfigError, ModelError
from fedhello.model.adapter import LoraModel
from fedhello.model.attention import set_attention
from fedhello.model.head import HeadSettings, is_shared
from fedhello.model.sources import TENSORS
from fedhello.setup.encoding import longest_answer
from fedhello.strategy import BoundMethod
from fedhello.types import Budget


def step_costs(
    model: LoraModel,
    settings: TrainingSettings,
    head: HeadSettings,
    budgets: Sequence[Budget],
    rule: ActivationRule,
    answer: int | None,
) -> StepCosts | None:
    """Calibrate the model and return its step costs; None if no prediction is needed, or possible (plain modules).

    Args:
        model: The model.
        settings: How clients train.
        head: How the head comes about.
        budgets: Of the tiers that take part.
        rule: Which activation policies allocations may use.
        answer: Of a language model, the tokens of the longest response.

    Raises:
        ConfigError: If a budget of a plain module is in bytes or seconds, or one in memory or seconds meets blocks
            that differ.
        ModelError: If the model does not allow what the rule asks for, or a budget is in bytes or seconds and they do
            not follow from the calibration.
    """
    limited = not all(budget.only_counts for budget in budgets)
    policies = _used_policies(rule, limited, model)
    if limited and model.kind == TENSORS:
        raise ConfigError(
            "expected clients.tiers to state blocks or rank for a plain module, whose bytes and seconds are not "
            "predicted; found memory, upload or seconds. Give counts."
        )
    wanted = settings.measure_memory or limited
    if model.kind == TENSORS or not wanted:
        return None
    measured = any(budget.memory is not None or budget.seconds is not None for budget in budgets)
    if measured and not model.has_like_blocks:
        raise ConfigError(
            f"expected clients.tiers to state blocks, rank or upload for {model.source.base_name}, whose blocks "
            "differ; found memory or seconds, which are measured on the first and the last block. Give counts."
        )
    fixed = head.policy == "solved" and not head.trains
    shared, frozen = is_shared(head.policy) and not fixed, fixed or head.policy == "frozen"
    adapter = model.snapshot(shared)
    block_upload, fixed_upload = upload_bound(adapter, METRICS)
    how: Settings = (settings.autocast == "bfloat16", tuple(policies), answer, not frozen)
    costs = known_costs(model, how, lambda: calibrate(model, *how))
    if limited:
        check_calibrated(costs, model)
    if settings.tangents:
        costs = with_tangents(costs, settings.tangents, train_head=not frozen)
    return replace(
        with_optimizer(costs, model, settings, train_head=not frozen),
        head_bytes=0 if frozen else costs.head_bytes,
        head_shared=shared,
        reserve=RESERVE,
        block_upload=block_upload,
        fixed_upload=fixed_upload,
        rank=adapter.rank,
    )


def with_copies(costs: StepCosts, batch_size: int) -> StepCosts:
    """Return the costs of steps that hold a gradient of each sample.

    Args:
        costs: Of plain steps.
        batch_size: The most samples that are computed at once.
    """
    return replace(costs, copies=gradient_copies(batch_size))


def score_costs(budgets: Sequence[Budget], method: BoundMethod, model: LoraModel, answer: int | None) -> Peak | None:
    """Calibrate passes for Fisher scores, if clients compute them and one has a memory budget.

    Args:
        budgets: Of the tiers that take part.
        method: With its options.
        model: The model.
        answer: Of a language model, the tokens of the longest response.
    """
    limited = any(budget.memory is not None for budget in budgets)
    return calibrate_scoring(model, answer) if limited and method.scoring.source == "clients" else None


def _used_policies(rule: ActivationRule, limited: bool, model: LoraModel) -> list[ActivationPolicy]:
    """Return the activation policies that allocations may use; ``limited``: whether a budget is in bytes."""
    if rule == FORWARD:
        return [FORWARD]
    if rule == "auto" and not limited:
        return [KEEP]  # no budget limits memory
    used: set[ActivationPolicy] = {KEEP, *OPTIONS[rule]["trained"], *OPTIONS[rule]["frozen"]}
    if "recompute" in used and not model.allows_recomputation:
        raise ModelError(
            f"expected train.activations to be keep or compress, since {model.source.base_name} forbids recomputation "
            f"(supports_gradient_checkpointing is false); found {rule}"
        )
    return sorted(used)


def on_device(
    settings: TrainingSettings,
    autocast: str,
    method: BoundMethod,
    model: LoraModel,
    samples: Samples,
    attention: bool = False,
) -> tuple[TrainingSettings, tuple[str, ...]]:
    """Return how clients train on this machine under a method's own options, and notes on what was chosen here.

    Args:
        settings: As they are stated.
        autocast: The number type of the forward pass; ``auto`` takes what is faster here.
        method: With its options.
        model: The model, on its device.
        samples: Samples as clients have them.
        attention: Whether the model may compute its attention in another way, if that is faster here.
    """
    every = np.arange(len(samples))
    here = model, settings.batch_size, samples.lengths(), longest_answer(samples, every)
    notes: tuple[str, ...] = ()
    if autocast == "auto":
        share = time_in_bfloat16(*here)
        if share is not None and not pays(share) and attention:  # torch's own attention can be what makes bf16 slow
            share = time_in_eager(*here, autocast=True, before=False)
        if pays(share):
            settings = replace(settings, autocast="bfloat16")
            notes = (
                "training and evaluation run in bfloat16 autocast, which is faster here: a step took "
                f"{share:.0%} of the time; train.autocast=none keeps float32",
            )
    fast = settings.autocast == "bfloat16"
    share = time_in_eager(*here, autocast=fast, before=fast) if attention else None
    if pays(share):
        set_attention(model, "eager")
        notes += (
            f"attention is computed by transformers' eager code, which is faster here: a step took {share:.0%} of the "
            "time; model.attention=default keeps the model's own, which holds less memory",
        )
    return replace(settings, **method.local), notes


def distance_of(settings: TrainingSettings, model: LoraModel) -> Distance:
    """Return K_k η as a function of a client's samples, the round, a tensor, and a rate in place of the settings'."""

    def distance(samples: int, round: int, name: str, lr: float | None) -> float:
        factor = rate_factor(model.block_of[name], model.blocks.count, settings.lr_head, settings.lr_depth)
        return steps_of(settings, samples) * learning_rate(with_rate(settings, lr), round) * factor

    return distance
