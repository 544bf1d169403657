"""Check what came of a client's training: finite values, and a change of every allocated block."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from fedhello.client.finite import start_cause
from fedhello.client.settings import TrainingSettings, learning_rate
from fedhello.errors import UpdateError
from fedhello.model.adapter import LoraModel


def are_finite(values: Mapping[str, Tensor]) -> bool:
    """Whether no value is NaN or infinite."""
    return all(bool(value.isfinite().all()) for value in values.values())


def not_finite(
    model: LoraModel,
    client: int,
    t: int,
    settings: TrainingSettings,
    before: Mapping[str, Tensor],
    loss: float,
    objective: float,
) -> UpdateError:
    """Return why training gave values that are not finite: the loss and the objective before its first step tell.

    Args:
        model: The model.
        client: The client's id.
        t: The round.
        settings: How it trained.
        before: The values of the trained tensors before.
        loss: Its first loss.
        objective: The same with the terms that method and settings add.
    """
    if not math.isfinite(loss):
        cause = start_cause(model, before)
    elif not math.isfinite(objective):
        keys = {"train.distillation": settings.distillation, "the method's penalty": settings.tail_penalty}
        named = " and ".join(key for key, value in keys.items() if value)
        cause = f"its loss is finite, and the terms added to it are not. Lower {named}"
    else:
        scales = {
            "model.lora.alpha": model.scale,
            "train.lr_head": settings.lr_head,
            "train.proximal": settings.proximal,
        }
        scales["train.distillation"] = settings.distillation
        large = [f"{key}, which scales them by {value:.3g}" for key, value in scales.items() if value > 100]
        rate = f"train.lr, which is {learning_rate(settings, t):.3g} in this round"
        cause = (
            f"its first loss, {loss:.3g}, is finite, but its steps are too large. Lower {' or '.join([*large, rate])}"
        )
    return UpdateError(
        f"expected finite training values; client {client} in round {t} got NaN or infinity: {cause}.",
        "not finite",
    )


def check_trained(
    model: LoraModel, client: int, t: int, before: Mapping[str, Tensor], after: Mapping[str, Tensor]
) -> None:
    """Check that training changed every allocated block.

    Args:
        model: The model.
        client: The client's id.
        t: The round.
        before: The values of the allocated tensors before training.
        after: Those after it.

    Raises:
        UpdateError: If it did not.
    """
    who = f"client {client} in round {t}"
    names = unchanged(model.block_of, before, after)
    if names:
        raise UpdateError(
            f"expected training to change every allocated block; {who} did not change {names}. "
            "Its learning rate or all gradients there are zero."
        )


def unchanged(block_of: Mapping[str, int | None], before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> str:
    """Return in words which allocated blocks training did not change; empty if it changed all.

    Args:
        block_of: Name → block, or None for the head.
        before: The allocated tensors before training.
        after: The same tensors after training.
    """
    # A single factor may stay unchanged: while B is zero, A has no gradient. A whole block must change. A head may stay
    # unchanged if blocks change: on well-fitted data a step is so small that it is lost in the head's large values.
    moved = {block_of[name] for name in before if not torch.equal(before[name], after[name])}
    still = {block_of[name] for name in before} - moved
    if moved:
        still -= {None}
    return ", ".join("the head" if block is None else f"block {block}" for block in sorted(still, key=str))
