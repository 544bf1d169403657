"""Measure what one training step holds in memory.

Two figures, because they answer two questions. *Saved bytes* are what autograd keeps for backward: they follow
from the allocation and the batch, and repeat exactly. *Peak bytes* are the most that tensors created by the step
held at one moment, gradients included: what must fit above the loaded model, beside an optimiser's older state.
"""

import weakref
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


class StepMemory:
    """Context manager around one training step, from forward to the optimiser's step.

    Attributes:
        saved_bytes: Bytes of the different storages that autograd saved for backward, without the parameters.
        peak_bytes: Peak of the bytes of all tensors that operators created inside and that were still alive.
            Scratch memory inside one operator is not seen.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self._parameters = {p.untyped_storage().data_ptr() for p in parameters}
        self._saved: dict[int, int] = {}
        self._live = _LiveBytes(self._parameters)
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self.note, lambda tensor: tensor)

    @property
    def saved_bytes(self) -> int:
        """Bytes saved for backward."""
        return sum(self._saved.values())

    @property
    def peak_bytes(self) -> int:
        """Peak bytes of live tensors."""
        return self._live.peak

    def __enter__(self) -> "StepMemory":
        self._stack = ExitStack()
        self._stack.enter_context(self._live)
        self._stack.enter_context(self._hooks)
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def note(self, tensor: Tensor) -> Tensor:
        """Count a tensor as saved for backward; for what is held outside autograd's sight."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._parameters:
            self._saved[storage.data_ptr()] = storage.nbytes()
        return tensor


class _LiveBytes(TorchDispatchMode):
    """Follow the storages that operators create, from creation to release."""

    def __init__(self, known: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it without types
        self._known = known
        self.live = 0
        self.peak = 0
        self._alive: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, Tensor):
                self._follow(value.untyped_storage())
        return result

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        # A view of a parameter is a result too, but no new memory.
        if key in self._alive or storage.data_ptr() in self._known:
            return
        self.live += size
        self.peak = max(self.peak, self.live)

        def released(_: object) -> None:
            self.live -= size
            self._alive.pop(key, None)

        self._alive[key] = weakref.ref(storage, released)
