"""Operations that save less for backward than torch's own, and compute the same forward.

activation functions   their derivative as one of 16 levels, 4 bits an element, in place of the input
layer normalisation    the output, which a linear module with LoRA saves too, in place of the input
attention              queries, keys, values, and on a CPU dropout's mask as bits, of which torch saves three tensors
                       of all probabilities; backward computes these, or else the output, again
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from fedhello.client.packing import PIECES, Codes, in_parts, numbers_per_byte, to_bytes
from fedhello.model.below import forward_replaced

LEVELS = 16
"""Levels of a derivative."""

FINE = 256
"""Steps between the smallest and the largest derivative, each of which belongs to one level."""

ACTIVATIONS = frozenset({
    "AccurateGELUActivation", "ClippedGELUActivation", "FastGELUActivation", "GELU", "GELUActivation", "GELUTanh",
    "Mish", "MishActivation", "NewGELUActivation", "PytorchGELUTanh", "QuickGELUActivation", "ReLU", "SiLU",
    "SiLUActivation",
})  # fmt: skip
"""Modules that compute a function of each element whose derivative is bounded, by the name of their class."""

THEIR_PACKAGES = ("torch.nn.", "transformers.activations")
"""Where these classes are defined; a class of somebody else may compute anything under such a name."""

SMALLEST_WEIGHT = 0.01
"""Share of a normalisation's largest weight; below it rounding of the output would hide the normalised input."""


@dataclass(frozen=True)
class Levels:
    """The levels of a function's derivative.

    Attributes:
        values: The levels.
        numbers: The number of the level of each fine step, uint8.
        low: The smallest derivative, where the steps begin.
        scale: Steps by derivative.
    """

    values: Tensor
    numbers: Tensor
    low: float
    scale: float


class Frugal:
    """What a block runs in place of torch's own operations.

    Attributes:
        functions: Its activation functions, each with the levels of its derivative.
    """

    def __init__(self, block: nn.Module) -> None:
        self.functions = [(module, levels_of(module)) for module in block.modules() if is_known(module)]

    @contextmanager
    def operations(self, smallest: int) -> Iterator[None]:
        """Run them inside the context.

        Args:
            smallest: Elements of a tensor from which on it is worth it.
        """
        with ExitStack() as stack:
            for module, levels in self.functions:
                stack.enter_context(forward_replaced(module, _activation(module.forward, levels, smallest)))
            stack.enter_context(_Operations(smallest))
            yield


def is_known(module: nn.Module) -> bool:
    """Whether a module computes a known function of each element, into a tensor of its own.

    Args:
        module: The module.
    """
    kind = type(module)
    ours = kind.__name__ in ACTIVATIONS and kind.__module__.startswith(THEIR_PACKAGES)
    return ours and not getattr(module, "inplace", False)


def _worth_it(x: object, smallest: int) -> bool:
    return isinstance(x, Tensor) and x.requires_grad and torch.is_grad_enabled() and x.numel() >= smallest


def _activation(forward: Callable[..., Tensor], levels: Levels, smallest: int) -> Callable[..., Tensor]:
    def run(x: Tensor) -> Tensor:
        if not _worth_it(x, smallest):
            return forward(x)
        return _Activation.apply(x, forward, levels)  # type: ignore[no-any-return,no-untyped-call]

    return run


