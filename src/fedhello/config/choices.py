"""What auto stands for, and what is fixed where something else is asked for."""

from collections.abc import Mapping
from typing import Any

from fedhello.config.schema import Config, MethodConfig, TrainConfig
from fedhello.errors import ConfigError
from fedhello.methods import METHODS
from fedhello.strategy import the_global_model

# What the published code of Fed-HeLLo does where it differs from the paper, so that its logs can be compared.
# The first value is the default under parity. No experiment that comes with the code weighs by batches; it could.
PUBLISHED: dict[str, tuple[Any, ...]] = {
    "model.pooling": ("native",),
    "model.head": ("frozen",),
    "train.loss": ("cross_entropy",),
    "train.lr_schedule": ("published",),
    "train.optimizer": ("adamw",),
    "train.weight_decay": (0.01,),
    "train.autocast": ("none",),
    "method.weighting": ("clients", "batches"),
    "method.persist": (False,),
}


INSTRUCTION: dict[str, tuple[Any, ...]] = {
    "model.task": ("instruction",),
    "model.head": ("none",),
    "model.pooling": ("native", "auto"),
    "train.loss": ("cross_entropy",),
    "train.distillation": (0.0,),
}
"""What instruction data stands for: a language model has no head, and its classes are the tokens."""


BEFORE: dict[str, Any] = {
    "model.pooling": "native",
    "model.drift_compensation": False,
    "train.selection": "last",
    "train.lr": 2e-3,
}
"""What runs of 0.1.0 did where there is a choice since."""


RATE, FOLLOWED_RATE = 2e-3, 5e-3
"""Learning rates that ``auto`` stands for: of others, and with a solved head that does not train."""


def with_choices(config: Config) -> Config:
    """Return a configuration that says what every ``auto`` stands for, as far as it depends on nothing but settings.

    With a head that is solved, which knows all classes before anybody trains, the loss is ``cross_entropy``: what
    clients of few classes teach each other by it is worth more than by the restricted one. If the head does not train,
    it follows the features (``model.drift_compensation``), the model that validation data is surest of is handed back
    (``train.selection``), and the learning rate is 5e-3. Measured: docs/explanation/solved-heads.md. Elsewhere these
    are ``restricted``, false, ``last`` and 2e-3. Methods that train nothing, or lead to several models, have no head
    that follows and no selection, whatever is asked for, so that they can be compared with others.
    """
    solved, train, method = config.model.head == "solved", config.train, METHODS[config.method.name]
    follows = solved and not config.model.train_head
    one = method.models is the_global_model and not method.head_alone
    asked = {True: True, False: False, "auto": follows}[config.model.drift_compensation]
    model = config.model.model_copy(update={"drift_compensation": asked and one})
    found: dict[str, Any] = {}
    if train.loss == "auto":
        found["loss"] = "cross_entropy" if solved else "restricted"
    if train.lr == "auto":
        found["lr"] = FOLLOWED_RATE if follows else RATE
    chosen = {"auto": "validation" if follows else "last"}.get(train.selection, train.selection)
    found["selection"] = chosen if one else "last"
    return config.model_copy(update={"model": model, "train": train.model_copy(update=found)})


def rate_of(train: TrainConfig) -> float:
    """Return the learning rate of a configuration whose choices are made."""
    if isinstance(train.lr, str):
        raise ValueError("expected with_choices() before the learning rate is asked for; found auto")
    return train.lr


def with_published_semantics(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Set what ``parity: published`` stands for."""
    name = raw.get("method", {}).get("name", MethodConfig().name)
    if name in METHODS and not METHODS[name].averages_layerwise:
        raise ConfigError(
            f"expected a method that averages layer by layer under parity: published, which is about Fed-HeLLo's code; "
            f"found {name}. Leave parity out."
        )
    left_out = {
        dotted
        for dotted in PUBLISHED
        if dotted.startswith("method.")
        and name in METHODS
        and dotted.removeprefix("method.") not in METHODS[name].options.model_fields
    }
    return with_fixed(raw, {k: v for k, v in PUBLISHED.items() if k not in left_out}, "under parity: published")


def with_fixed(raw: Mapping[str, Any], fixed: Mapping[str, tuple[Any, ...]], when: str) -> dict[str, Any]:
    """Set dotted keys to the first of their allowed values; a key that says otherwise is an error, not a mixture."""
    result: dict[str, Any] = {key: dict(value) if isinstance(value, Mapping) else value for key, value in raw.items()}
    for dotted, allowed in fixed.items():
        section, key = dotted.split(".")
        given = result.setdefault(section, {})
        if given.setdefault(key, allowed[0]) not in allowed:
            raise ConfigError(
                f"expected {dotted} to be {' or '.join(map(repr, allowed))} {when}; found {given[key]!r}. "
                "Leave one of the two out."
            )
    return result
