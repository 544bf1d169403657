"""Reports of one run and of comparisons; their figures need the extra ``report``."""

import html
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from fedhello.errors import ConfigError, MissingExtraError, RunFolderError
from fedhello.notes import logger
from fedhello.report import drawing
from fedhello.report.drawing import svg_of
from fedhello.report.tables import TextTable, csv_text, sentences, tables
from fedhello.results.compared import ComparisonSummary
from fedhello.results.comparison import COMPARISON_FILE, Comparison
from fedhello.results.finished import FinishedRun
from fedhello.results.run import TrainedRun
from fedhello.runs.files import check_path, write_whole
from fedhello.runs.folder import RunFolder, check_free
from fedhello.runs.loop import RoundRecord
from fedhello.runs.summary import Summary

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --paper: #fff; --ink: #1a1a1a; --line: #8886; }}
@media (prefers-color-scheme: dark) {{ :root {{ --paper: #16181c; --ink: #e6e6e6; }} }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem;
  background: var(--paper); color: var(--ink); }}
.wide {{ overflow-x: auto; margin: 1rem 0; }}
table {{ border-collapse: collapse; }}
h2 {{ font-size: 1rem; margin: 1.5rem 0 -.7rem; }}
td, th {{ padding: .2rem .8rem .2rem 0; text-align: left; white-space: nowrap; border-bottom: 1px solid var(--line); }}
figure {{ margin: 1.5rem 0; }}
figure > div {{ background: #fff; border-radius: 6px; }}
svg {{ display: block; width: 100%; min-width: 34rem; height: auto; }}
</style></head><body>
<h1>{title}</h1>
{body}
</body></html>
"""
# Figures have a white background also in dark mode, since their lines and text are dark.

SHOWN = (
    "status", "method", "model", "seed", "rounds", "metric", "start", "final", "mean_last_5", "best_on_validation",
    "bytes_up", "bytes_down", "wall_seconds", "samples_per_second",
)  # fmt: skip

BUDGET_KEYS = ("memory", "blocks", "rank", "upload", "seconds")
"""Limits by which tiers are ordered from weak to strong: the first that differs."""

FOREIGN_FILES = ("config.yaml", "results.csv", "report.html")
"""A folder with one of these files but without a ``COMPARISON_FILE`` is not that of a comparison."""


def write_report(run: TrainedRun | str | Path, *, picture: str | Path | None = None) -> Path:
    """Write ``report.html``, a self-contained page with a run's learning curve and its trained blocks, in its folder.

    Args:
        run: The run, or its folder.
        picture: A file for only the figure, as SVG, instead of the page.

    Returns:
        The file that was written.

    Raises:
        MissingExtraError: If matplotlib is not installed.
        RunFolderError: If this is not the folder of a run, it has no finished round, or the file cannot be written.

    Example:
        >>> print(fh.write_report(fh.run("my.yaml", {"run.name": "mine"})))
        runs/mine/report.html
    """
    folder = RunFolder(run.path if isinstance(run, TrainedRun) else Path(run))
    folder.check()
    if picture is not None:
        write_whole(Path(picture), svg(folder) + "\n")
        return Path(picture)
    summary = folder.summary()
    table = TextTable("", (), tuple((key, _cell(getattr(summary, key))) for key in SHOWN))
    page = _page(f"fedhello: {folder.path.name}", [_table(table), _figure(svg(folder), "")])
    write_whole(folder.report, page)
    return folder.report


def svg(folder: RunFolder) -> str:
    """Return a run's figure as SVG: the learning curve above, the blocks below.

    Raises:
        MissingExtraError: If matplotlib is not installed.
        RunFolderError: If the run has no finished round.
    """
    rounds = folder.rounds()
    if not rounds:
        raise RunFolderError(f"expected at least one finished round in {folder.path}; found none")
    summary = folder.summary()

    def draw(figure: Any) -> None:
        curve, blocks = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
        _draw_curve(curve, rounds, float("nan") if summary.start is None else summary.start)
        drawing.draw_blocks(figure, blocks, rounds[0].report.round + 1, _contributors(rounds))
        curve.set_xlim(-0.5, rounds[-1].report.round + 1.5)  # room for round 0, before training
        figure.suptitle(_title(summary))

    return svg_of((8, 5.6), draw)


def _contributors(rounds: Sequence[RoundRecord]) -> list[tuple[int, ...]]:
    return [record.report.contributors for record in rounds]


def _draw_curve(axes: Any, rounds: Sequence[RoundRecord], start: float) -> None:
    test = {record.report.round + 1: record.test.accuracy for record in rounds if record.test is not None}
    axes.plot([0, *test], [start, *test.values()], marker="o", markersize=3, label="test (0: before training)")
    validation = {record.report.round + 1: record.validation.accuracy for record in rounds if record.validation}
    axes.plot([*validation], [*validation.values()], linestyle="--", label="validation")
    scored = [record.report.round + 1 for record in rounds if record.report.scored]
    for i, position in enumerate(scored):
        label = "Fisher scores computed" if i == 0 else None
        axes.axvline(position, color="grey", linewidth=0.8, linestyle=":", label=label)
    axes.set_ylabel("accuracy")
    axes.legend(loc="lower right")
    axes.grid(alpha=0.3)


def _title(summary: Summary) -> str:
    model = str(summary.model).rpartition("/")[2]
    final = "" if summary.final is None else f": {summary.metric} {summary.final:.3f}"
    return f"{summary.method} on {model}, seed {summary.seed}{final}"


def _cell(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def check_out(out: Path) -> None:
    """Check early that a comparison can be written to a folder.

    Raises:
        RunFolderError: If it cannot be created or written, or contains files that are not a comparison's.
    """
    check_path(out)
    if not out.exists():
        check_free(RunFolder(out))
        return
    if not out.is_dir() or not os.access(out, os.W_OK | os.X_OK):
        raise RunFolderError(f"expected to write to {out}; it is not a folder that can be written. Give another out.")
    foreign = [name for name in FOREIGN_FILES if (out / name).exists()]
    if foreign and not (out / COMPARISON_FILE).exists():
        raise RunFolderError(
            f"expected a new folder or one of a comparison; {out} has {foreign[0]} but no {COMPARISON_FILE}. "
            "Give another out."
        )


def write_comparison(comparison: Comparison, out: str | Path | None = None) -> Path:
    """Write ``comparison.json``, ``results.csv``, figures and ``report.html``, each completely or not at all.

    Args:
        comparison: The comparison.
        out: The folder, which is created if necessary; None takes the folder of the comparison's runs.

    Returns:
        The path of ``report.html``, or of ``comparison.json`` if matplotlib is not installed and there is no page;
        the logger ``fedhello`` then gets a warning.

    Raises:
        ConfigError: If no folder is given for runs that were only read.
        RunFolderError: If a file cannot be written, or the folder contains files that are not a comparison's.

    Example:
        >>> found = fh.compare("my.yaml", methods=["full"], seeds=[0], baselines=False, out="side-by-side")
        >>> print(fh.write_comparison(found))
        side-by-side/report.html
    """
    where = comparison.folder if out is None else Path(out)
    if where is None:
        raise ConfigError("expected a folder for the comparison; found none. Pass out.")
    return _write_comparison(comparison, where)


def _write_comparison(comparison: Comparison, out: Path) -> Path:
    check_out(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(f"expected to create {out}; {error.strerror or error}") from error
    # Where a comparison is made, a lock tells; where runs are only read, there is none.
    with RunFolder(out).locked() if (out / ".lock").exists() else nullcontext():
        return _write_files(comparison, out)


def _write_files(comparison: Comparison, out: Path) -> Path:
    write_whole(out / COMPARISON_FILE, json.dumps(comparison.to_dict(), indent=2) + "\n")
    write_whole(out / "results.csv", csv_text(comparison.summary))
    try:
        drawn = pictures(comparison)
        blocks = _blocks_pictures(comparison)
    except MissingExtraError as error:
        logger.warning("no pictures and no report.html: %s; then: fedhello report %s", error, out)
        return out / COMPARISON_FILE
    for name, (picture, _) in drawn.items():
        write_whole(out / f"{name}.svg", picture + "\n")
    write_whole(out / "report.html", _comparison_page(out, comparison.summary, drawn.values(), blocks))
    return out / "report.html"


def pictures(comparison: Comparison) -> dict[str, tuple[str, str]]:
    """Return the figures of a comparison.

    Returns:
        File name without suffix → the SVG and its caption. The figure of memory is left out if no memory was measured.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    groups, target = comparison.runs, comparison.target
    curves = {label: [run.curve.accuracy for run in group] for label, group in groups.items()}
    rounds = {label: group[0].curve.rounds for label, group in groups.items()}
    sent = {
        label: [fmean(bytes_) / 1e6 for bytes_ in zip(*(run.curve.bytes_up for run in group), strict=True)]
        for label, group in groups.items()
    }
    metric = next(iter(groups.values()))[0].summary.metric

    def accuracy(positions: Mapping[str, Sequence[float]], xlabel: str) -> str:
        return svg_of(
            (8, 5),
            lambda figure: drawing.draw_accuracy(
                figure, curves, positions, xlabel=xlabel, ylabel=metric, target=target
            ),
        )

    band = "the line is the mean over seeds, the band reaches from the lowest to the highest seed"
    drawn = {
        "learning-curves": (accuracy(rounds, "round (0: before training)"), f"Accuracy by round; {band}."),
        "accuracy-by-upload": (
            accuracy(sent, "cumulative upload of all clients in MB, mean over seeds"),
            f"Accuracy by what all clients have uploaded by then; {band}.",
        ),
    }
    peaks = {label: _memory_point(group) for label, group in groups.items()}
    measured = {label: point for label, point in peaks.items() if point is not None}
    if measured:
        picture = svg_of(
            (8, 5), lambda figure: drawing.draw_memory(figure, measured, ylabel=f"{metric}, mean of last 5")
        )
        drawn["accuracy-by-memory"] = (
            picture,
            "Mean accuracy of the last 5 rounds against the peak memory of a step, the largest over seeds, in the "
            "tiers with the smallest and the largest budget.",
        )
    return drawn


def _memory_point(group: Sequence[FinishedRun]) -> tuple[float, tuple[float, float]] | None:
    """Return a method's accuracy, and the peaks of its weakest and strongest tier in MB; None if not measured."""
    tiers = group[0].summary.tiers
    order = sorted(range(len(tiers)), key=lambda g: [tiers[g].budget.get(key, float("inf")) for key in BUDGET_KEYS])

    def peak(g: int) -> float | None:
        found = [run.summary.tiers[g].measured_peak_bytes for run in group]
        return max((bytes_ / 1e6 for bytes_ in found if bytes_ is not None), default=None)

    weakest, strongest = peak(order[0]), peak(order[-1])
    if weakest is None or strongest is None:
        return None
    return fmean(run.mean_last_5 for run in group), (weakest, strongest)


def _blocks_pictures(comparison: Comparison) -> list[tuple[str, str]]:
    """Return figures of the trained blocks in each method's first seed, with one colour scale, and captions."""
    first = {label: group[0] for label, group in comparison.runs.items()}
    maps = {label: _contributors(run.rounds) for label, run in first.items()}
    most = max(count for counts in maps.values() for row in counts for count in row)
    return [
        (
            svg_of((8, 2.4), partial(_draw_blocks_alone, counts, most)),
            f"{label}, seed {first[label].seed}: how many clients trained each block in each round.",
        )
        for label, counts in maps.items()
    ]


def _draw_blocks_alone(contributors: Sequence[Sequence[int]], most: int, figure: Any) -> None:
    drawing.draw_blocks(figure, figure.subplots(), 1, contributors, most)


def _comparison_page(
    out: Path, summary: ComparisonSummary, drawn: Iterable[tuple[str, str]], blocks: Iterable[tuple[str, str]]
) -> str:
    seeds = ", ".join(map(str, summary.seeds))
    shared = (
        " Partitions, initial weights and the draw of clients follow from the seed alone; they are the same for all "
        "methods that leave the same clients in."
    )
    parts = [
        _paragraph(
            f"{len(summary.labels)} methods, seeds {seeds}, on {summary.model} with {summary.data}."
            + shared * summary.only_methods_differ
        ),
        *(_paragraph(sentence) for sentence in sentences(summary)),
        *(_paragraph(f"Note: {note}.") for note in summary.notes),
        *(_table(table) for table in tables(summary)),
        *(_figure(picture, caption) for picture, caption in drawn),
        "<h2>Who trained which block</h2>",
        *(_figure(picture, caption) for picture, caption in blocks),
        "<h2>All runs</h2>",
        _table(_runs_table(summary.rows())),
        _paragraph("Versions: " + ", ".join(f"{name} {version}" for name, version in summary.versions.items())),
    ]
    return _page(f"fedhello: {out.resolve().name}", parts)


def _runs_table(runs: Sequence[Mapping[str, str | float | None]]) -> TextTable:
    columns = tuple(dict.fromkeys(key for run in runs for key in run))
    rows = tuple(tuple("–" if run.get(key) is None else _cell(run[key]) for key in columns) for run in runs)
    return TextTable("as in results.csv", columns, rows)


def _page(title: str, parts: Iterable[str]) -> str:
    return PAGE.format(title=html.escape(title), body="\n".join(parts))


def _paragraph(text: str) -> str:
    return f"<p>{html.escape(text)}</p>"


def _table(table: TextTable) -> str:
    """Return a table as HTML; the first cell of each row is its heading."""
    # The title is outside the table, which can be scrolled.
    title = f"<h2>{html.escape(table.title)}</h2>" if table.title else ""
    head = "".join(f"<th>{html.escape(column)}</th>" for column in table.columns)
    rows = "".join(
        f"<tr><th>{html.escape(first)}</th>{''.join(f'<td>{html.escape(cell)}</td>' for cell in rest)}</tr>"
        for first, *rest in table.rows
    )
    return f'{title}<div class="wide"><table>{f"<tr>{head}</tr>" if head else ""}{rows}</table></div>'


def _figure(picture: str, caption: str) -> str:
    said = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return f'<figure><div class="wide">{picture}</div>{said}</figure>'
