"""Methods and plans under a user's own Flower apps."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from fedhello.allocation.freezing import with_freezing
from fedhello.allocation.needs import needs
from fedhello.allocation.planner import cheapest
from fedhello.client.calibration import calibrate, check_calibrated, made_up
from fedhello.client.cost_model import Shape
from fedhello.client.known_costs import Settings, known_costs
from fedhello.client.memory import RESERVE
from fedhello.costs import KEEP, Costs
from fedhello.engine.wire import upload_bound
from fedhello.errors import ConfigError
from fedhello.formatting import budget_words, human_bytes
from fedhello.method import Method
from fedhello.methods import METHODS
from fedhello.model.adapter import LoraModel
from fedhello.model.sources import TENSORS
from fedhello.network.flower_nodes import Node
from fedhello.network.messages import one_line
from fedhello.notes import logger
from fedhello.plugins import find_method
from fedhello.setup.checks import check_method
from fedhello.strategy import BoundMethod, plain, the_global_model
from fedhello.types import Budget, Client, Federation


def usable(method: str | Method, options: Mapping[str, Any]) -> tuple[Method, BoundMethod]:
    """Return a method that works under a user's own Flower apps, and the same with its options.

    A name may also be ``package.module:attribute`` or that of an entry point, which is imported.

    Raises:
        ConfigError: If the method does not work there, or an option is wrong.
    """
    if isinstance(method, str):
        find_method(method)
    row = METHODS.get(method) if isinstance(method, str) else method
    if row is None:
        raise ConfigError(f"expected one of fedhello's methods ({', '.join(METHODS)}); found {method!r}")
    reasons = {
        "pools all data in one place, which no federation does": row.pooled,
        "trains nothing on clients": row.server_alone,
        "leads to several models, where a Flower app has one": row.models is not the_global_model,
        "changes the loss on the clients, which is your train()'s own": row.local is not plain,
        "weighs by batches, which your train() does not count": options.get("weighting") == "batches",
    }
    why = next((reason for reason, holds in reasons.items() if holds), None)
    if why is not None:
        raise ConfigError(
            f"expected a method that a Flower app of your own can use; {row.name} {why}. Use fedhello run or server."
        )
    try:
        return row, with_freezing(row.bind(**options))
    except ValueError as error:  # pydantic's
        raise ConfigError(f"expected options of {row.name}; {one_line(error)}") from error


@dataclass
class Planning:
    """Makes the federation of a round's nodes.

    Attributes:
        row: The method's row of the table.
        bound: The method with its options.
        lora: The server's model.
        batch: Samples and tokens of the widest batch; None if it is not given.
        moments: Number of values that the clients' optimiser keeps per trained value.
        quorum: The share of a round's clients whose updates must count.
        seed: Source of every random choice.
    """

    row: Method
    bound: BoundMethod
    lora: LoraModel
    batch: Shape | None
    moments: int
    quorum: float
    seed: int
    _rank: int = field(init=False)
    _costs: Costs | None = None
    _checked: tuple[int, list[str]] | None = None
    _noted: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._rank = self.lora.snapshot(share_head=False).rank

    def limited(self, budget: Budget) -> Budget:
        """Return a budget with no more blocks and no higher rank than the model has."""
        blocks = None if budget.blocks is None else min(budget.blocks, self.lora.blocks.count)
        return replace(budget, blocks=blocks, rank=None if budget.rank is None else min(budget.rank, self._rank))

    def complaint(self, budget: Budget) -> str | None:
        """Return why a node with such a budget cannot take part; None if it can."""
        counted = budget.rank if self.row.allocates == "ranks" else budget.blocks
        if budget.only_counts:
            if counted is None and self.row.allocates != "either":
                kinds = "rank" if self.row.allocates == "ranks" else "blocks"
                return f"expected a budget in {kinds}, or in memory, for {self.row.name}; found {budget_words(budget)}"
            return None
        if self.lora.kind == TENSORS:
            return f"expected a budget in blocks or rank for a plain module; found {budget_words(budget)}"
        if self.batch is None:
            return (
                "expected FedHello(batch=(samples, tokens)), the widest batch of train(), beside a budget in bytes; "
                "found none. Tokens are 1 for images."
            )
        least = needs(self.costs, cheapest(self.costs, "keep"))
        if least.within(budget):
            return None
        return (
            f"expected a budget for the least there is to train, {human_bytes(least.memory_bytes)} of memory and "
            f"{human_bytes(least.upload_bytes)} of upload; found {budget_words(budget)}"
        )

    def federation(self, nodes: Sequence[Node], wanted: int) -> Federation:
        """Return the federation of a round's nodes, of which ``wanted`` are asked.

        Raises:
            ConfigError: If the method cannot run with their budgets.
        """
        budgets = sorted({node.budget for node in nodes}, key=str)
        in_bytes = not all(budget.only_counts for budget in budgets)
        federation = Federation(
            # A client's number of samples is known only from its reply.
            clients=tuple(Client(n.client, budgets.index(n.budget), n.budget, 1) for n in nodes),
            tiers=tuple(budgets),
            num_blocks=self.lora.blocks.count,
            clients_per_round=wanted,
            seed=self.seed,
            costs=(self.costs,) * len(budgets) if in_bytes else (),
            rank=self._rank,
            scale=self.lora.scale,
            quorum=max(1, math.ceil(self.quorum * wanted - 1e-9)),
        )
        checked = wanted, sorted(str(node.budget) for node in nodes)
        if checked != self._checked:
            for note in check_method(self.row, self.bound, federation, self.lora):
                if note not in self._noted:
                    logger.warning("%s", note)
                    self._noted.add(note)
            self._checked = checked
        return federation

    def is_finite(self) -> bool:
        """Whether the model, with the values that it holds now, makes finite outputs of a made-up sample."""
        if self.lora.kind == TENSORS:
            return True  # what such a module takes is known to its owner alone
        self.lora.module.eval()
        batch = made_up(self.lora, 1, 1 if self.lora.takes_images else 2).to(self.lora.device)
        with torch.no_grad():
            return bool(self.lora.module(**batch.inputs).logits.isfinite().all())

    @property
    def costs(self) -> Costs:
        """The costs of a step on the widest batch; measured once."""
        if self._costs is None:
            shape = self.batch or (1, 1)
            block_upload, fixed_upload = upload_bound(self.lora.snapshot(share_head=True), ())
            how: Settings = (False, (KEEP,), None, True)
            measured = known_costs(self.lora, how, lambda: calibrate(self.lora, *how))
            check_calibrated(measured, self.lora)
            steps = replace(
                measured,
                moments=self.moments,
                reserve=RESERVE,
                block_upload=block_upload,
                fixed_upload=fixed_upload,
                rank=self._rank,
            )
            self._costs = steps.at(shape, [shape])
        return self._costs
