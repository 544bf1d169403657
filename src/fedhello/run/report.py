"""Pictures of a run: how accuracy grew, and who trained which block in each round. Needs the extra ``report``."""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedhello.errors import RunFolderError
from fedhello.run.drawing import svg_of
from fedhello.run.folder import RunFolder

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; display: block; overflow-x: auto; }}
td, th {{ padding: .2rem .8rem .2rem 0; text-align: left; }}
svg {{ max-width: 100%; height: auto; background: #fff; border-radius: 6px; }}
</style></head><body>
<h1>{title}</h1>
<table>{rows}</table>
{picture}
</body></html>
"""

SHOWN = (
    "status", "method", "model", "seed", "rounds", "metric", "start", "final", "mean_last_5", "best_on_validation",
    "bytes_up", "bytes_down", "wall_seconds", "samples_per_second",
)  # fmt: skip


def write_report(folder: RunFolder) -> Path:
    """Write ``report.html``, one self-contained page, into a run's folder and return its path.

    Raises:
        MissingExtraError: If matplotlib is not installed.
        RunFolderError: If the run has no finished round.
    """
    summary = folder.summary()
    rows = "".join(
        f"<tr><th>{html.escape(key)}</th><td>{html.escape(_cell(summary.get(key)))}</td></tr>" for key in SHOWN
    )
    page = PAGE.format(title=html.escape(f"fedhello: {folder.path.name}"), rows=rows, picture=svg(folder))
    folder.report.write_text(page, encoding="utf-8")
    return folder.report


def svg(folder: RunFolder) -> str:
    """Draw a run as one SVG: its learning curve above, its blocks below.

    Raises:
        MissingExtraError: If matplotlib is not installed.
        RunFolderError: If the run has no finished round.
    """
    rounds = folder.rounds()
    if not rounds:
        raise RunFolderError(f"expected at least one finished round in {folder.path}; there is none")
    summary = folder.summary()

    def draw(figure: Any) -> None:
        curve, blocks = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
        _draw_curve(curve, rounds, summary["start"])
        _draw_blocks(figure, blocks, rounds)
        figure.suptitle(_title(summary))

    return svg_of((8, 5.6), draw)


def _draw_curve(axes: Any, rounds: Sequence[dict[str, Any]], start: float) -> None:
    x = [entry["round"] + 1 for entry in rounds]
    test = [entry["test"]["accuracy"] for entry in rounds]
    axes.plot([0, *x], [start, *test], marker="o", markersize=3, label="test (0: before training)")
    axes.plot(x, [entry["validation"]["accuracy"] for entry in rounds], linestyle="--", label="validation")
    scored = [entry["round"] + 1 for entry in rounds if entry["scored"]]
    for i, position in enumerate(scored):
        label = "Fisher scores computed" if i == 0 else None
        axes.axvline(position, color="grey", linewidth=0.8, linestyle=":", label=label)
    axes.set_ylabel("accuracy")
    axes.legend(loc="lower right")
    axes.grid(alpha=0.3)


def _draw_blocks(figure: Any, axes: Any, rounds: Sequence[dict[str, Any]]) -> None:
    from matplotlib.ticker import MaxNLocator

    counts = [entry["contributors"] for entry in rounds]
    first, last, blocks = rounds[0]["round"] + 1, rounds[-1]["round"] + 1, len(counts[0])
    image = axes.imshow(
        list(zip(*counts, strict=True)),
        aspect="auto",
        origin="lower",
        cmap="Blues",
        vmin=0,
        extent=(first - 0.5, last + 0.5, -0.5, blocks - 0.5),
    )
    axes.set_xlim(-0.5, last + 0.5)  # room for round 0, before training, in the curve above
    axes.set_xlabel("round")
    axes.set_ylabel("block (0 = input)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    figure.colorbar(image, ax=axes, label="clients that\ntrained it")


def _title(summary: dict[str, Any]) -> str:
    model = str(summary["model"]).rpartition("/")[2]
    return f"{summary['method']} on {model}, seed {summary['seed']}: {summary['metric']} {summary['final']:.3f}"


def _cell(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
