"""Parts of the global adapter: which components a client gets, and where its update belongs.

An adapter of rank R is a sum of rank-1 components, BA = Σ_{j<R} B[:, j] A[j, :]. A client holds some of them: A's rows
and B's columns at the same positions, usually the first r_k. One scale s serves all ranks, so a component means the
same on every client.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import torch
from jaxtyping import Float, Shaped
from pydantic import Field
from torch import Tensor

from fedhello.strategy import AllocationContext
from fedhello.types import LORA_A, LORA_B, MERGED, MERGED_A, MERGED_B, Adapter, Allocation, Task

Shrink = Annotated[float, Field(gt=0, lt=1)]
"""γ: the share of a rank that is no tail (HetLoRA)."""


RankMin = Annotated[int, Field(ge=1)]
"""r_min: the least rank that is left of a client's (HetLoRA)."""


def tail_start(r: int, shrink: float) -> int:
    """Return ⌊γ r⌋, the first component of the tail of rank r; at least 1, so that something always stays."""
    return max(1, int(round(shrink * r, 9)))  # 0.58 · 50 is 28.999999999999996


def kept_rank(r: int, shrink: float, least: int) -> int:
    """Return max(r_min, ⌊γ r⌋), the rank that is left of r where a tail is cut; at most r (HetLoRA)."""
    return max(min(least, r), tail_start(r, shrink))


def has_faded(after: Mapping[str, Tensor], before: Mapping[str, Tensor], shrink: float) -> bool:
    """Whether Σ ‖B[:, ⌊γr⌋:]‖_F ‖A[⌊γr⌋:, :]‖_F over all modules got smaller in training (HetLoRA).

    Args:
        after: A client's values.
        before: What it started from; components beyond its rank are left aside.
        shrink: γ.
    """

    def size(tensors: Mapping[str, Tensor]) -> float:
        tails = ((m, slice(tail_start(len(after[m + LORA_A]), shrink), len(after[m + LORA_A]))) for m in modules)
        return sum(float(tensors[m + LORA_B][:, t].norm()) * float(tensors[m + LORA_A][t].norm()) for m, t in tails)

    modules = sorted(name.removesuffix(LORA_A) for name in after if name.endswith(LORA_A))
    return size(after) < size(before)


def without_tail(
    after: Mapping[str, Tensor], before: Mapping[str, Tensor], shrink: float, least: int
) -> Mapping[str, Tensor]:
    """Return a client's values cut to the rank that it keeps, if its tail has faded (HetLoRA).

    Args:
        after: Its values.
        before: What it started from.
        shrink: γ.
        least: r_min.
    """
    if not has_faded(after, before, shrink):
        return after
    return {
        name: part(name, value, range(kept_rank(value.shape[0 if name.endswith(LORA_A) else 1], shrink, least)))
        if name.endswith((LORA_A, LORA_B))
        else value
        for name, value in after.items()
    }


def part(name: str, value: Float[Tensor, "..."], components: Sequence[int]) -> Float[Tensor, "..."]:
    """Return A's rows or B's columns at some components; any other tensor as it is."""
    if name.endswith(LORA_A):
        return value[list(components)]
    if name.endswith(LORA_B):
        return value[:, list(components)]
    return value


def spread(
    name: str, value: Float[Tensor, "..."], like: Float[Tensor, "*whole"], components: Sequence[int]
) -> Float[Tensor, "*whole"]:
    """Return a tensor shaped as the global one that holds a client's part at its components, and 0 elsewhere."""
    if value.shape == like.shape:
        return value
    whole = torch.zeros(like.shape, dtype=value.dtype)
    part_of = (list(components),) if name.endswith(LORA_A) else (slice(None), list(components))
    whole[part_of] = value
    return whole


def along_components(name: str, values: Shaped[Tensor, " R"]) -> Shaped[Tensor, "R 1"] | Shaped[Tensor, "1 R"]:
    """Return one value per component in the shape that multiplies A's rows or B's columns."""
    return values.unsqueeze(1) if name.endswith(LORA_A) else values.unsqueeze(0)


def pairs(adapter: Adapter) -> Iterator[tuple[str, int, Float[Tensor, "r d_in"], Float[Tensor, "d_out r"]]]:
    """Yield every targeted module's name, block, A and B."""
    for module, block in adapter.modules.items():
        yield module, block, adapter.tensors[module + LORA_A], adapter.tensors[module + LORA_B]


