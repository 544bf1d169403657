"""A client's own limits: a task is checked from its headers, before it is decoded and before memory is taken for it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from fedhello.allocation.needs import Needs, most_flops, needs
from fedhello.client.cost_model import POLICIES
from fedhello.client.memory import RESERVE
from fedhello.client.scoring import calibrate_scoring
from fedhello.costs import Costs
from fedhello.engine.headers import as_steps, task_header, tensor_header
from fedhello.engine.wire import CORRECTION
from fedhello.errors import UpdateError
from fedhello.formatting import human_bytes
from fedhello.model.adapter import LoraModel
from fedhello.network.consent import Consent, check_download, not_allowed
from fedhello.network.refusals import RefusalError
from fedhello.types import LORA_A, LORA_B, MERGED, MERGED_A, MERGED_B, Adapter, Allocation, Budget, Factors

BYTES_PER_TENSOR = 512
"""The most bytes of a tensor's entry in the header of a task."""

TOLERANCE = 1.25
"""Factor on a budget of memory or seconds, since the server's prediction is made on another machine."""

FLOAT = 4
"""Bytes of a value of the adapter."""

COPIES = 3
"""How often a client holds the adapter's values while it joins: the model's, those to begin from, and gradients."""

MOST_ROUNDS = 2**31
"""Rounds are numbered below this."""


