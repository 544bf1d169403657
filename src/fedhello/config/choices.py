"""Values that ``auto`` resolves to, and keys whose values other keys fix."""

from collections.abc import Mapping
from typing import Any

from fedhello.config.schema import Config
from fedhello.config.training import TrainConfig
from fedhello.errors import ConfigError
from fedhello.method import Method
from fedhello.plugins import method_or_stand_in
from fedhello.strategy import the_global_model

# Settings of Fed-HeLLo's published code where it differs from the paper, so that its logs can be compared.
# The first value is the default under parity. The code can weigh by batches, but no published experiment does.
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
"""Keys that instruction data fixes, each with its allowed values: a language model has no head."""


BEFORE: dict[str, Any] = {
    "model.pooling": "native",
    "model.drift_compensation": False,
    "train.selection": "last",
    "train.lr": 2e-3,
    "defence.max_share": None,
    "defence.max_norm": None,
    "train.evaluate_every": 1,
    "model.attention": "default",
}
"""Values that reproduce earlier versions, for keys that their configurations do not have."""


RATE, FOLLOWED_RATE = 2e-3, 5e-3
"""Learning rates that ``auto`` resolves to: in general, and with a solved head that does not train."""


def with_choices(config: Config) -> Config:
    """Return the configuration with every ``auto`` resolved that depends on other settings only.

    With a solved head, which knows all classes before training, the loss is ``cross_entropy``: it is more accurate
    than the restricted one (docs/explanation/solved-heads.md). If that head does not train, it is compensated for the
    drift of the features (``model.drift_compensation``), the model is selected on validation data
    (``train.selection``), and the learning rate is 5e-3. Otherwise these are ``restricted``, false, ``last`` and 2e-3.
    Methods that train nothing or have several models get no drift compensation and no selection, whatever the
    configuration asks for, so that one configuration serves a comparison of methods.
    """
    solved, train = config.model.head == "solved", config.train
    method = method_or_stand_in(config.method.name, config.method.options)
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
    """Return the learning rate of a configuration whose ``auto`` values are resolved."""
    if isinstance(train.lr, str):
        raise ValueError("expected a resolved learning rate; found auto. Call with_choices() first.")
    return train.lr


def with_published_semantics(raw: Mapping[str, Any], method: Method) -> dict[str, Any]:
    """Set the keys that ``parity: published`` fixes."""
    if not method.averages_layerwise:
        raise ConfigError(
            f"expected a method that averages layer by layer under parity: published, which follows Fed-HeLLo's code; "
            f"found {method.name}. Leave parity out."
        )
    left_out = {
        dotted
        for dotted in PUBLISHED
        if dotted.startswith("method.") and dotted.removeprefix("method.") not in method.options.model_fields
    }
    return with_fixed(raw, {k: v for k, v in PUBLISHED.items() if k not in left_out}, "under parity: published")


def with_fixed(raw: Mapping[str, Any], fixed: Mapping[str, tuple[Any, ...]], when: str) -> dict[str, Any]:
    """Set dotted keys to the first of their allowed values.

    Raises:
        ConfigError: If a key is given with a value that is not allowed.
    """
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
