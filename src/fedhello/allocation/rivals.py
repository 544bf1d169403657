"""Methods that fit clients by memory, as other papers do: FedQuad's depths and Fed-pilot's knapsack."""

from functools import lru_cache

from fedhello.allocation.needs import needs
from fedhello.allocation.planner import OPTIONS, fit, fixed_policies, means
from fedhello.costs import KEEP, ActivationPolicy, Costs
from fedhello.strategy import AllocationContext
from fedhello.types import Allocation, Budget

COMPRESS: ActivationPolicy = "compress"


def deepest(context: AllocationContext) -> Allocation:
    """The last d blocks, d as large as fits, as few of them compressed as that takes (FedQuad, arXiv 2506.01001).

    The paper chooses for each device a depth d of consecutive LoRA layers from the output, and how many of them hold
    quantised activations, within its memory and time, greedily. Here the blocks next to the lowest trained one are
    compressed first, where ``train.activations`` allows it; the others keep. A client that affords no block
    trains the head alone.
    """
    federation = context.federation
    L, open_blocks = federation.num_blocks, federation.num_blocks - context.closed
    budget, costs = means(context)
    most = open_blocks if budget.blocks is None else min(open_blocks, budget.blocks)
    if budget.only_counts or costs is None:
        last = range(L - most, L)
        return Allocation(tuple(last), fixed_policies(federation.rule, last, L))
    allowed = OPTIONS[federation.rule]["trained"]
    found = _greedy(budget, costs, most, "compress" in allowed, KEEP if KEEP in allowed else allowed[0])
    return found or Allocation((), (KEEP,) * L)


@lru_cache(maxsize=1024)  # the clients of a tier ask for the same
def _greedy(budget: Budget, costs: Costs, most: int, compresses: bool, else_: ActivationPolicy) -> Allocation | None:
    L = len(costs.block_bytes)
    for d in range(most, 0, -1):
        for compressed in range(d + 1 if compresses else 1):
            policies = (*(KEEP,) * (L - d), *(COMPRESS,) * compressed, *(else_,) * (d - compressed))
            found = Allocation(tuple(range(L - d, L)), policies)
            if needs(costs, found).within(budget):
                return found
    return None


def knapsack(context: AllocationContext) -> Allocation:
    """The blocks of largest total Fisher score that fit the client's memory (Fed-pilot, arXiv 2410.10200).

    The paper maximises the sum of the values of LoRA modules under a client's memory, a knapsack; its values are an
    information gain that we know from the abstract only, so the Fisher scores Γ_l of Fed-HeLLo, by the same authors,
    stand for them. The search over blocks is exact; see ``fedhello.allocation.planner``. A budget that counts blocks
    takes those of largest score.

    Raises:
        ValueError: If no scores were computed yet.
    """
    if context.scores is None:
        raise ValueError("Fed-pilot needs Fisher scores; none were computed before this round")
    return fit(context, context.scores)
