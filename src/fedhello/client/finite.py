"""Find out why values are not finite, so that the advice names the cause and not any setting."""

from collections.abc import Mapping

from torch import Tensor

from fedhello.model.adapter import LoraModel

LARGE = 1e6
"""Magnitude beyond which values of an adapter, or the factor of LoRA's product, are taken for the cause."""


def start_cause(model: LoraModel, before: Mapping[str, Tensor] | None = None) -> str:
    """Return why a model's outputs are not finite before it trains, and what to change.

    Args:
        model: The model.
        before: The values of tensors that have changed since.
    """
    values = {**model.snapshot(share_head=True).tensors, **(before or {})}
    largest: dict[str, float] = {}
    for name, value in values.items():
        part = "head" if model.block_of[name] is None else "LoRA factors"
        if not bool(value.isfinite().all()):
            return (
                f"the {part} that this round started from are not finite, so no learning rate helps. Resume from an "
                "earlier checkpoint, and set defence.screen or defence.clip if an update of a client made them so"
            )
        largest[part] = max(largest.get(part, 0.0), float(value.abs().max()) if value.numel() else 0.0)
    part = max(largest, key=lambda name: largest[name])
    if model.scale > LARGE:
        return f"LoRA's product is scaled by {model.scale:.3g}, before any training. Lower model.lora.alpha"
    if largest[part] > LARGE:
        scale = "lower model.head_scale, or " if part == "head" else ""
        return (
            f"the {part} that this round started from reach {largest[part]:.3g}, before any training, so that an "
            f"earlier round or the configuration made them too large. See whose updates counted then, and {scale}set "
            "defence.screen or defence.clip"
        )
    return (
        "its first outputs, before any training, are not finite although the adapter is small. Check its data, and "
        "model.dtype and train.autocast, whose precision may not hold them"
    )
