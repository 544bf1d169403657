"""The page of a comparison: which method is best, whether that may be chance, what it costs, and how it came about."""

from collections.abc import Mapping
from dataclasses import replace

from fedhello.report.comparison_view import View, accuracy_of, listed, peaks_of
from fedhello.report.figures import Card, Cell, Column, DataTable, Figure, Kind, Listing, Page, Section, Worded, percent
from fedhello.report.run_quality import points
from fedhello.report.tables import cost_tables, difference_words, other_tables, spread_cell, target_sentence
from fedhello.results.compared import ComparedMethod, ComparisonSummary
from fedhello.results.comparison import Comparison
from fedhello.results.statistics import CONFIDENCE, PairedDifference, interval


def comparison_page(comparison: Comparison, title: str) -> Page:
    """Return the page of a comparison."""
    view, summary = View(comparison), comparison.summary
    sections = [_best(view), *([_differences(view)] if view.against else []), _costs(view), _learning(view)]
    return Page(title, [_lead(summary)], _cards(view), [*sections, _blocks(view), _runs(view)])


def side_figures(comparison: Comparison) -> list[Figure]:
    """Return the figures that are written beside the page, named by their ids; memory only where it was measured."""
    view = View(comparison)
    return [*view.curves, *([] if view.memory is None else [view.memory])]


def _lead(summary: ComparisonSummary) -> str:
    n, seeds = len(summary.labels), summary.seeds
    said = (
        f"{n:,} method{'s' * (n != 1)} with seed{'s' * (len(seeds) != 1)} {listed(list(map(str, seeds)))}, on "
        f"{summary.model} with {summary.data}."
    )
    if summary.only_methods_differ:
        said += (
            " Partitions, initial weights and the draw of clients follow from the seed alone; they are the same for "
            "all methods that leave the same clients in."
        )
    return said


def _cards(view: View) -> list[Card]:
    summary, best = view.summary, view.best
    found = [
        Card("highest accuracy", percent(accuracy_of(best[0])), listed([one.method for one in best])),
        Card("before training", percent(summary.start), "the highest of all methods"),
    ]
    for reference, differences in view.against.items():
        if (one := differences.get(best[0].method)) is not None and one.mean is not None:
            found.append(Card(f"best against {reference}", points(one.mean), one.verdict))
    return [*found, Card("runs", f"{len(summary.runs):,}", f"{summary.test_samples:,} test samples")]


def _best(view: View) -> Section:
    summary, best = view.summary, view.best
    seeds = max(len(one.seeds) for one in best)
    said = [
        f"{listed([one.method for one in best])} {'share' if len(best) > 1 else 'has'} the highest {summary.metric}: "
        f"{percent(accuracy_of(best[0]))}, the mean of the last 5 rounds{f' over {seeds} seeds' * (seeds > 1)}."
    ]
    said += [_verdict(view, reference, differences) for reference, differences in view.against.items()]
    notes = [Listing("Notes", [f"{note}." for note in summary.notes])] if summary.notes else []
    return Section("best", "Which method is best?", said, [*notes, _overview(view), view.accuracies()])


def _verdict(view: View, reference: str, differences: Mapping[str, PairedDifference]) -> str:
    """Say whether the best method can be told from a reference, or the next one from that as the best."""
    best = [one.method for one in view.best]
    one, begin = best[0], ""
    if reference in best:
        others = [one for one in view.methods if one.method not in best]
        if not others:
            return f"No method differs from {reference}."
        one = max(others, key=accuracy_of).method
        begin = f"No method is above {reference}. The next one, "
    found = differences[one]
    one += "," * bool(begin)
    if found.verdict in ("better", "worse"):
        words = f"is {found.verdict} than {reference}, and more than by chance"
    elif found.mean is not None and found.low is None and found.n > 1:
        words = f"differs from {reference} by the same in all seeds, which gives no interval"
    elif found.n > 1:
        words = f"cannot be told from {reference} by {found.n} seeds"
    else:
        words = f"cannot be compared with {reference}: {found.verdict}"
    if found.mean is None:
        return f"{begin}{one} {words}."
    p = "" if found.p_adjusted is None else f"; p\u00a0=\u00a0{found.p_adjusted:.2g}"
    p += f", corrected for {len(differences)} methods" if p and len(differences) > 1 else ""
    return f"{begin}{one} {words}: {_difference(found)} points{p}."


def _difference(found: PairedDifference) -> str:
    return difference_words(found, lambda value: f"{100 * value:+.1f}", seeds=False)