class _Activation(Function):
    """A function of each element, whose derivative is held as one of a few levels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, f: Callable[[Tensor], Tensor], levels: Levels) -> Any:
        parts = in_parts(x.detach().reshape(-1), numbers_per_byte(len(levels.values)))
        numbers, y, found = levels.numbers.to(x.device), torch.empty_like(parts), []
        for values, piece in zip(y.tensor_split(PIECES, 1), parts.tensor_split(PIECES, 1), strict=True):
            value, slope = _with_derivative(f, piece)
            values.copy_(value)
            # Of NaN the value tells, so that its derivative need not.
            fine = slope.sub_(levels.low).mul_(levels.scale).nan_to_num_(0.0).clamp_(0, FINE - 1).int().view(-1)
            found.append(to_bytes(numbers.index_select(0, fine).view(piece.shape)))
        ctx.save_for_backward(torch.cat(found))
        ctx.levels = levels.values.to(x.device, x.dtype)
        return y.view(-1)[: x.numel()].view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        (codes,) = ctx.saved_tensors
        return Codes(codes, ctx.levels, g.shape).restore().mul_(g), None, None


def _with_derivative(f: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Return f(x) and f'(x) of each element."""
    with torch.enable_grad(), _unpacked():
        x = x.detach().requires_grad_()
        y = f(x)
        (slope,) = torch.autograd.grad(y, x, torch.ones_like(y))
    return y.detach(), slope


def _unpacked() -> saved_tensors_hooks:
    """Return the context in which autograd saves tensors as they are, for what it saves for a moment."""
    return saved_tensors_hooks(lambda x: x, lambda x: x)


_known: dict[tuple[type, int], Levels] = {}


def levels_of(module: nn.Module) -> Levels:
    """Return the levels of an activation function's derivative, found once.

    They are those of least mean square error (Lloyd 1982, Max 1960) for inputs with mean −0.5 and deviation 1.5, about
    what the feed-forward layers of trained encoders have.

    Args:
        module: The function.
    """
    key = type(module), LEVELS
    if key not in _known:
        _known[key] = _lloyd_max(module.forward)
    return _known[key]


def _lloyd_max(f: Callable[[Tensor], Tensor]) -> Levels:
    x = 1.5 * torch.special.ndtri((torch.arange(16384) + 0.5) / 16384) - 0.5
    slopes = _with_derivative(f, x)[1].double().sort().values
    low, high = float(slopes[0]), float(slopes[-1])
    values = torch.linspace(low, high, LEVELS, dtype=torch.float64)
    for _ in range(200):
        number = torch.bucketize(slopes, (values[1:] + values[:-1]) / 2)
        count = torch.bincount(number, minlength=LEVELS)
        means = torch.bincount(number, slopes, minlength=LEVELS) / count.clamp_min(1)
        values = torch.where(count > 0, means, values)
    scale = (FINE - 1) / (high - low)
    middle = low + (torch.arange(FINE) + 0.5) / scale
    return Levels(values, torch.bucketize(middle, (values[1:] + values[:-1]) / 2).to(torch.uint8), low, scale)


class _Operations(TorchFunctionMode):
    """Replaces torch's functions of normalisation and attention."""

    def __init__(self, smallest: int) -> None:
        super().__init__()
        self._smallest = smallest

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs, own = kwargs or {}, _OWN.get(func)
        result = own(*args, **kwargs) if own is not None and args and _worth_it(args[0], self._smallest) else None
        return func(*args, **kwargs) if result is None else result


