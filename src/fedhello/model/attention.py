"""Which of transformers' implementations computes a model's attention."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal
from weakref import WeakKeyDictionary

from fedhello.errors import ModelError
from fedhello.model.adapter import LoraModel
from fedhello.model.sources import TENSORS

Attention = Literal["default", "eager", "sdpa"]
"""``default`` is what transformers chooses for the model."""

RATES = ("attention_probs_dropout_prob", "attention_dropout", "attention_dropout_prob", "attn_pdrop")
"""What configurations call the dropout of attention's weights."""

_OWN: WeakKeyDictionary[LoraModel, str | None] = WeakKeyDictionary()
"""Model → the implementation that it was loaded with."""


def attention_of(model: LoraModel) -> str | None:
    """Return the implementation that a model uses; None for a plain module.

    Args:
        model: The model.
    """
    return None if model.kind == TENSORS else getattr(model.base.config, "_attn_implementation", None)


def set_attention(model: LoraModel, attention: Attention) -> None:
    """Let a model compute its attention in another way; results differ by rounding.

    Args:
        model: The model.
        attention: The implementation.

    Raises:
        ModelError: If the model does not have it.
    """
    own = _OWN.setdefault(model, attention_of(model))
    wanted = own if attention == "default" else attention
    if wanted == attention_of(model):
        return
    base: Any = model.base
    if model.kind != TENSORS:
        base.set_attn_implementation(wanted)
    if attention_of(model) != wanted:
        raise ModelError(
            f"expected {model.source.base_name} to compute attention by {wanted}; it has {own} alone. "
            "Set model.attention=default."
        )


@contextmanager
def computed_by(model: LoraModel, attention: Attention) -> Iterator[None]:
    """Let a model compute its attention in another way inside the context."""
    base: Any = model.base
    before = attention_of(model)
    set_attention(model, attention)
    try:
        yield
    finally:
        if attention_of(model) != before:
            base.set_attn_implementation(before)


def drops_attention(model: LoraModel) -> bool:
    """Whether attention's weights have dropout in training, for which torch has no fused kernel on a CPU.

    Args:
        model: The model, not a plain module.
    """
    return any(getattr(model.base.config, rate, None) for rate in RATES)
