"""Configurations with what is found on loading, so that a run can be repeated."""

from collections.abc import Sequence
from typing import Any, Literal

from fedhello.config.choices import with_choices
from fedhello.config.schema import Config, TierConfig
from fedhello.data.memory import MEMORY
from fedhello.model.adapter import LoraModel
from fedhello.types import Budget


def with_found(config: Config, model: LoraModel, features: int | None) -> Config:
    """Return the configuration with the values found on loading, so that the run can be repeated.

    These are the commit of a hub id, the pooling, and the values of ``auto``.
    """
    found: dict[str, Any] = {"revision": model.source.revision, "pooling": model.pooling, "features": features}
    if config.model.name == MEMORY:
        found["dtype"] = str(next(model.base.parameters()).dtype).removeprefix("torch.")
    return with_choices(config.model_copy(update={"model": config.model.model_copy(update=found)}))


def with_speeds_of(config: Config, budgets: Sequence[Budget]) -> Config:
    """Return the configuration with the speeds of its tiers' budgets, so that the run can be repeated."""
    tiers = [tier.model_copy(update={"speed": b.speed}) for tier, b in zip(config.clients.tiers, budgets, strict=True)]
    return config.model_copy(update={"clients": config.clients.model_copy(update={"tiers": tiers})})


def with_number_type(config: Config, autocast: Literal["none", "bfloat16"], attention: str | None) -> Config:
    """Return the configuration with the number type and the attention that ``auto`` stands for, to repeat the run."""
    model, train = config.model, config.train
    if train.autocast == "auto":
        train = train.model_copy(update={"autocast": autocast})
    if model.attention == "auto":
        model = model.model_copy(update={"attention": "eager" if attention == "eager" else "default"})
    return config.model_copy(update={"model": model, "train": train})


def with_evaluations(config: Config, every: int) -> Config:
    """Return the configuration with the rounds between two scorings that ``auto`` stands for."""
    return config.model_copy(update={"train": config.train.model_copy(update={"evaluate_every": every})})


def pooled(config: Config) -> Config:
    """Return the configuration with one client that holds all data and can afford everything."""
    tier = TierConfig(share=1.0, blocks=None, rank=config.model.lora.rank)
    return config.model_copy(
        update={
            "clients": config.clients.model_copy(update={"tiers": [tier]}),
            "train": config.train.model_copy(update={"clients_per_round": 1}),
        }
    )


def as_loaded(config: Config, found: Config) -> Config:
    """Return a configuration with resolved ``auto`` values, and with what a run found on loading and on its machine.

    Args:
        config: The configuration.
        found: That of the run.
    """
    loaded: dict[str, Any] = {}
    if config.model.pooling == "auto":
        loaded["pooling"] = found.model.pooling
    if config.model.name == MEMORY:
        loaded |= {"dtype": found.model.dtype, "features": found.model.features}
    if config.model.attention == "auto":
        loaded["attention"] = found.model.attention
    fast = {"autocast": found.train.autocast} if config.train.autocast == "auto" else {}
    model, train = config.model.model_copy(update=loaded), config.train.model_copy(update=fast)
    return with_choices(config.model_copy(update={"model": model, "train": train}))
