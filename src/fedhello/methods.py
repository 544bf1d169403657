"""The table of methods: a method is an allocator, an aggregator and a paper.

To add one, write its allocator (or aggregator) as one function whose keyword-only parameters, with types and
defaults, are its options, and add one row here. Configuration keys, their checks and the command line are derived
from the function's signature.
"""

from fedhello.aggregation.compensated import average_compensated
from fedhello.aggregation.layerwise import average_layerwise
from fedhello.aggregation.padding import average_by_norm, average_padded, average_replicated
from fedhello.aggregation.product import (
    average_corrected,
    average_partitions,
    average_products,
    average_rebalanced,
    average_with_residual,
)
from fedhello.aggregation.separate import (
    distil_between_ranks,
    keep_own_models,
    models_by_client,
    models_by_rank,
    send_model_of_rank,
    send_own_model,
)
from fedhello.aggregation.stacking import send_missed, stack, stack_fits
from fedhello.allocation import baselines, ranks, rivals
from fedhello.allocation.fisher import fim_hla
from fedhello.allocation.freezing import from_below
from fedhello.allocation.geometric import gd_hla, rgd_hla
from fedhello.allocation.schedule import after_warmup, fed_hello, periodically
from fedhello.allocation.scoring import scored
from fedhello.factors import send_folded, send_without_A, tail_regulariser
from fedhello.method import Method

_FED_HELLO = "Zhang et al., Fed-HeLLo, IEEE TNNLS 36(10), 2025, arXiv 2506.12213"
_HELORA = "Fan et al., HeLoRA, ACM TOIT 25(2), 2025"

