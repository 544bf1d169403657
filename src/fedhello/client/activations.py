"""What a block does with its activations between forward and backward: keep, recompute or compress them.

    keep        autograd saves what it needs
    recompute   only the block's input is kept; backward runs the block's forward again (activation checkpointing)
    compress    what autograd saves is held as bits (dropout masks) or as int8 with one float32 scale per row, and
                restored for backward; some operations save less to begin with, see ``client.frugal``

Recomputation gives exactly the same gradients: the random state is restored, so dropout masks are the same too.
Compression does not; each element x of a row is rounded to a multiple of s = max|row| / 127, so it is off by at most
s/2. Integers, parameters and autocast's copies of them, tensors with infinities, what blocks share (masks, positions)
and tensors much smaller than the block's input (statistics of a normalisation or a softmax, which need their precision
and take little memory) are not compressed.
"""

import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from fedhello.client.frugal import Frugal
from fedhello.client.packing import Codes, Int8Rows, binary, to_int8_rows
from fedhello.costs import ActivationPolicy
from fedhello.model.below import forward_replaced

SHARE = 4
"""Tensors with fewer elements than the block's input divided by this are not compressed."""


@contextmanager
def activation_policies(
    blocks: Sequence[nn.Module], policies: Sequence[ActivationPolicy], note: Callable[[Tensor], object]
) -> Iterator[None]:
    """Run each block under its policy inside the context; afterwards the blocks are unchanged.

    Args:
        blocks: The model's blocks, length L.
        policies: One per block; ``keep`` for a block that runs without autograd, since nothing is saved for it.
        note: Called with each tensor that a policy holds for backward, since outer autograd hooks do not see them.
    """
    with ExitStack() as stack:
        for block, policy in zip(blocks, policies, strict=True):
            if policy == "recompute":
                stack.enter_context(forward_replaced(block, _recomputed(block.forward, note)))
            elif policy == "compress":
                stack.enter_context(forward_replaced(block, _compressed(block, note)))
        yield


def _recomputed(forward: Callable[..., Any], note: Callable[[Tensor], object]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        for value in tree_leaves((args, kwargs)):
            if isinstance(value, Tensor):
                note(value)  # masks and positions too are held to run the block again
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return run


def _compressed(block: nn.Module, note: Callable[[Tensor], object]) -> Callable[..., Any]:
    forward = block.forward
    weights, frugal = _Weights(block), Frugal(block)

    def run(*args: Any, **kwargs: Any) -> Any:
        hidden, *shared = (x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor))
        smallest = hidden.numel() // SHARE
        # Masks and positions are held once for all blocks.
        packer = _Packer(weights, {id(x.untyped_storage()) for x in shared}, smallest, note)
        with saved_tensors_hooks(packer.pack, packer.unpack), frugal.operations(smallest):
            return forward(*args, **kwargs)

    return run


_Packed = Int8Rows | Codes


class _Weights:
    """Recognises a block's parameters, and autocast's copies of them in another type."""

    def __init__(self, block: nn.Module) -> None:
        self._storages: set[int] = set()
        self._by_shape: dict[tuple[int, ...], list[Tensor]] = {}
        for parameter in block.parameters():
            self._storages.add(parameter.untyped_storage().data_ptr())
            p = parameter.detach()
            for view in (p, p.mT) if p.dim() > 1 else (p,):
                self._by_shape.setdefault(tuple(view.shape), []).append(view)

    def has(self, x: Tensor) -> bool:
        """Whether a tensor is a parameter or the copy of one, judged by its first row."""
        if x.untyped_storage().data_ptr() in self._storages:
            return True
        alike = self._by_shape.get(tuple(x.shape), ())
        return any(p.dtype != x.dtype and torch.equal(x[0], p[0].to(x.dtype)) for p in alike)


class _Packer:
    """Packs the tensors that autograd saves in one forward pass; each tensor is packed once, whatever its views."""

    def __init__(
        self, weights: _Weights, shared: Collection[int], smallest: int, note: Callable[[Tensor], object]
    ) -> None:
        self._weights = weights
        self._shared = shared
        self._smallest = smallest
        self._note = note
        self._packed: dict[tuple[Any, ...], tuple[weakref.ref[Any], _Packed]] = {}

    def pack(self, x: Tensor) -> Tensor | _Packed:
        packed = self._pack(x)
        for held in (packed,) if isinstance(packed, Tensor) else packed.tensors:
            self._note(held)
        return packed

    def _pack(self, x: Tensor) -> Tensor | _Packed:
        storage = x.untyped_storage()
        if x.numel() < self._smallest or id(storage) in self._shared or not _is_packed(x) or self._weights.has(x):
            return x
        layout = (x.numel(), x.shape[-1]) if x.is_contiguous() else (x.shape, x.stride())
        key = (id(storage), x.storage_offset(), layout, x._version)
        known = self._packed.get(key)
        if known is not None:
            return known[1].view(x.shape)
        packed = _as_bits_or_rows(x)
        if packed is None:
            return x
        own = weakref.ref(self)

        def gone(_: object) -> None:
            # Its address may be reused, and what was packed of it is autograd's alone to hold.
            packer = own()
            if packer is not None:
                packer._packed.pop(key, None)

        self._packed[key] = (weakref.ref(storage, gone), packed)
        return packed

    @staticmethod
    def unpack(x: Tensor | _Packed) -> Tensor:
        return x if isinstance(x, Tensor) else x.restore()


def _is_packed(x: Tensor) -> bool:
    # Of a tensor that repeats its values (expanded), what is packed could be larger.
    return (
        x.is_floating_point() or (x.dtype == torch.bool and x.device.type != "cpu")
    ) and x.untyped_storage().nbytes() >= x.nbytes


def _as_bits_or_rows(x: Tensor) -> _Packed | None:
    """Return a packed tensor; None if it has infinities."""
    # On a GPU dropout masks are booleans.
    bits = binary(x) if x.dtype == torch.bool or x.device.type == "cpu" else None
    if bits is not None or x.dtype == torch.bool:
        return bits
    rows = to_int8_rows(x)
    return rows if bool(rows.s.isfinite().all()) else None