@dataclass
class Limits:
    """What a client checks of tasks before it carries them out.

    Attributes:
        consent: The owner's.
        model: The client's, with the adapter as it was made from the server's configuration.
        budget: The owner's own budget, with the machine's speed; None for a part of a shared data set without one.
        costs: Costs of a round on the client's data; None where they are not predicted.
        longest: Tokens of the longest sample.
        answer: For a language model, the tokens of the longest response.
        moments: Number of values that the optimiser keeps between steps per trained value.
    """

    consent: Consent
    model: LoraModel
    budget: Budget | None = None
    costs: Costs | None = None
    longest: int = 1
    answer: int | None = None
    moments: int = 0
    _shapes: Mapping[str, tuple[int, ...]] = field(init=False)

    def __post_init__(self) -> None:
        self._shapes = {
            name: tuple(value.shape) for name, value in self.model.snapshot(share_head=True).tensors.items()
        }

    def check_sums(self, payload: bytes) -> None:
        """Check a request for head statistics.

        Args:
            payload: The serialised adapter; empty without one.

        Raises:
            UpdateError: If the message is malformed.
            RefusalError: If the owner does not allow it.
        """
        if not self.consent.statistics:
            raise not_allowed("no head statistics (statistics of the consent)", "a request for them")
        check_download(self.consent, payload)
        if payload:
            self._stated(payload)

    def check_scores(self, payload: bytes, batch_size: int) -> None:
        """Check a request for sums of squared gradients; see ``check_sums``."""
        if not self.consent.scores:
            raise not_allowed("no Fisher scores (scores of the consent)", "a request for them")
        self._task(payload)
        if batch_size > self.consent.most_batch:
            raise not_allowed(f"at most {self.consent.most_batch} samples in a batch", batch_size)
        memory = None if self.budget is None else self.budget.memory
        if memory is not None and batch_size > 1:  # the least possible; the server notes that it may not fit
            needed = calibrate_scoring(self.model, self.answer).at([(batch_size, self.longest)]) + RESERVE
            _within("bytes of memory for a pass", needed, TOLERANCE * memory)

    def check_train(self, payload: bytes) -> None:
        """Check a training task: its bytes, allocation and tensors, and what it is predicted to take.

        Where costs are not predicted, memory and upload are at least those of the values that train.

        Raises:
            UpdateError: If the message is malformed.
            RefusalError: If the owner does not allow it, or it exceeds the budget.
        """
        allocation, shapes = self._task(payload)
        ranks, budget = self._ranks(shapes), self.budget
        if budget is None:
            return
        if budget.blocks is not None:
            _within("blocks", len(allocation.blocks), budget.blocks)
        if budget.rank is not None:
            held = [len(_drawn(allocation, block)) or ranks.get(block, 0) for block in allocation.blocks]
            _within("as the rank", max(held, default=0), budget.rank)
        if self.costs is None:
            trained = self._trained_bytes(allocation, shapes)
            memory = (1 + self.moments) * trained + RESERVE
            _check_needs(Needs(0, memory - RESERVE, memory, 0, trained), budget)
        else:
            _check_needs(self._needs(self.costs, allocation, ranks), budget)

    def _trained_bytes(self, allocation: Allocation, shapes: Mapping[str, Sequence[int]]) -> int:
        """Return the bytes of the values that train under an allocation, with tensors of the stated shapes."""
        found = 0
        for name in Adapter({}, self.model.block_of).names(allocation):
            shape = shapes.get(name, self._shapes[name])
            rank = shape[0] if name.endswith(LORA_A) else shape[1] if name.endswith(LORA_B) else 1
            part = len(_drawn(allocation, self.model.block_of[name])) or rank
            found += FLOAT * math.prod(shape) * part // rank
        return found

    def _needs(self, costs: Costs, allocation: Allocation, ranks: Mapping[int, int]) -> Needs:
        L = self.model.blocks.count
        held = Allocation(
            allocation.blocks,
            allocation.policies,
            ranks=tuple(ranks.get(block, costs.rank) for block in range(L)),
            components=allocation.components,
            factors=allocation.factors,
            absent=allocation.absent,
        )
        return needs(costs, held)

    def _task(self, payload: bytes) -> tuple[Allocation, dict[str, Sequence[int]]]:
        """Return the allocation in a task, and the shapes of its tensors, after checking them."""
        check_download(self.consent, payload)
        header, end = task_header(payload)
        self._check_steps(header)
        allocation = self._allocation(header)
        return allocation, self._stated(memoryview(payload)[end:])

    def _check_steps(self, header: Mapping[str, Any]) -> None:
        """Check how often steps on single samples are expected to pass over the data."""
        try:
            steps = as_steps(header.get("steps"))
        except ValueError as error:
            raise _malformed(str(error)) from error
        if steps is not None and steps.steps * steps.rate > self.consent.epochs + 1:  # rounded to whole steps
            raise not_allowed(f"at most {self.consent.epochs} epochs (epochs of the consent)", steps.steps * steps.rate)

    def _allocation(self, header: Mapping[str, Any]) -> Allocation:
        L = self.model.blocks.count
        blocks = _ascending(header, "blocks", L)
        absent = _ascending(header, "absent", L)
        R = max((shape[0] for name, shape in self._shapes.items() if name.endswith(LORA_A)), default=1)
        stated = header.get("components", [])
        components: tuple[int | tuple[int, ...], ...]
        if isinstance(stated, list) and len(stated) == L and all(isinstance(own, list) and own for own in stated):
            components = tuple(_ascending({"components": own}, "components", R) for own in stated)
        else:
            components = _ascending(header, "components", R)
        policies = header.get("policies", [])
        if not isinstance(policies, list) or len(policies) not in (0, L) or not all(p in POLICIES for p in policies):
            raise _malformed("a policy for each block")
        factors, head, round_ = header.get("factors", "AB"), header.get("head", True), header.get("round")
        if factors not in get_args(Factors) or not isinstance(head, bool) or set(blocks) & set(absent):
            raise _malformed("factors, blocks and a head that can train")
        if type(round_) is not int or not 0 <= round_ < MOST_ROUNDS:
            raise _malformed("a round")
        lr = header.get("lr", 1.0)
        if type(lr) not in (int, float) or not 0 < lr < math.inf:
            raise _malformed("a learning rate above 0")
        return Allocation(blocks, tuple(policies), components=components, factors=factors, head=head, absent=absent)

    def _stated(self, body: bytes | memoryview) -> dict[str, Sequence[int]]:
        """Return the shapes that safetensors state, after checking them."""
        found = tensor_header(body, BYTES_PER_TENSOR * (4 * len(self._shapes) + 4))
        shapes: dict[str, Sequence[int]] = {}
        for key, entry in found.items():
            if key == "__metadata__":
                continue
            name = key.removeprefix(CORRECTION)
            shape = entry.get("shape") if isinstance(entry, dict) else None
            if (
                not isinstance(shape, list)
                or not all(type(size) is int for size in shape)
                or not fits(self._shapes, name, shape)
            ):
                raise _malformed("tensors of this client's model, in their shapes")
            shapes[key] = shape
        return shapes

    def _ranks(self, shapes: Mapping[str, Sequence[int]]) -> dict[int, int]:
        """Return the highest rank of each block's factors."""
        ranks: dict[int, int] = {}
        for key, shape in shapes.items():
            name = key.removeprefix(CORRECTION)
            block = self.model.block_of.get(name)
            if block is not None and name.endswith(LORA_A):
                ranks[block] = max(ranks.get(block, 0), shape[0])
        return ranks


