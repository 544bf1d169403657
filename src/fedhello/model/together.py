"""Run one model for several clients at once: each has values of its own for some tensors, and some rows of a batch.

Of K clients with the same number of rows, client k has the rows k·b … (k+1)·b − 1. A frozen layer sees one batch; a
linear layer whose weight is each client's own multiplies each client's rows with its weight, in one batched product.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from fedhello.errors import ModelError
from fedhello.model.adapter import LoraModel
from fedhello.model.below import forward_replaced

Owners = Mapping[nn.Linear, Mapping[str, str]]
"""Linear layer → ``weight`` and ``bias``, as far as they are the clients' own → the name of the tensor."""


def owners(model: LoraModel, parameters: Mapping[str, nn.Parameter]) -> Owners:
    """Return the layers that hold some of the adapter's parameters.

    Args:
        model: The model.
        parameters: Name → the parameter.

    Raises:
        ModelError: If one of them is no weight or bias of a linear layer.
    """
    missing = {id(parameter): name for name, parameter in parameters.items()}
    found: dict[nn.Linear, dict[str, str]] = {}
    for module in model.module.modules():
        for part, parameter in module._parameters.items():
            if id(parameter) in missing and isinstance(module, nn.Linear):
                found.setdefault(module, {})[part] = missing.pop(id(parameter))
    if missing:
        raise ModelError(f"expected linear layers alone to train together; {min(missing.values())} is of another kind")
    return found


@contextmanager
def each_its_own(model: LoraModel, layers: Owners, values: Mapping[str, Tensor]) -> Iterator[None]:
    """Compute each client's rows with its values inside the context.

    Args:
        model: The model.
        layers: The layers that hold the tensors.
        values: Name → the clients' values, one after the other, shape (K, …).
    """
    head = None if model.logits_path is None else model.logits_layer
    with ExitStack() as stack:
        for layer, parts in layers.items():
            W = values[parts["weight"]] if "weight" in parts else layer.weight
            b = values[parts["bias"]] if "bias" in parts else layer.bias
            product = _product(W, b, len(next(iter(values.values()))))
            stack.enter_context(forward_replaced(layer, _in_float32(product) if layer is head else product))
        yield


def _product(W: Tensor, b: Tensor | None, K: int) -> Callable[[Tensor], Tensor]:
    """Return the forward of a linear layer with weights (K, d_out, d_in) and biases (K, d_out)."""
    weight = W.expand(K, *W.shape[-2:]).transpose(1, 2)
    bias = None if b is None else b.expand(K, b.shape[-1]).unsqueeze(1)

    def forward(x: Tensor) -> Tensor:
        rows = x.reshape(K, -1, x.shape[-1])
        z = torch.bmm(rows, weight) if bias is None else torch.baddbmm(bias, rows, weight)
        return z.reshape(*x.shape[:-1], -1)

    return forward


def _in_float32(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Run it in float32, also under autocast, as the layer of the logits always is."""

    def run(x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return forward(x.float())

    return run
