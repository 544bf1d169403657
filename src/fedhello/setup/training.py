"""How clients train, score and sum up under a configuration, and what a step costs."""

from dataclasses import replace

import torch

from fedhello.allocation.planner import OPTIONS
from fedhello.client.calibration import calibrate
from fedhello.client.cost_model import Peak, StepCosts
from fedhello.client.memory import RESERVE
from fedhello.client.scoring import calibrate_scoring
from fedhello.client.settings import METRICS, TrainingSettings, bfloat16_pays, moments
from fedhello.config.choices import rate_of
from fedhello.config.schema import Config
from fedhello.costs import KEEP, ActivationPolicy
from fedhello.engine.wire import upload_bound
from fedhello.errors import ConfigError, ModelError
from fedhello.model.adapter import LoraModel
from fedhello.model.head import is_shared
from fedhello.model.sources import TENSORS
from fedhello.model.statistics import Moments, StatisticsSettings
from fedhello.randomness import integer_seed
from fedhello.strategy import BoundMethod


def step_costs(config: Config, model: LoraModel, settings: TrainingSettings, answer: int | None) -> StepCosts | None:
    """Calibrate the model, unless nothing is to be predicted, or cannot be (DoRA, plain modules).

    Raises:
        ConfigError: If a budget of a plain module is in bytes or seconds.
    """
    policies = _used_policies(config, model)
    limited = not all(tier.budget.only_counts for tier in config.clients.tiers)
    if limited and model.kind == TENSORS:
        raise ConfigError(
            "expected clients.tiers to state blocks or rank for a plain module, whose bytes and seconds are not "
            "predicted; found memory, upload or seconds. Give counts."
        )
    wanted = config.train.measure_memory or limited
    if model.has_magnitudes or model.kind == TENSORS or not wanted:
        return None
    fixed = config.model.head == "solved" and not config.model.train_head
    shared, frozen = is_shared(config.model.head) and not fixed, fixed or config.model.head == "frozen"
    block_upload, fixed_upload = upload_bound(model.snapshot(shared), METRICS)
    costs = calibrate(model, autocast=settings.autocast == "bfloat16", policies=policies, answer=answer)
    return replace(
        costs,
        head_bytes=0 if frozen else costs.head_bytes,
        head_shared=shared,
        moments=moments(settings),
        reserve=RESERVE,
        block_upload=block_upload,
        fixed_upload=fixed_upload,
        rank=config.model.lora.rank,
    )


def score_costs(config: Config, method: BoundMethod, model: LoraModel, answer: int | None) -> Peak | None:
    """Calibrate passes for Fisher scores, if clients score and one has a budget of memory.

    Args:
        config: With the tiers that take part.
        method: With its options.
        model: The model.
        answer: Of a language model, the tokens of the longest response.
    """
    limited = any(tier.memory is not None for tier in config.clients.tiers)
    return calibrate_scoring(model, answer) if limited and method.scoring.source == "clients" else None


def _used_policies(config: Config, model: LoraModel) -> list[ActivationPolicy]:
    """Return the activation policies that allocations may use."""
    rule = config.train.activations
    if rule == "auto" and all(tier.budget.only_counts for tier in config.clients.tiers):
        return [KEEP]  # nothing asks for less memory
    used: set[ActivationPolicy] = {KEEP, *OPTIONS[rule]["trained"], *OPTIONS[rule]["frozen"]}
    if "recompute" in used and not model.allows_recomputation:
        raise ModelError(
            f"expected train.activations to be keep or compress, since {config.model.name} forbids recomputation "
            f"(supports_gradient_checkpointing is false); found {rule}"
        )
    return sorted(used)


def training_settings(config: Config, method: BoundMethod, device: torch.device, notes: list[str]) -> TrainingSettings:
    """Return how clients train under a configuration and the method's own options; the number type is this machine's.

    Args:
        config: With the tiers that take part.
        method: With its options.
        device: Where they train.
        notes: Gets a note on a choice made here.
    """
    train = config.train
    autocast = train.autocast
    if autocast == "auto":
        autocast = "bfloat16" if bfloat16_pays(device, train.batch_size) else "none"
        if autocast == "bfloat16":
            notes.append(
                "training and evaluation run in bfloat16 autocast, which is faster here; train.autocast=none keeps "
                "float32"
            )
    settings = TrainingSettings(
        rounds=train.rounds,
        epochs=train.epochs,
        batch_size=train.batch_size,
        optimizer=train.optimizer,
        lr=rate_of(train),
        lr_schedule=train.lr_schedule,
        lr_decay=train.lr_decay,
        weight_decay=train.weight_decay,
        momentum=train.momentum,
        loss="restricted" if train.loss == "auto" else train.loss,  # told by then; see with_choices
        adjustment=train.adjustment,
        proximal=train.proximal,
        distillation=train.distillation,
        distillation_temperature=train.distillation_temperature,
        lr_head=train.lr_head,
        lr_depth=train.lr_depth,
        scaffold=train.scaffold,
        autocast=autocast,
        measure_memory=train.measure_memory,
        measure_process=any(tier.memory is not None for tier in config.clients.tiers),
    )
    return replace(settings, **method.local)


def statistics_settings(config: Config) -> StatisticsSettings:
    """Return what clients sum up for a head under a configuration; prototypes need no second moments."""
    model = config.model
    if model.head == "prototypes":
        return StatisticsSettings(Moments("means"), model.least)
    if isinstance(model.moments, str):
        return StatisticsSettings(Moments(model.moments), model.least)
    sketch = Moments("sketch", model.moments.sketch, integer_seed(config.run.seed, "sketch"))
    return StatisticsSettings(sketch, model.least)
