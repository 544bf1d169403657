"""Tables and sentences of a comparison for the terminal and the page, and CSV."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from rich.console import Console
from rich.table import Table

from fedhello.formatting import budget_words, human_bytes, human_flops, write_csv
from fedhello.results.compared import ComparedMethod, ComparedTier, ComparisonSummary, Tuning
from fedhello.results.statistics import CONFIDENCE, TARGET_SHARE, PairedDifference, Spread

WIDTH = 160
"""Width of the tables without a terminal, in characters."""


@dataclass(frozen=True)
class TextTable:
    """A table of text for the terminal and the page."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def csv_text(summary: ComparisonSummary) -> str:
    """Return one line per run; None is empty."""
    rows = summary.rows()
    columns = dict.fromkeys(key for row in rows for key in row)
    text = io.StringIO()
    write_csv(text, list(columns), rows)
    return text.getvalue()


def tables(summary: ComparisonSummary) -> list[TextTable]:
    """Return a comparison as tables of text."""
    methods, differences = summary.methods, summary.differences
    target, reference = f"{summary.target:.3f}", summary.reference
    tiers = max(len(method.tiers) for method in methods)
    peaks = next([tier.peak_bytes for tier in method.tiers] for method in methods if method.method == reference)
    domains = list(dict.fromkeys(name for method in methods for name in method.domains))
    found = [
        TextTable(
            f"{summary.metric}: mean ± standard deviation over seeds",
            ("method", "seeds", "last", "mean of last 5", "best on validation", f"against {reference}", "p", "verdict"),
            tuple(_accuracy_cells(method, differences) for method in methods),
        ),
        TextTable(
            f"costs: means over seeds; memory: the largest peak of a step (budget), against {reference}",
            ("method", "up", "down", "computed", "s", "s training", *(f"memory tier {g}" for g in range(tiers))),
            tuple((*_cost_cells(method), *_tier_cells(method.tiers, peaks, tiers)) for method in methods),
        ),
        TextTable(
            f"costs to the target, an accuracy of {target}: means over the seeds that reached it",
            ("method", "reached target", "rounds to it", "up to it", "down to it", "computed to it"),
            tuple(_target_cells(method) for method in methods),
        ),
        *(_equal_cost_table(cost, summary) for cost in EQUAL_COST if summary.equal_cost[cost]),
    ]
    if domains:
        rows = tuple((method.method, *_domain_cells(method.domains, domains)) for method in methods)
        found.append(TextTable("last test accuracy in each domain", ("method", *domains), rows))
    if summary.tuning is not None:
        found.append(_tuning_table(summary.tuning))
    return found


def _tuning_table(tuning: Tuning) -> TextTable:
    """Write how the learning rates were chosen as a table, with one column per rate of the grid."""
    return TextTable(
        f"learning rates: validation accuracy (mean of last 5) of {tuning.rounds} rounds with seed {tuning.seed}",
        ("method", "chosen", *(f"{rate:g}" for rate in tuning.rates)),
        tuple(
            (label, f"{found.rate:g}", *("–" if a is None else f"{a:.3f}" for a in found.validation))
            for label, found in tuning.methods.items()
        ),
    )


EQUAL_COST = {
    "bytes_up": ("equal upload", "sent", human_bytes),
    "flops": ("equal computation", "computed", human_flops),
}
"""The costs at which methods are compared, in words: the cost, what clients do, and a format of the amount."""


def _equal_cost_table(cost: str, summary: ComparisonSummary) -> TextTable:
    """Write the accuracies at equal cost as a table, with one column per amount."""
    what, done, words = EQUAL_COST[cost]
    rows = tuple((method.method, *map(_spread_words, method.at_equal_cost[cost])) for method in summary.methods)
    return TextTable(
        f"{what}: test accuracy after the last scored round by which all clients have {done} at most so much",
        ("method", *map(words, summary.equal_cost[cost])),
        rows,
    )