def held_part(adapter: Adapter, allocation: Allocation) -> Adapter:
    """Return what a client holds of the global adapter: its components of the blocks that it has.

    Where that is everything, it is the very same adapter.
    """
    if not (allocation.ranks or allocation.components or allocation.absent):
        return adapter
    less = bool(allocation.ranks or allocation.components)  # else nothing needs to be copied
    R, tensors = adapter.rank, {}
    for name, value in adapter.tensors.items():
        block = adapter.block_of[name]
        if block is None:
            tensors[name] = value
        elif block not in allocation.absent:
            tensors[name] = part(name, value, allocation.held(block, R)) if less else value
    return Adapter(tensors, {name: adapter.block_of[name] for name in tensors})


def send_part(adapter: Adapter, allocation: Allocation, context: AllocationContext) -> Task:
    """Let a client start from its part of the global adapter."""
    return Task(context.client.id, context.round, allocation, held_part(adapter, allocation))


def send_without_A(adapter: Adapter, allocation: Allocation, context: AllocationContext) -> Task:
    """Send no A: it never changes, and every client makes it from the run's seed."""
    task = send_part(adapter, allocation, context)
    return replace(task, known=frozenset(name for name in task.adapter.tensors if name.endswith(LORA_A)))


def send_folded(adapter: Adapter, allocation: Allocation, context: AllocationContext) -> Task:
    """Let a client train its components, and fold the others into its frozen weights (Fed-PLoRA).

    With K its components of a block, the frozen weight becomes W₀ + s Σ_{j ∉ K} B[:, j] A[j, :], so the client starts
    exactly from the global model.
    """
    task, s = send_part(adapter, allocation, context), context.federation.scale
    folded: dict[str, Tensor] = {}
    for module, block, A, B in pairs(adapter):
        own = allocation.held(block, adapter.rank)
        if rest := [j for j in range(adapter.rank) if j not in own]:
            folded |= {module + MERGED_A: A[rest], module + MERGED_B: s * B[:, rest]}
    return replace(task, adapter=task.adapter.with_tensors(folded))


def merged_factors(adapter: Adapter, module: str) -> tuple[Float[Tensor, "d_out m"], Float[Tensor, "m d_in"]]:
    """Return Q of shape (d_out, m) and P of shape (m, d_in) with Q P what a module merges; m is 0 for nothing.

    A product that is one matrix is itself times the identity.
    """
    A, B = adapter.tensors[module + LORA_A], adapter.tensors[module + LORA_B]
    if module + MERGED in adapter.tensors:
        whole = adapter.tensors[module + MERGED]
        one = torch.eye(min(whole.shape), dtype=whole.dtype)
        return (whole, one) if whole.shape[1] == len(one) else (one, whole)
    if module + MERGED_A in adapter.tensors:
        return adapter.tensors[module + MERGED_B], adapter.tensors[module + MERGED_A]
    return B.new_zeros(B.shape[0], 0), A.new_zeros(0, A.shape[1])


def unmerged(adapter: Adapter, scale: float) -> Adapter:
    """Return the same model as plain factors: products that clients merge become further components.

    With the merged product Q P (scale included), s B A + Q P = s [B, Q/s] [A; P]. All modules get the same rank; where
    one has less to merge, zeros fill up. An adapter without merged products is returned as it is.
    """
    merged = {module: merged_factors(adapter, module) for module in adapter.modules}
    most = max((P.shape[0] for _, P in merged.values()), default=0)
    if most == 0:
        return adapter
    tensors = {n: value for n, value in adapter.tensors.items() if not n.endswith((MERGED_A, MERGED_B, MERGED))}
    for module, _, A, B in pairs(adapter):
        Q, P = merged[module]
        fill = most - P.shape[0]
        tensors[module + LORA_A] = torch.cat([A, P, A.new_zeros(fill, A.shape[1])])
        tensors[module + LORA_B] = torch.cat([B, Q / scale, B.new_zeros(B.shape[0], fill)], dim=1)
    return Adapter(tensors, {name: adapter.block_of[name] for name in tensors})


def tail_regulariser(
    *, penalty: Annotated[float, Field(ge=0)] = 0.01, shrink: Shrink = 0.99, rank_min: RankMin = 1
) -> Mapping[str, Any]:
    """HetLoRA's addition to the loss, λ Σ ‖B[:, ⌊γr⌋:]‖_F ‖A[⌊γr⌋:, :]‖_F with λ = ``penalty`` and γ = ``shrink``.

    A client whose sum gets smaller in training uploads rank max(``rank_min``, ⌊γ r⌋); see ``without_tail``.
    """
    return {"tail_penalty": penalty, "tail_from": shrink, "tail_least": rank_min}