_ROWS = (
    Method(
        name="head-only",
        summary="no block trains: the head is solved from one exchange of sums, or trains alone; the simplest baseline",
        paper="Fanì et al., Fed3R, ICML 2024, arXiv 2406.01116",
        allocate=baselines.head_alone,
        allocates="either",
        head_alone=True,
    ),
    Method(
        name="server-only",
        summary="the head is solved from the server's own labelled samples; no client takes part",
        paper="reference",
        allocate=baselines.nothing,
        allocates="either",
        head_alone=True,
        server_alone=True,
    ),
    Method(
        name="fed-hello",
        summary="randomised geometric warm start, then Fisher scores (the paper's co-design)",
        paper=f"{_FED_HELLO}, Algorithm 1",
        allocate=fed_hello,
        scores_due=after_warmup,
        scoring=scored,
        freezing=from_below,
    ),
    Method(
        name="fim-hla",
        summary="blocks drawn by Fisher score, recomputed every `refresh` rounds",
        paper=f"{_FED_HELLO}, FIM-HLA",
        allocate=fim_hla,
        scores_due=periodically,
        scoring=scored,
        freezing=from_below,
    ),
    Method(
        name="gd-hla",
        summary="each client keeps the blocks of a geometric pattern",
        paper=f"{_FED_HELLO}, GD-HLA",
        allocate=gd_hla,
        freezing=from_below,
    ),
    Method(
        name="rgd-hla",
        summary="blocks drawn anew each round from a geometric pattern",
        paper=f"{_FED_HELLO}, RGD-HLA",
        allocate=rgd_hla,
        freezing=from_below,
    ),
    Method(
        name="helora-pad",
        summary="lower ranks padded by context, weights that grow with the rank",
        paper=f"{_HELORA}, HeLoRA-Pad",
        allocate=ranks.own_rank,
        allocates="ranks",
        aggregate=average_padded,
    ),
    Method(
        name="helora-kd",
        summary="one model per rank; they learn from each other on a public set",
        paper=f"{_HELORA}, HeLoRA-KD",
        allocate=ranks.own_rank,
        allocates="ranks",
        send=send_model_of_rank,
        aggregate=distil_between_ranks,
        models=models_by_rank,
        distils=True,
    ),
    Method(
        name="fedit",
        summary="FedAvg of LoRA; here all clients at the rank that the weakest affords",
        paper="Zhang et al., FedIT, ICASSP 2024, arXiv 2305.05644",
        allocate=ranks.common_rank,
        allocates="ranks",
    ),
    Method(
        name="exclusive",
        summary="only clients that can train everything take part",
        paper=f"{_FED_HELLO}, baseline",
        allocate=baselines.only_the_able,
        allocates="either",
    ),
    Method(
        name="straggler",
        summary="every client trains as many blocks as the weakest can, evenly spread",
        paper=f"{_FED_HELLO}, baseline",
        allocate=baselines.weakest_for_all,
    ),
    Method(
        name="full",
        summary="every client trains everything, whatever its budget: a reference, not an option",
        paper="McMahan et al., FedAvg, AISTATS 2017, on LoRA factors",
        allocate=baselines.everything,
        allocates="either",
    ),
    Method(
        name="local-only",
        summary="every client keeps its own model: what taking part must beat",
        paper="reference",
        allocate=gd_hla,
        send=send_own_model,
        aggregate=keep_own_models,
        models=models_by_client,
    ),
    Method(
        name="centralised",
        summary="one client holds all data and trains on as many samples per round: the upper bound",
        paper="reference",
        allocate=baselines.everything,
        allocates="either",
        pooled=True,
    ),
    Method(
        name="fedra",
        summary="clients hold random sub-models: the other blocks do not exist there",
        paper="Su et al., FedRA, ECCV 2024, arXiv 2311.11227",
        allocate=baselines.random_sub_model,
        aggregate=average_layerwise.with_options(weighting="clients"),
    ),
    Method(
        name="fedra-mask",
        summary="random blocks train, the others are frozen (what Fed-HeLLo compares with as FedRA)",
        paper="Su et al., FedRA, as in Fed-HeLLo's logs",
        allocate=baselines.random_blocks,
        aggregate=average_layerwise.with_options(weighting="clients"),
        freezing=from_below,
    ),
    Method(
        name="legend",
        summary="the last blocks, ranks growing towards the output",
        paper="Liu et al., LEGEND, arXiv 2412.20004",
        allocate=baselines.last_blocks,
        freezing=from_below,
    ),
    Method(
        name="fedquad",
        summary="the last blocks, as deep as memory allows, with as few compressed as that takes",
        paper="Li et al., FedQuad, arXiv 2506.01001",
        allocate=rivals.deepest,
        freezing=from_below,
    ),
    Method(
        name="fed-pilot",
        summary="a knapsack of blocks by Fisher score; blocks that few clients update take longer steps",
        paper="Zhang et al., Fed-pilot, arXiv 2410.10200",
        allocate=rivals.knapsack,
        aggregate=average_compensated,
        scores_due=periodically,
        scoring=scored,
        freezing=from_below,
    ),
    Method(
        name="hetlora",
        summary="zero padding, weights by norm, tails regularised and pruned",
        paper="Cho et al., HetLoRA, EMNLP 2024, arXiv 2401.06432",
        allocate=ranks.pruned_rank,
        allocates="ranks",
        aggregate=average_by_norm,
        local=tail_regulariser,
    ),
    Method(
        name="flexlora",
        summary="products averaged, factored anew by SVD",
        paper="Bai et al., FlexLoRA, NeurIPS 2024, arXiv 2402.11505",
        allocate=ranks.own_rank,
        allocates="ranks",
        aggregate=average_products,
        of_products=True,
    ),
    Method(
        name="raflora",
        summary="products averaged per partition of the ranks over those who hold it, then SVD",
        paper="raFLoRA, arXiv 2602.13486",
        allocate=ranks.own_rank,
        allocates="ranks",
        aggregate=average_partitions,
        of_products=True,
    ),
    Method(
        name="rbla",
        summary="each component averaged over the clients that hold it",
        paper="Tavallaie & Nazemi, RBLA, arXiv 2408.08699",
        allocate=ranks.own_rank,
        allocates="ranks",
    ),
    Method(
        name="replication",
        summary="missing components copied from the clients of highest rank",
        paper="Koo et al., arXiv 2406.17477",
        allocate=ranks.own_rank,
        allocates="ranks",
        aggregate=average_replicated,
    ),
    Method(
        name="hralora",
        summary="ranks per block by Fisher score, A and B in turn, balanced by SVD",
        paper="HRALoRA, CCGrid 2026",
        allocate=ranks.ranks_by_fisher,
        allocates="ranks",
        aggregate=average_rebalanced,
        scores_due=periodically,
        scoring=scored,
    ),
    Method(
        name="fed-plora",
        summary="random rank-1 components train, the others are folded into the base",
        paper="Fed-PLoRA, ICLR 2026, arXiv 2602.16936",
        allocate=ranks.random_components,
        allocates="ranks",
        send=send_folded,
        merges=True,
    ),
    Method(
        name="flora",
        summary="factors stacked and merged into the base; exact",
        paper="Wang et al., FLoRA, NeurIPS 2024, arXiv 2409.05976",
        allocate=ranks.own_rank,
        allocates="ranks",
        send=send_missed,
        aggregate=stack,
        of_products=True,
        merges=True,
        check=stack_fits,
    ),
    Method(
        name="ffa-lora",
        summary="A is random and frozen, B trains; exact",
        paper="Sun et al., FFA-LoRA, ICLR 2024, arXiv 2403.12313",
        allocate=ranks.common_rank_B,
        allocates="ranks",
        send=send_without_A,
    ),
    Method(
        name="rolora",
        summary="B and A train in turn; exact",
        paper="Chen et al., RoLoRA, arXiv 2502.01755",
        allocate=ranks.common_rank_alternating,
        allocates="ranks",
        alternates=True,
    ),
    Method(
        name="fedex-lora",
        summary="factors averaged, what their product misses is merged into the base; exact",
        paper="Singhal et al., FedEx-LoRA, arXiv 2410.09432",
        allocate=ranks.common_rank,
        allocates="ranks",
        aggregate=average_with_residual,
        of_products=True,
        merges=True,
    ),
    Method(
        name="lora-fair",
        summary="factors averaged, B corrected on the server",
        paper="Bian et al., LoRA-FAIR, ICCV 2025, arXiv 2411.14961",
        allocate=ranks.common_rank,
        allocates="ranks",
        aggregate=average_corrected,
        of_products=True,
    ),
)

METHODS: dict[str, Method] = {method.name: method for method in _ROWS}
