"""Measure the memory of one training step.

There are three figures. *Saved bytes* are the tensors that autograd keeps for backward; they depend only on the
allocation and the batch. *Peak bytes* are the most bytes of live tensors created by the step, gradients included; they
are reproducible, too. *Process bytes* are the growth of the process's memory as the operating system measures it.
"""

import ctypes
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, shape_wrapper

RESERVE = 16 * 2**20
"""Bytes that a plan keeps free for memory outside tensors; measured on a CPU: 8 to 11 MB."""


class StepMemory:
    """Context manager around one training step, from forward to the optimiser's step.

    Attributes:
        saved_bytes: Bytes of the distinct storages that autograd saves for backward, without the parameters: the most
            at any time.
        held_bytes: The same now.
        peak_bytes: Peak bytes of the live tensors that operators create inside the context. Scratch memory inside one
            operator is not counted.
        live: Bytes of the live tensors after each operation.
        backward_peak_bytes: The peak before the optimiser's step, if ``note_backward`` was called then.
        flops: Multiplications and additions of matrix products so far, twice each product; 0 if they are not counted.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], count_flops: bool = False) -> None:
        self._parameters = {p.untyped_storage().data_ptr() for p in parameters}
        self._saved: dict[int, weakref.ref[Any]] = {}
        self.held_bytes = 0
        self.saved_bytes = 0
        self._live = _LiveBytes(self._parameters, count_flops)
        self._backward: int | None = None
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self.note, lambda tensor: tensor)

    @property
    def peak_bytes(self) -> int:
        """Peak bytes of live tensors."""
        return max(self._live.after, default=0)

    @property
    def backward_peak_bytes(self) -> int:
        """Peak bytes of live tensors before the optimiser's step."""
        return max(self._live.after[: self._backward], default=0)

    def note_backward(self) -> None:
        """Remember that forward and backward are over, and the optimiser's step follows."""
        self._backward = len(self._live.after)

    @property
    def live(self) -> list[int]:
        """Bytes of the live tensors after each operation so far."""
        return self._live.after

    @property
    def flops(self) -> int:
        """FLOPs so far."""
        return self._live.flops

    def __enter__(self) -> "StepMemory":
        self._stack = ExitStack()
        self._stack.enter_context(self._live)
        self._stack.enter_context(self._hooks)
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def note(self, tensor: Tensor) -> Tensor:
        """Count a tensor as saved for backward, for tensors that autograd's hooks do not see."""
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in self._saved or storage.data_ptr() in self._parameters:
            return tensor

        def released(_: object) -> None:  # after backward, or with a part of the graph that nothing uses
            self.held_bytes -= size
            self._saved.pop(key, None)

        self._saved[key] = weakref.ref(storage, released)
        self.held_bytes += size
        self.saved_bytes = max(self.saved_bytes, self.held_bytes)
        return tensor


class ProcessPeak:
    """Context manager that measures how far this process's memory rises above its level at the start.

    On a GPU it is the memory that torch's allocator holds there. On a CPU it is resident memory as the operating system
    reports it (Linux only), including scratch memory and the allocator's overhead, so it can be compared with a
    client's real memory; ``return_memory_at_once`` keeps the overhead small. Pages of files, such as the code of
    libraries, are not counted: a system reads them again instead of running out of memory, and a process that begins as
    a copy of another has none of them at first (measured: 45 MB that its first client would seem to take). What is read
    after the peak is taken off, too, so of a process's first client a few MB may be missing.

    Attributes:
        peak_bytes: The rise, after the context has ended; None if the system does not report it.
    """

    def __init__(self, device: torch.device) -> None:
        self.peak_bytes: int | None = None
        self._device = device

    def __enter__(self) -> "ProcessPeak":
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            self._before = torch.cuda.memory_allocated(self._device)
        elif _RESET.exists():
            _call_c("malloc_trim", 0)
            _RESET.write_text("5")  # reset the highest resident memory
            self._before, self._files = _resident("VmRSS"), _resident("RssFile")
        return self

    def __exit__(self, *error: Any) -> None:
        if self._device.type == "cuda":
            self.peak_bytes = torch.cuda.max_memory_allocated(self._device) - self._before
        elif _RESET.exists():
            files = max(0, _resident("RssFile") - self._files)
            self.peak_bytes = max(0, _resident("VmHWM") - self._before - files)


