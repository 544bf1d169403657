"""A plan in which every field has a value of its own."""

from fedhello.report.labels import ClientPlan
from fedhello.report.plan import Plan
from fedhello.report.plan_tiers import ExamplePlan, FrontPoint, PredictedNeeds, ServerPlan, TierPlan
from fedhello.runs.heads_said import StatisticsCosts
from fedhello.types import Allocation, Budget

KEEP = ("keep",) * 4
EXAMPLE = ExamplePlan(Allocation((1, 3), ("keep", "keep", "recompute", "compress"), ranks=(4,) * 4), ("the reason",))
PLAN = Plan(
    method="fed-hello",
    model="some-model",
    num_blocks=4,
    rounds=5,
    clients_per_round=6,
    download_bytes=7000,
    tiers=(
        TierPlan(
            0, 1, Budget(memory=20_000_000, seconds=2.0, speed=3e9), True, (1, 2), (0.0, 0.25, 1.0, 0.5),
            PredictedNeeds(8, 9, 10_000_000, 11, 12_000, 1.5, 0.625), {"memory": 0.5, "seconds": 0.75}, EXAMPLE,
            (FrontPoint(2, KEEP, 13_000_000, 14, 0.875, 15), FrontPoint(2, KEEP, 16_000_000, 7, 0.5, 18)),
        ),
        TierPlan(1, 2, Budget(blocks=2), False),
    ),
    labels=("a", "b"),
    clients=(ClientPlan(0, 0, 19, (19, 0)),),
    server=ServerPlan(20, 21, 22),
    head=StatisticsCosts("full", {"full": 23, "means": 24}),
    notes=("one [thing]",),
)  # fmt: skip
