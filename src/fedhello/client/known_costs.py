"""Calibrations kept on disk, so that a model of known structure is not calibrated again.

What a calibration finds follows from the model's structure and settings, the installed versions and the device, and not
from the machine's speed. All of that is in the key, with a digest of the source that measures. Models whose classes are
not those of installed packages, or whose tensors' shapes depend on values, are calibrated each time.
"""

import hashlib
import importlib.metadata
import json
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import astuple, fields
from functools import cache
from pathlib import Path
from typing import Any

import torch

from fedhello.client.cost_model import Growth, Peak, StepCosts
from fedhello.client.first_step import goes_by_values
from fedhello.costs import ActivationPolicy
from fedhello.data.cache import folder, write
from fedhello.model.adapter import LoraModel
from fedhello.model.attention import attention_of

LEAST = 0.5
"""CPU-seconds of the quickest calibration that is kept."""

Settings = tuple[bool, tuple[ActivationPolicy, ...], int | None, bool]
"""How a model is calibrated: the arguments of ``calibrate``."""

PACKAGES = ("torch", "transformers", "peft", "fedhello")


def known_costs(model: LoraModel, settings: Settings, measured: Callable[[], StepCosts]) -> StepCosts:
    """Return a calibration: the one that is kept, else one that is measured and kept.

    A file that is damaged, or cannot be written, is as if it were not there.

    Args:
        model: The model.
        settings: How it is calibrated.
        measured: Calibrates it.
    """
    path = _path(model, settings)
    if path is not None:
        with suppress(OSError, ValueError, TypeError, KeyError):
            return _costs(json.loads(path.read_bytes()))
    begin = time.process_time()
    costs = measured()
    if path is not None and time.process_time() - begin > LEAST:
        write(path, lambda file: file.write(json.dumps(_plain(costs)).encode()), "calibrations")
    return costs


def _path(model: LoraModel, settings: Settings) -> Path | None:
    """Return the file of a calibration; None if it is not kept."""
    where = folder()
    own = {type(module).__module__.partition(".")[0] for module in model.module.modules()}
    if where is None or not own <= set(PACKAGES) or goes_by_values(model):
        return None
    device = model.device
    config: Any = model.base.config
    parts = (
        sorted((name, weight.dtype, tuple(weight.shape)) for name, weight in model.module.named_parameters()),
        str(model.module), config.to_json_string(use_diff=False), attention_of(model),
        model.blocks, model.kind, model.pooling, model.quantisation, model.scale, sorted(model.passed_over),
        model.frozen_dropout, model.longest_input, model.image_shape if model.takes_images else None,
        settings, device.type, torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        torch.backends.cpu.get_cpu_capability(), torch.get_num_threads(),
        [(name, importlib.metadata.version(name)) for name in PACKAGES], _source(),
    )  # fmt: skip
    return where / "costs" / f"{hashlib.sha256(repr(parts).encode()).hexdigest()}.json"


@cache
def _source() -> str:
    """Return a digest of this package's source, as far as a calibration runs it."""
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    for room in ("allocation", "client", "data", "model", "costs.py"):
        for path in [root / room] if room.endswith(".py") else sorted((root / room).glob("*.py")):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    """Return costs as JSON can hold them; a mapping is a list of pairs."""
    if isinstance(value, Growth):
        return astuple(value)
    if isinstance(value, Peak):
        return {"pieces": [astuple(piece) for piece in value.pieces], "answer": value.answer}
    if isinstance(value, StepCosts):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return [(key, _plain(part)) for key, part in value.items()]
    return value


READ: Mapping[str, Callable[[Any], Any]] = {
    **dict.fromkeys(
        ("outside", "outside_head_only", "flops_outside", "forward_flops", "below", "below_each"),
        lambda v: Growth(*v),
    ),
    **dict.fromkeys(("head_only_peak", "transient_loss"), lambda v: _peak(v)),
    **dict.fromkeys(("saved", "flops", "left"), lambda v: {tuple(key): Growth(*part) for key, part in v}),
    **dict.fromkeys(("margin", "shortfall", "surplus"), dict),
    **dict.fromkeys(("block_bytes", "block_upload"), tuple),
    "transient": lambda v: {tuple(key): _peak(part) for key, part in v},
    "single": lambda v: None if v is None else _costs(v),
}
"""How a part is read back; all others are numbers."""


def _peak(plain: Any) -> Peak:
    return Peak(tuple(Growth(*piece) for piece in plain["pieces"]), plain["answer"])


def _costs(plain: Any) -> StepCosts:
    names = [field.name for field in fields(StepCosts)]
    return StepCosts(**{name: READ.get(name, lambda v: v)(plain[name]) for name in names})
