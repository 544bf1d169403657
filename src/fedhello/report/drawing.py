"""Figures as reproducible SVG text. Needs the extra ``report``."""

import io
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import cycle, product
from statistics import fmean
from typing import Any

from fedhello.errors import MissingExtraError

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""The palette of Okabe and Ito for colour-blind readers. Further lines differ in style."""

LINES = ("-", "--", ":", "-.")


def svg_of(size: tuple[float, float], draw: Callable[[Any], None]) -> str:
    """Return a matplotlib figure, drawn by ``draw`` in a size in inches, as one SVG element.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib is not installed; run: pip install 'fedhello[report]'") from error
    # A fixed salt and no date make the same picture give the same file. A $ in a name starts no formula.
    with (
        matplotlib.rc_context(
            {"svg.hashsalt": "fedhello", "svg.fonttype": "none", "font.size": 10, "text.parse_math": False}
        ),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", "Glyph .* missing")  # who shows the picture chooses the fonts
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def styles() -> Iterator[dict[str, Any]]:
    """Yield one style per method, in the order of the tables, endlessly."""
    return ({"color": colour, "linestyle": line} for line, colour in cycle(product(LINES, COLOURS)))


def draw_accuracy(
    figure: Any,
    curves: Mapping[str, Sequence[Sequence[float]]],
    positions: Mapping[str, Sequence[float]],
    *,
    xlabel: str,
    ylabel: str,
    target: float,
) -> None:
    """Draw one line per method: the mean over seeds, with a band from the lowest to the highest seed.

    Args:
        figure: A matplotlib figure.
        curves: Label → per seed, the accuracies; all seeds of a label are equally long.
        positions: Label → their positions on the x axis.
        xlabel: Label of the x axis.
        ylabel: What the accuracy is of.
        target: The target accuracy, drawn as a horizontal line.
    """
    from matplotlib.ticker import MaxNLocator

    axes = figure.subplots()
    for (label, seeds), style in zip(curves.items(), styles(), strict=False):
        by_round, x = list(zip(*seeds, strict=True)), positions[label]
        axes.plot(x, [fmean(values) for values in by_round], label=_shown(label), linewidth=1.6, **style)
        if len(seeds) > 1:
            low, high = [min(values) for values in by_round], [max(values) for values in by_round]
            axes.fill_between(x, low, high, color=style["color"], alpha=0.12, linewidth=0)
    axes.axhline(target, color="grey", linewidth=0.8, linestyle=":", label=f"target {target:.3f}")
    if all(isinstance(x, int) for places in positions.values() for x in places):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(alpha=0.3)
    _legend(figure, axes)


def draw_memory(figure: Any, points: Mapping[str, tuple[float, tuple[float, float]]], *, ylabel: str) -> None:
    """Draw one method per level: its accuracy, at the peaks of its weakest tier (hollow) and its strongest (filled).

    Args:
        figure: A matplotlib figure.
        points: Label → accuracy, and the peaks of weakest and strongest tier in MB.
        ylabel: What the accuracy is of.
    """
    axes = figure.subplots()
    for (label, (accuracy, (weak, strong))), style in zip(points.items(), styles(), strict=False):
        axes.plot([weak, strong], [accuracy] * 2, linewidth=1, label=_shown(label), **style)
        axes.plot(weak, accuracy, marker="o", markerfacecolor="white", color=style["color"])
        axes.plot(strong, accuracy, marker="o", color=style["color"])
    axes.set_xlim(left=0)
    axes.set_xlabel("peak memory of a step in MB; ○ weakest tier, ● strongest tier")
    axes.set_ylabel(ylabel)
    axes.grid(alpha=0.3)
    _legend(figure, axes)


def draw_blocks(
    figure: Any, axes: Any, first_round: int, contributors: Sequence[Sequence[int]], most: int | None = None
) -> None:
    """Draw how many clients trained each block in each round.

    Args:
        figure: The figure, for the scale of colours.
        axes: Where to.
        first_round: The number of the first round shown.
        contributors: Per round and block, how many clients trained it; at least one round.
        most: The number with the darkest colour; None takes the largest there is.
    """
    from matplotlib.ticker import MaxNLocator

    last, blocks = first_round + len(contributors) - 1, len(contributors[0])
    image = axes.imshow(
        list(zip(*contributors, strict=True)),
        aspect="auto",
        origin="lower",
        cmap="Blues",
        vmin=0,
        vmax=most,
        extent=(first_round - 0.5, last + 0.5, -0.5, blocks - 0.5),
    )
    axes.set_xlabel("round")
    axes.set_ylabel("block (0 = input)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    figure.colorbar(image, ax=axes, label="clients that\ntrained it")


def draw_front(
    figure: Any,
    axes: Any,
    points: Sequence[tuple[float, float, int]],
    planned: tuple[float, float],
    *,
    budget: float | None,
    title: str,
) -> None:
    """Draw what budgets afford: computation against memory, with the blocks trained as colours.

    Args:
        figure: The figure, for the scale of colours.
        axes: Where to.
        points: MB of memory, computation as a share of training all blocks, and how many blocks train.
        planned: Memory and computation of the plan, at most.
        budget: MB of memory that there are; drawn as a line.
        title: What is drawn.
    """
    memory, computation, blocks = zip(*points, strict=True)
    image = axes.scatter(memory, computation, c=blocks, cmap="viridis", s=28)
    if budget is not None:
        axes.axvline(budget, color="black", linewidth=1, label="budget")
    axes.plot(*planned, "x", color="red", markersize=9, label="plan, at most")
    axes.set_title(title, loc="left")
    axes.set_xlabel("memory above the model (MB)")
    axes.set_ylabel("computation /\nall blocks, kept")
    axes.legend(loc="best", fontsize=8)
    axes.grid(alpha=0.3)
    figure.colorbar(image, ax=axes, label="blocks trained")


def _shown(label: str) -> str:
    """Return a label for a legend, which leaves out labels that begin with an underscore."""
    return f"\u200b{label}" if label.startswith("_") else label


def _legend(figure: Any, axes: Any) -> None:
    """Put the legend below the axes, where it hides nothing, in as many columns as fit."""
    handles, labels = axes.get_legend_handles_labels()
    longest = max(len(label) for label in labels)
    figure.legend(handles, labels, loc="outside lower center", ncols=max(1, 96 // (longest + 8)), frameon=False)