def _overview(view: View) -> DataTable:
    """Return what there is to know about each method in one table."""
    tiers = any(len(one.tiers) > 1 for one in view.methods)
    columns = [
        Column("method", "method"),
        Column("accuracy", "mean of last 5", "percent"),
        Column("interval", f"{100 * CONFIDENCE:.0f} % interval", "percent"),
        *(Column(f"against {label}", f"against {label}", "percent") for label in view.against),
        Column("weak", "memory from" if tiers else "memory", "bytes"),
        *([Column("strong", "to", "bytes")] if tiers else []),
        Column("up", "sent", "bytes"),
        Column("down", "received", "bytes"),
        Column("training", "training", "seconds"),
        Column("wall", "run", "seconds"),
        Column("flops", "computed", "flops"),
        *(Column(f"p {label}", f"p against {label}", "number") for label in view.against),
        Column("seeds", "seeds", "integer"),
        Column("final", "last", "percent"),
        Column("validation", "best on validation", "percent"),
    ]
    memory = "Memory is the largest peak of a step above the loaded model"
    memory += ", from the tier with the smallest budget to that with the largest" if tiers else ""
    note = (
        f"Means over seeds ± standard deviation. {memory}; bytes and seconds are those of all clients in the whole run."
    )
    if view.against:
        others = len(view.methods) - 1
        note += (
            f" Differences, in points, are paired by seed; their intervals and p are corrected for {others} methods."
        )
    return DataTable("The methods", columns, [_overview_row(view, one, tiers) for one in view.methods], note)


def _overview_row(view: View, one: ComparedMethod, tiers: bool) -> list[Cell | Worded]:
    ends, peaks = interval(one.mean_last_5), peaks_of(one) or (None, None)
    differences = [found.get(one.method) for found in view.against.values()]
    tests = [None if found is None else found.p_adjusted for found in differences]
    return [
        one.method,
        spread_cell(one.mean_last_5, percent),
        None if ends is None else Worded(f"{100 * ends[0]:.1f} … {percent(ends[1])}", ends[0]),
        *(None if found is None else Worded(_difference(found), found.mean) for found in differences),
        *(peaks if tiers else peaks[:1]),
        one.bytes_up,
        one.bytes_down,
        one.train_seconds,
        one.wall_seconds,
        one.flops,
        *(None if p is None else Worded(f"{p:.2g}", p) for p in tests),
        len(one.seeds),
        spread_cell(one.final, percent),
        spread_cell(one.best_on_validation, percent),
    ]


def _differences(view: View) -> Section:
    summary, others = view.summary, len(view.methods) - 1
    said = ["Differences are those of the mean of the last 5 rounds, paired by seed."]
    if others > 1:
        said.append(
            f"Intervals and p are corrected for {others} methods against one reference: the intervals hold together "
            f"with {100 * CONFIDENCE:.0f} % (Bonferroni), and even if no method differed, the chance that any were "
            f"called better or worse is at most {100 * (1 - CONFIDENCE):.0f} % (Holm)."
        )
    said.append(
        f"The test set has {summary.test_samples:,} samples, so one sample is {100 / summary.test_samples:.2g} points. "
        "“Not told apart” does not say that methods are equal: the interval says how large a difference could still be."
    )
    return Section("differences", "Is the difference more than chance?", said, view.differences())


def _costs(view: View) -> Section:
    said = [
        "A method is on the Pareto front if no other is at least as good at no more cost, and better in one of both. "
        "Vertical lines are ± one standard deviation over seeds: differences within them may be chance.",
        *(["No memory was measured."] if view.memory is None else []),
        target_sentence(view.summary, percent),
    ]
    memory = [] if view.memory is None else [view.memory]
    tables = map(_folded, cost_tables(view.summary, percent))
    return Section("costs", "What does it cost?", said, [*memory, *view.spent(), *tables])


def _folded(table: DataTable) -> DataTable:
    return replace(table, title=table.title[0].upper() + table.title[1:], folded=True)


def _learning(view: View) -> Section:
    summary = view.summary
    best = percent(accuracy_of(view.best[0]))
    said = f"Before training the highest accuracy is {percent(summary.start)}, over the last 5 rounds {best}."
    return Section("learning", "How did the methods learn?", [said], view.curves)


def _blocks(view: View) -> Section:
    figures, alike = view.blocks()
    said = ["The first seed of each method; all figures have the same colours."] if figures else []
    for count, labels in sorted(alike.items()):
        words = f"every block with {count:,} client{'s' * (count != 1)} in each round" if count else "no block"
        said.append(f"{listed(labels)} train{'s' * (len(labels) == 1)} {words}.")
    return Section("blocks", "Who trained which block?", said, figures)


KINDS: Mapping[str, Kind] = {
    "method": "text", "seed": "integer", "rounds": "integer", "rounds_to_target": "integer", "lr": "number",
    "wall_seconds": "seconds", "train_seconds": "seconds", "bytes_up": "bytes", "bytes_down": "bytes", "flops": "flops",
    "bytes_up_to_target": "bytes", "bytes_down_to_target": "bytes", "flops_to_target": "flops",
}  # fmt: skip
"""Column of ``results.csv`` → how its values are written; peaks are bytes, all else accuracies."""


def _runs(view: View) -> Section:
    rows = view.summary.rows()
    keys = list(dict.fromkeys(key for row in rows for key in row))
    table = DataTable(
        "As in results.csv",
        [Column(key, key, KINDS.get(key, "bytes" if key.startswith("peak_bytes") else "percent")) for key in keys],
        [[row.get(key) for key in keys] for row in rows],
    )
    versions = [f"{name} {version}" for name, version in view.summary.versions.items()]
    listing = [Listing("Versions", [", ".join(versions)])] if versions else []
    return Section("runs", "All runs", [], [table, *map(_folded, other_tables(view.summary, percent)), *listing])
