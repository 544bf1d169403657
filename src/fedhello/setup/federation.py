"""The federation of a configuration, before its clients are known."""

from math import ceil

from fedhello.config.schema import Config
from fedhello.config.settings import band_of
from fedhello.model.adapter import LoraModel
from fedhello.types import Budget, Federation


def budgets_of(config: Config) -> tuple[Budget, ...]:
    """Return the budget of each tier."""
    return tuple(tier.budget for tier in config.clients.tiers)


def empty_federation(config: Config, model: LoraModel) -> Federation:
    """Return the federation of a configuration, without clients and costs."""
    train = config.train
    logits = [model.head_tensor_name(kind) for kind in ("weight", "bias")] if train.loss == "restricted" else []
    return Federation(
        clients=(),
        tiers=budgets_of(config),
        num_blocks=model.blocks.count,
        clients_per_round=train.clients_per_round,
        seed=config.run.seed,
        rule=train.activations,
        rank=config.model.lora.rank,
        scale=model.scale,
        # Whether a round counts must not depend on who came, where that could tell of a client.
        quorum=0 if config.privacy.epsilon else ceil(train.quorum * train.clients_per_round - 1e-9),
        over_selection=train.over_selection,
        class_rows=tuple(name for name in logits if name in model.head_names),
        poisson=train.sampling == "poisson",
        cycle=band_of(config),
        # Where single samples are protected, each client's rounds are counted, and known.
        secret=config.privacy.epsilon is not None and config.privacy.unit == "client",
    )