def return_memory_at_once() -> None:
    """Make the C library give large tensors' memory back to the system as soon as they are freed (glibc only).

    By default the library raises its size threshold for that up to 32 MiB, and keeps smaller tensors in a fragmented
    heap. Measured for a step whose tensors need 0.3 GB: 1.1 GB of resident memory, and 0.36 GB after this call.
    """
    _call_c("mallopt", -3, 128 * 1024)  # M_MMAP_THRESHOLD, which also stops it from adapting


@contextmanager
def gpu_limit(device: torch.device, memory: int | None) -> Iterator[None]:
    """Limit this process's GPU memory, inside the context, to ``memory`` bytes above its current use."""
    if device.type != "cuda" or memory is None:
        yield
        return
    torch.cuda.empty_cache()  # memory cached for earlier clients would count for this one
    total = torch.cuda.get_device_properties(device).total_memory
    fraction = min(1.0, (torch.cuda.memory_reserved(device) + memory) / total)
    torch.cuda.set_per_process_memory_fraction(fraction, device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


_RESET = Path("/proc/self/clear_refs")


def _resident(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key + ":"))
    return int(line.split()[1]) * 1024


def _call_c(name: str, *arguments: int) -> None:
    """Call a function of the C library, if it has it."""
    if sys.platform == "linux":
        function = getattr(ctypes.CDLL(None), name, None)
        if function is not None:
            function(*arguments)


def _attention(q: Sequence[int], k: Sequence[int], v: Sequence[int], *_: Any, **__: Any) -> int:
    """FLOPs of attention's forward pass, 2 bhT² (d + d_v), with h the heads of the queries.

    torch's counter leaves it out on a CPU, and before torch 2.13 fails where fewer heads have keys of their own.
    """
    return 2 * prod(q[:-1]) * k[-2] * (q[-1] + v[-1])


def _attention_backward(
    _: Sequence[int], q: Sequence[int], k: Sequence[int], v: Sequence[int], *__: Any, **___: Any
) -> int:
    """FLOPs of its backward pass: QKᵀ again, and four products for the gradients."""
    return 2 * prod(q[:-1]) * k[-2] * (3 * q[-1] + 2 * v[-1])


_KERNELS = ("flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention")
_PRODUCTS = {f"_scaled_dot_product_{kernel}": _attention for kernel in _KERNELS} | {
    f"_scaled_dot_product_{kernel}_backward": _attention_backward for kernel in _KERNELS
}

FLOPS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    **{getattr(torch.ops.aten, name): shape_wrapper(count) for name, count in _PRODUCTS.items()},
}
"""FLOPs of operators, from their arguments."""


class _LiveBytes(TorchDispatchMode):
    """Follow the storages that operators create, from creation to release, and count FLOPs if asked to."""

    def __init__(self, known: set[int], count_flops: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch does not annotate it
        self._known, self._counts = known, FLOPS if count_flops else {}
        self._live = 0
        self.after: list[int] = []
        self.flops = 0
        self._alive: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, Tensor) and not value._is_zerotensor():  # a zero tangent has no memory
                self._follow(value.untyped_storage())
        self.after.append(self._live)
        counted = self._counts.get(getattr(func, "overloadpacket", None))
        if counted is not None:
            self.flops += counted(*args, **(kwargs or {}), out_val=result)
        return result

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        # A view of a parameter is also a result, but takes no new memory.
        if key in self._alive or storage.data_ptr() in self._known:
            return
        self._live += size

        def released(_: object) -> None:
            self._live -= size
            self._alive.pop(key, None)

        self._alive[key] = weakref.ref(storage, released)
