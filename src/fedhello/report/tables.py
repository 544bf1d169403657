"""Tables and sentences of a comparison for the terminal and the page, and CSV."""

import io
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest

from rich.console import Console
from rich.table import Table

from fedhello.formatting import budget_words, human_bytes, human_flops, write_csv
from fedhello.report.figures import Cell, Column, DataTable, Kind, Worded
from fedhello.results.compared import ComparedMethod, ComparedTier, ComparisonSummary, Tuning
from fedhello.results.statistics import CONFIDENCE, TARGET_SHARE, PairedDifference, Spread

WIDTH = 160
"""Width of the tables without a terminal, in characters."""

Number = Callable[[float], str]
"""How accuracies are written: as a share on the terminal, in percent on a page."""


def as_share(accuracy: float) -> str:
    """Write an accuracy as the terminal does.

    Example:
        >>> as_share(0.8125)
        '0.812'
    """
    return f"{accuracy:.3f}"


def csv_text(summary: ComparisonSummary) -> str:
    """Return one line per run; None is empty."""
    rows = summary.rows()
    columns = dict.fromkeys(key for row in rows for key in row)
    text = io.StringIO()
    write_csv(text, list(columns), rows)
    return text.getvalue()


def tables(summary: ComparisonSummary) -> list[DataTable]:
    """Return a comparison as tables for the terminal."""
    methods, differences, reference = summary.methods, summary.differences, summary.reference
    tiers = max(len(method.tiers) for method in methods)
    peaks = next([tier.peak_bytes for tier in method.tiers] for method in methods if method.method == reference)
    against: list[tuple[str, Kind]] = [(f"against {reference}", "number"), ("p", "number"), ("verdict", "text")]
    scores: list[tuple[str, Kind]] = [(name, "number") for name in ("last", "mean of last 5", "best on validation")]
    spent: list[tuple[str, Kind]] = [
        ("up", "bytes"), ("down", "bytes"), ("computed", "flops"), ("time", "seconds"), ("time training", "seconds"),
    ]  # fmt: skip
    return [
        _table(
            f"{summary.metric}: mean ± standard deviation over seeds",
            [("seeds", "integer"), *scores, *against],
            [_accuracy_cells(method, differences) for method in methods],
        ),
        _table(
            f"costs: means over seeds; memory: the largest peak of a step (budget), against {reference}",
            [*spent, *((f"memory tier {g}", "number") for g in range(tiers))],
            [[*_cost_cells(method), *_tier_cells(method.tiers, peaks, tiers)] for method in methods],
        ),
        *cost_tables(summary, as_share),
        *other_tables(summary, as_share),
    ]


def cost_tables(summary: ComparisonSummary, number: Number) -> list[DataTable]:
    """Return the tables of costs to the target, and of equal costs.

    Args:
        summary: The summary of the comparison.
        number: How accuracies are written.
    """
    found = [] if summary.target is None else [_target_table(summary.methods, number(summary.target))]
    return found + [_equal_cost_table(cost, summary, number) for cost in EQUAL_COST if summary.equal_cost[cost]]


def other_tables(summary: ComparisonSummary, number: Number) -> list[DataTable]:
    """Return the tables of domains and of learning rates, where there are any.

    Args:
        summary: The summary of the comparison.
        number: How accuracies are written.
    """
    methods, found = summary.methods, []
    domains = list(dict.fromkeys(name for method in methods for name in method.domains))
    if domains:
        rows = [[method.method, *_domain_cells(method.domains, domains, number)] for method in methods]
        found.append(_table("last test accuracy in each domain", [(name, "number") for name in domains], rows))
    if summary.tuning is not None:
        found.append(_tuning_table(summary.tuning, number))
    return found


def _table(title: str, columns: Sequence[tuple[str, Kind]], rows: Sequence[Sequence[Cell | Worded]]) -> DataTable:
    """Return a table whose rows are methods."""
    named = [Column("method", "method"), *(Column(name, name, kind) for name, kind in columns)]
    return DataTable(title, named, rows)


def _target_table(methods: Sequence[ComparedMethod], target: str) -> DataTable:
    return _table(
        f"costs to the target, an accuracy of {target}: means over the seeds that reached it",
        [
            ("reached target", "number"), ("rounds to it", "number"), ("up to it", "bytes"), ("down to it", "bytes"),
            ("computed to it", "flops"),
        ],
        [_target_cells(method) for method in methods],
    )  # fmt: skip


def _tuning_table(tuning: Tuning, number: Number) -> DataTable:
    """Write how the learning rates were chosen as a table, with one column per rate of the grid."""
    rows = [
        [
            label,
            Worded(f"{found.rate:g}", found.rate),
            *(None if a is None else Worded(number(a), a) for a in found.validation),
        ]
        for label, found in tuning.methods.items()
    ]
    return _table(
        f"learning rates: validation accuracy (mean of last 5) of {tuning.rounds} rounds with seed {tuning.seed}",
        [("chosen", "number"), *((f"{rate:g}", "number") for rate in tuning.rates)],
        rows,
    )


EQUAL_COST = {
    "bytes_up": ("equal upload", "sent", human_bytes),
    "flops": ("equal computation", "computed", human_flops),
}
"""The costs at which methods are compared, in words: the cost, what clients do, and a format of the amount."""


def _equal_cost_table(cost: str, summary: ComparisonSummary, number: Number) -> DataTable:
    """Write the accuracies at equal cost as a table, with one column per amount."""
    what, done, words = EQUAL_COST[cost]
    rows = [
        [method.method, *(spread_cell(found, number) for found in method.at_equal_cost[cost])]
        for method in summary.methods
    ]
    return _table(
        f"{what}: test accuracy after the last scored round by which all clients have {done} at most so much",
        [(words(amount), "number") for amount in summary.equal_cost[cost]],
        rows,
    )