def fits(own: Mapping[str, Sequence[int]], name: str, shape: Sequence[int]) -> bool:
    """Whether a tensor of an adapter, or a product merged into a module, can have a shape.

    Args:
        own: The shapes of the adapter as it was made, of the highest rank.
        name: The tensor's.
        shape: As it is stated.
    """
    if name in own:
        most = own[name]
        if name.endswith(LORA_A):
            return len(shape) == 2 and 1 <= shape[0] <= most[0] and shape[1] == most[1]
        if name.endswith(LORA_B):
            return len(shape) == 2 and 1 <= shape[1] <= most[1] and shape[0] == most[0]
        return tuple(shape) == tuple(most)
    module = name.removesuffix(MERGED_A).removesuffix(MERGED_B).removesuffix(MERGED)
    if module == name or module + LORA_A not in own or len(shape) != 2:
        return False
    columns, rows = own[module + LORA_A][1], own[module + LORA_B][0]
    widest = max(rows, columns)
    if name.endswith(MERGED_A):
        return 0 <= shape[0] <= widest and shape[1] == columns
    return (0 <= shape[1] <= widest if name.endswith(MERGED_B) else shape[1] == columns) and shape[0] == rows


def check_adapter(consent: Consent, values: int, free: int) -> None:
    """Check the adapter that a server's configuration asks for, before memory is taken for it.

    Args:
        consent: The owner's.
        values: Number of the adapter's values.
        free: Bytes of memory that the client may use.

    Raises:
        RefusalError: If it does not fit a message; if it does not fit the memory, or its gradients, which the step
            needs by which costs are measured, do not fit the owner's budget.
    """
    size, memory = FLOAT * values, consent.budget.memory
    if size > consent.download:
        raise not_allowed(f"an adapter that fits a message of {consent.download} bytes (download of the consent)", size)
    if memory is not None and size > TOLERANCE * memory:
        raise _over(f"{human_bytes(memory)} of memory", f"{human_bytes(size)} for the adapter's gradients")
    if COPIES * size > free:
        raise _over(f"{human_bytes(free)} of free memory", f"{human_bytes(COPIES * size)} for the adapter")


def _drawn(allocation: Allocation, block: int | None) -> tuple[int, ...]:
    """Return the components of a block that an allocation names; none for the head, or where it names none."""
    return allocation.held(block, 0) if allocation.components and block is not None else ()


def _check_needs(needed: Needs, budget: Budget) -> None:
    """Check what a task is predicted to take against a budget.

    Raises:
        RefusalError: If it takes more.
    """
    if budget.memory is not None and needed.memory_bytes > TOLERANCE * budget.memory:
        raise _over(human_bytes(budget.memory) + " of memory", human_bytes(needed.memory_bytes))
    if budget.upload is not None and needed.upload_bytes > budget.upload:
        raise _over(human_bytes(budget.upload) + " to upload", human_bytes(needed.upload_bytes))
    if needed.flops > TOLERANCE * most_flops(budget) and budget.speed is not None:
        raise _over(f"{budget.seconds:g} s of training", f"{needed.flops / budget.speed:.3g} s")


def _within(what: str, found: int, most: float) -> None:
    if found > most:
        raise _over(f"{most:.15g} {what}", found)


def _over(most: str, found: object) -> RefusalError:
    return RefusalError(
        f"expected a task within this client's own budget, at most {most}; found one of {found}", "over budget"
    )


def _ascending(header: Mapping[str, Any], key: str, most: int) -> tuple[int, ...]:
    """Return a list of different numbers below a bound, ascending."""
    found = header.get(key, [])
    if not isinstance(found, list) or len(found) > most or not all(type(n) is int and 0 <= n < most for n in found):
        raise _malformed(f"{key} of this client's model")
    if found != sorted(set(found)):
        raise _malformed(f"{key} in ascending order")
    return tuple(found)


def _malformed(expected: str) -> UpdateError:
    return UpdateError(f"expected a task with {expected}; found something else", "malformed")
