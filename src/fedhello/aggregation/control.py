"""Control variates against client drift: SCAFFOLD (Karimireddy et al., ICML 2020, arXiv 1910.06378) on LoRA factors.

Client k goes from θ to y_k in K_k local steps of rate η. With its control variate c_k and c, that of all,

    y ← y − η (g(y) − c_k + c)               each of its steps
    c_k ← c_k − c + (θ − y_k)/(K_k η)        afterwards: option II of the paper, the mean of its own g
    c ← mean of c_k

g is the direction in which its optimiser goes, for SGD the gradient as in the paper. The server knows all that this
takes, so it keeps c_k: clients send nothing more and need no memory between rounds, while c − c_k travels to them with
the tensors that they train.

Tensors are trained by some clients and rounds only, so each has its own c: the mean over the clients that have trained
it, and a client that trains it for the first time does so without correction. (The paper starts all c_k at zero and
counts them; with few trainers of a block, that would hold back c for many rounds.)

The method state has c_k as ``scaffold/K/NAME`` for client K, and c as ``scaffold/mean/NAME``: the size of one adapter
for each client that has taken part.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial

from torch import Tensor, stack

from fedhello.strategy import AggregationContext, AggregationResult, AllocationContext, BoundMethod
from fedhello.types import Adapter, Allocation, Task, Update

Distance = Callable[[int, int, str, float | None], float]
"""K_k η of a client with n_k samples, of round t, of a tensor and of a learning rate in place of the configuration's:
(n_k, t, name, lr) → what its g are multiplied by."""


def with_control_variates(method: BoundMethod, distance: Distance) -> BoundMethod:
    """Return the method with SCAFFOLD's correction; all clients must hold tensors in the same shapes."""
    return replace(
        method,
        send=partial(send_corrected, send=method.send),
        aggregate=partial(controlled, aggregate=method.aggregate, distance=distance),
    )


def send_corrected(
    adapter: Adapter,
    allocation: Allocation,
    context: AllocationContext,
    *,
    send: Callable[[Adapter, Allocation, AllocationContext], Task],
) -> Task:
    """Send what the method sends, and c − c_k of the tensors that the client has trained before."""
    task, method_state = send(adapter, allocation, context), context.method_state
    correction = {}
    for name in task.adapter.names(allocation):
        own = method_state.get(_of(context.client.id, name))
        if own is not None:
            correction[name] = method_state[_of("mean", name)] - own
    return replace(task, correction=correction)


def controlled(
    context: AggregationContext,
    updates: Iterable[Update],
    *,
    aggregate: Callable[[AggregationContext, Iterable[Update]], AggregationResult],
    distance: Distance,
) -> AggregationResult:
    """Combine updates as the method does, and renew c_k of their clients, and c.

    Args:
        context: With θ, and with c_k and c of earlier rounds.
        updates: Passed on one by one.
        aggregate: How the method combines them.
        distance: K_k η.
    """
    renewed: dict[str, Tensor] = {}
    outcome = aggregate(context, _noted(context, updates, distance, renewed))
    method_state = {**outcome.method_state, **renewed}
    owners = {name.split("/", 2)[1] for name in method_state if name.startswith("scaffold/")} - {"mean"}
    clients = sorted({int(k) for k in owners} & context.federation.by_id.keys())  # those that have taken part
    for name in sorted({name.split("/", 2)[2] for name in renewed}):
        known = [method_state[_of(k, name)] for k in clients if _of(k, name) in method_state]
        method_state[_of("mean", name)] = stack(known).double().mean(0).to(known[0].dtype)
    return replace(outcome, method_state=method_state)


def _noted(
    context: AggregationContext, updates: Iterable[Update], distance: Distance, renewed: dict[str, Tensor]
) -> Iterator[Update]:
    """Pass updates on, and store the new c_k in ``renewed``."""
    method_state = context.method_state
    for update in updates:
        for name, y in update.tensors.items():
            θ = context.adapter.tensors[name]
            g = (θ.double() - y.double()) / distance(update.samples, context.round, name, context.lr)
            own = method_state.get(_of(update.client, name))
            if own is not None:
                g = g + own.double() - method_state[_of("mean", name)].double()
            renewed[_of(update.client, name)] = g.to(θ.dtype)
        yield update


def _of(client: int | str, name: str) -> str:
    return f"scaffold/{client}/{name}"