def sentences(summary: ComparisonSummary, number: Number = "{:.4f}".format) -> list[str]:
    """Return the sentences that go with the tables.

    Args:
        summary: The summary of the comparison.
        number: How accuracies are written.
    """
    samples, differences = summary.test_samples, summary.differences
    said = [
        target_sentence(summary, number),
        f"The test set has {samples:,} samples, so one sample is {number(1 / samples)} of accuracy.",
    ]
    if differences:
        said.append(
            f"Differences are those of the mean of the last 5 rounds from {summary.reference}, paired by seed, "
            f"with a {100 * CONFIDENCE:.0f} % Student-t interval."
        )
    if len(differences) > 1:
        said.append(
            f"Verdicts and p are adjusted for {len(differences)} methods against one reference (Holm): even if none "
            f"differed, the chance that any were called better or worse is at most {100 * (1 - CONFIDENCE):.0f} %. The "
            "intervals hold together (Bonferroni), so they are wider the more methods there are."
        )
    return said


def target_sentence(summary: ComparisonSummary, number: Number) -> str:
    """Say what the target is and why."""
    start = f"the accuracy before training ({number(summary.start)}, the highest of all methods)"
    if summary.target is None:
        return f"No method's mean of the last 5 rounds is above {start}: there is no target, and no costs to it."
    share = f"{100 * TARGET_SHARE:.0f} % of the best method's mean of the last 5 rounds"
    reasons = {
        "given": ", as given",
        "share": f": {share}",
        "halfway": f": halfway from {start} to the best method's mean of the last 5 rounds, since {share} is no more "
        "than that start",
    }
    return f"The target is a test accuracy of {number(summary.target)}{reasons[summary.target_rule]}."


def show(summary: ComparisonSummary, console: Console, said: Sequence[str] = ()) -> None:
    """Print a comparison for people, without notes that were printed before."""
    if not console.is_terminal:
        console.width = WIDTH
    for table in tables(summary):
        heads = (column.title for column in table.columns)
        drawn = Table(*heads, box=None, pad_edge=False, header_style="bold", title=table.title)
        drawn.title_justify = "left"
        for row in table.cells():
            drawn.add_row(*(text for text, _ in row))
        console.print(drawn)
    for line in (*sentences(summary), *(f"note: {note}" for note in summary.notes if note not in said)):
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def _accuracy_cells(method: ComparedMethod, differences: Mapping[str, PairedDifference]) -> list[Cell | Worded]:
    found = differences.get(method.method)
    spreads = (method.final, method.mean_last_5, method.best_on_validation)
    against: list[Cell | Worded] = [Worded("reference", None), Worded("", None), ""]
    if found is not None:
        p = found.p_adjusted
        words = Worded(difference_words(found, "{:+.3f}".format), found.mean)
        against = [words, Worded("" if p is None else f"{p:.2g}", p), found.verdict]
    return [method.method, len(method.seeds), *(spread_cell(one, as_share) for one in spreads), *against]


def _cost_cells(method: ComparedMethod) -> list[Cell]:
    return [
        method.method, method.bytes_up, method.bytes_down, method.flops, method.wall_seconds, method.train_seconds,
    ]  # fmt: skip


def _target_cells(method: ComparedMethod) -> list[Cell | Worded]:
    cost, n = method.to_target, method.reached_target
    reached = Worded(f"{n} of {len(method.seeds)} seeds", n)
    if cost is None:
        return [method.method, reached, *[None] * 4]
    return [
        method.method, reached, Worded(f"{cost.rounds:.1f}", cost.rounds), cost.bytes_up, cost.bytes_down, cost.flops,
    ]  # fmt: skip


def _tier_cells(tiers: Sequence[ComparedTier], reference: Sequence[float | None], count: int) -> list[Cell | Worded]:
    """Return each tier's peak, its difference from the reference's, and the budget."""
    cells: list[Cell | Worded] = [
        Worded(
            f"{human_bytes(tier.peak_bytes)}{_share_words(tier.peak_bytes, other)} ({budget_words(tier.budget)})",
            tier.peak_bytes,
        )
        for tier, other in zip_longest(tiers, reference[: len(tiers)])
    ]
    return cells + [None] * (count - len(tiers))


def _share_words(count: float | None, reference: float | None) -> str:
    """Return a difference from the reference in percent, with a true minus sign; empty if it is equal."""
    if count is None or not reference or round(100 * (count / reference - 1)) == 0:
        return ""
    return f" {100 * (count / reference - 1):+.0f} %".replace("-", "−")


def _domain_cells(found: Mapping[str, Spread], domains: Sequence[str], number: Number) -> list[Worded | None]:
    return [spread_cell(found[name], number) if name in found else None for name in domains]


def spread_cell(found: Spread, number: Number) -> Worded | None:
    """Return a mean with its deviation; None without a mean."""
    if found.mean is None:
        return None
    deviation = "" if found.deviation is None else f" ± {number(found.deviation)}"
    return Worded(f"{number(found.mean)}{deviation}", found.mean)


def difference_words(found: PairedDifference, number: Number, seeds: bool = True) -> str:
    """Return a difference with its interval, and if asked the number of seeds, with a true minus sign."""
    if found.mean is None:
        return "–"
    ends = "" if found.low is None or found.high is None else f" [{number(found.low)}, {number(found.high)}]"
    return f"{number(found.mean)}{ends}{f' (n = {found.n})' * seeds}".replace("-", "−")