def sentences(summary: ComparisonSummary) -> list[str]:
    """Return the sentences that go with the tables."""
    samples, differences = summary.test_samples, summary.differences
    said = [
        _target_sentence(summary),
        f"The test set has {samples} samples, so one sample is {1 / samples:.4f} of accuracy.",
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


def _target_sentence(summary: ComparisonSummary) -> str:
    share = f"{100 * TARGET_SHARE:.0f} % of the best method's mean of the last 5 rounds"
    if summary.target_given:
        reason = ", as given"
    elif summary.target_is_start:
        reason = f": the best method's accuracy before training, since {share} is less"
    else:
        reason = f": {share}"
    return f"The target is a test accuracy of {summary.target:.4f}{reason}."


def show(summary: ComparisonSummary, console: Console, said: Sequence[str] = ()) -> None:
    """Print a comparison for people, without notes that were printed before."""
    if not console.is_terminal:
        console.width = WIDTH
    for table in tables(summary):
        drawn = Table(*table.columns, box=None, pad_edge=False, header_style="bold", title=table.title)
        drawn.title_justify = "left"
        for row in table.rows:
            drawn.add_row(*row)
        console.print(drawn)
    for line in (*sentences(summary), *(f"note: {note}" for note in summary.notes if note not in said)):
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def _accuracy_cells(method: ComparedMethod, differences: Mapping[str, PairedDifference]) -> tuple[str, ...]:
    found = differences.get(method.method)
    return (
        method.method,
        str(len(method.seeds)),
        *map(_spread_words, (method.final, method.mean_last_5, method.best_on_validation)),
        "reference" if found is None else _difference_words(found),
        "" if found is None or found.p_adjusted is None else f"{found.p_adjusted:.2g}",
        "" if found is None else found.verdict,
    )


def _cost_cells(method: ComparedMethod) -> tuple[str, ...]:
    return (
        method.method,
        human_bytes(method.bytes_up),
        human_bytes(method.bytes_down),
        human_flops(method.flops),
        f"{method.wall_seconds:.1f}",
        f"{method.train_seconds:.1f}",
    )


def _target_cells(method: ComparedMethod) -> tuple[str, ...]:
    cost = method.to_target
    cells = (method.method, f"{method.reached_target} of {len(method.seeds)} seeds")
    if cost is None:
        return (*cells, *["–"] * 4)
    words = (f"{cost.rounds:.1f}", human_bytes(cost.bytes_up), human_bytes(cost.bytes_down), human_flops(cost.flops))
    return (*cells, *words)


def _tier_cells(tiers: Sequence[ComparedTier], reference: Sequence[float | None], count: int) -> list[str]:
    """Return each tier's peak, its difference from the reference's, and the budget."""
    cells = [
        f"{human_bytes(tier.peak_bytes)}{_share_words(tier.peak_bytes, other)} ({budget_words(tier.budget)})"
        for tier, other in zip_longest(tiers, reference[: len(tiers)])
    ]
    return cells + ["–"] * (count - len(tiers))


def _share_words(count: float | None, reference: float | None) -> str:
    """Return a difference from the reference in percent, with a true minus sign; empty if it is equal."""
    if count is None or not reference or round(100 * (count / reference - 1)) == 0:
        return ""
    return f" {100 * (count / reference - 1):+.0f} %".replace("-", "−")


def _domain_cells(found: Mapping[str, Spread], domains: Sequence[str]) -> list[str]:
    return [_spread_words(found[name]) if name in found else "–" for name in domains]


def _spread_words(found: Spread) -> str:
    if found.mean is None:
        return "–"
    return f"{found.mean:.3f}" + ("" if found.deviation is None else f" ± {found.deviation:.3f}")


def _difference_words(found: PairedDifference) -> str:
    """Return a difference with its interval and the number of seeds, with a true minus sign."""
    if found.mean is None:
        return "–"
    interval = "" if found.low is None else f" [{found.low:+.3f}, {found.high:+.3f}]"
    return f"{found.mean:+.3f}{interval} (n = {found.n})".replace("-", "−")