def _norm(
    x: Tensor, normalized_shape: Any, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor | None:
    """Return a normalised tensor; None if it is not in float32, or its weights train."""
    if x.dtype != torch.float32 or any(w is None or w.requires_grad or w.dtype != x.dtype for w in (weight, bias)):
        return None
    return _Norm.apply(x, tuple(normalized_shape), weight, bias, eps)  # type: ignore[no-any-return,no-untyped-call]


class _Norm(Function):
    """Layer normalisation, whose backward pass tells the normalised input from the output."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, shape: tuple[int, ...], weight: Tensor, bias: Tensor, eps: float) -> Any:
        y, _, rstd = torch.native_layer_norm(x, shape, weight, bias, eps)
        ctx.shape = shape
        ctx.save_for_backward(y, rstd, weight, bias)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        y, rstd, weight, bias = ctx.saved_tensors
        inverse = torch.where(weight.abs() > SMALLEST_WEIGHT * weight.abs().max(), 1 / weight, 0.0)
        centred = (y - bias).mul_(inverse).div_(rstd)
        by_x, *_ = torch.ops.aten.native_layer_norm_backward(
            g.contiguous(), centred, ctx.shape, torch.zeros_like(rstd), rstd, weight, bias, (True, False, False)
        )
        return by_x, None, None, None, None


def _attention(query: Tensor, *args: Any, **kwargs: Any) -> Tensor | None:
    """Return what attention returns; None if its mask trains, or probabilities are dropped in a case left to torch."""
    named = dict(zip(("key", "value", "attn_mask", "dropout_p", "is_causal"), args, strict=False)) | kwargs
    q, k, v = query, named.pop("key"), named.pop("value")
    mask, dropout, kind = named.pop("attn_mask", None), named.get("dropout_p", 0.0), q.device.type
    if mask is not None and mask.requires_grad:
        return None
    if not dropout:
        if torch.is_autocast_enabled(kind):
            q, k, v = (x.to(torch.get_autocast_dtype(kind)) for x in (q, k, v))
        return _Attention.apply(q, k, v, mask, named)  # type: ignore[no-any-return,no-untyped-call]
    plain = kind == "cpu" and q.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    if not plain or named.get("is_causal") or named.get("enable_gqa"):
        return None
    return _AttentionWithDropout.apply(q, k, v, mask, dropout, named.get("scale") or q.shape[-1] ** -0.5)  # type: ignore[no-any-return,no-untyped-call]


class _Attention(Function):
    """Attention that saves no output; backward computes it again."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, named: dict[str, Any]) -> Any:
        ctx.named = named
        ctx.save_for_backward(q, k, v, mask)
        return functional.scaled_dot_product_attention(q, k, v, mask, **named)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        *inputs, mask = ctx.saved_tensors
        needed = ctx.needs_input_grad[:3]
        q, k, v = (x.detach().requires_grad_(need) for x, need in zip(inputs, needed, strict=True))
        with torch.enable_grad(), _unpacked():
            y = functional.scaled_dot_product_attention(q, k, v, mask, **ctx.named)
            found = iter(torch.autograd.grad(y, [x for x in (q, k, v) if x.requires_grad], g))
        return *(next(found) if need else None for need in needed), None, None


class _AttentionWithDropout(Function):
    """Attention on a CPU that saves its mask as bits and no probabilities; backward computes them again."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float, scale: float) -> Any:
        p = _probabilities(q, k, mask, scale)
        kept = torch.empty_like(p).bernoulli_(1 - dropout).div_(1 - dropout)  # as torch draws it
        ctx.scale, ctx.dropout, ctx.shape = scale, dropout, p.shape
        ctx.save_for_backward(q, k, v, mask, to_bytes(in_parts(kept.view(-1) != 0, 8).to(torch.uint8)))
        return p.mul_(kept) @ v

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        q, k, v, mask, codes = ctx.saved_tensors
        p = _probabilities(q, k, mask, ctx.scale)
        kept = Codes(codes, p.new_tensor([0.0, 1 / (1 - ctx.dropout)]), ctx.shape).restore()
        by_v = (p * kept).mT @ g
        by_p = kept.mul_(g @ v.mT)
        by_logits = torch.ops.aten._softmax_backward_data(by_p, p, -1, p.dtype).mul_(ctx.scale)
        by_k = by_logits.mT @ q if ctx.needs_input_grad[1] else None
        return by_logits @ k, by_k, by_v, None, None, None


def _probabilities(q: Tensor, k: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    logits = (q * scale) @ k.mT
    if mask is not None:
        logits = logits.masked_fill_(~mask, -torch.inf) if mask.dtype == torch.bool else logits.add_(mask)
    return torch.ops.aten._safe_softmax(logits, -1)  # type: ignore[no-any-return]


_OWN: dict[Any, Callable[..., Tensor | None]] = {
    functional.layer_norm: _norm,
    functional.scaled_dot_product_attention: _attention,
}
