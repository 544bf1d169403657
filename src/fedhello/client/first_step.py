"""Measure the memory of a training's first, widest step, once for all steps that take the same.

Which tensors a step makes follows from the model, from what trains in it, from the settings, and from the shape of its
batch, not from the values in it. Where this does not hold, each training is measured: in models that route tokens to
experts, in modules of the user, and under losses of the user.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from fedhello.client.memory import StepMemory
from fedhello.data.batches import Batch
from fedhello.model.adapter import LoraModel
from fedhello.model.attention import attention_of
from fedhello.model.sources import TENSORS

BY_VALUE = ("expert", "router")
"""Parts of the names of modules whose outputs' shapes depend on values."""


@dataclass(frozen=True)
class StepBytes:
    """What a step takes.

    Attributes:
        saved: Bytes saved for backward.
        backward_peak: Peak bytes before the optimiser's step.
        peak: Peak bytes of all.
    """

    saved: int
    backward_peak: int
    peak: int


class FirstStep:
    """The first step of a training."""

    def __init__(self, model: LoraModel, kind: Hashable | None) -> None:
        """Expect the step of a model.

        Args:
            model: The model.
            kind: All that the memory depends on beside the model and the batch; None if a step like this one must be
                measured in any case.
        """
        self._model = model
        self._kind = None if kind is None or goes_by_values(model) else (kind, attention_of(model))
        self._key = ""
        self._memory: StepMemory | None = None
        self._known: StepBytes | None = None

    def watch(self, batch: Batch) -> StepMemory | None:
        """Return what measures a step; None for the first one if it is known, and for later ones.

        Args:
            batch: Its batch.
        """
        if self._memory is not None or self._known is not None:
            return None
        self._key = repr((self._kind, _form(batch)))
        self._known = None if self._kind is None else known_steps(self._model).get(self._key)
        if self._known is None:
            self._memory = StepMemory(self._model.module.parameters())
        return self._memory

    def bytes(self) -> StepBytes:
        """Return what the first step took, after it."""
        if self._known is None:
            if self._memory is None:
                raise RuntimeError("expected a step before its bytes are asked for; found none")
            memory = self._memory
            self._known = StepBytes(memory.saved_bytes, memory.backward_peak_bytes, memory.peak_bytes)
            if self._kind is not None:
                known_steps(self._model)[self._key] = self._known
        return self._known


_KNOWN: WeakKeyDictionary[LoraModel, dict[str, StepBytes]] = WeakKeyDictionary()


def known_steps(model: LoraModel) -> dict[str, StepBytes]:
    """Return what is known of a model: kind of a step and form of its batch, as text → what it takes, oldest first.

    Args:
        model: The model.
    """
    return _KNOWN.setdefault(model, {})


def goes_by_values(model: LoraModel) -> bool:
    """Whether a model's tensors may have other shapes for other values."""
    if model.kind == TENSORS:
        return True
    return any(part in name for name, _ in model.module.named_modules() for part in BY_VALUE)


def _form(batch: Batch) -> Hashable:
    """Return all of a batch that memory depends on: without padding, a model may need less."""
    inputs = tuple((name, value.dtype, value.shape) for name, value in sorted(batch.inputs.items()))
    mask = batch.inputs.get("attention_mask")
    return inputs, batch.labelled, mask is not None and bool(mask.all()), str(batch.labels.device)
