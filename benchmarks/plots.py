"""Draw the recorded results: one SVG per claim, into benchmarks/results.

python benchmarks/plots.py      # needs matplotlib
"""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Draw every picture whose results are there."""
    for name, (files, draw) in PICTURES.items():
        found = [
            json.loads((RESULTS / f"{file}.json").read_text()) for file in files if (RESULTS / f"{file}.json").exists()
        ]
        if found:
            target = RESULTS / f"{name}.svg"
            target.write_text(svg_of((8, 4), lambda figure, found=found, draw=draw: draw(figure, found)) + "\n")
            print(target)


def svg_of(size: tuple[float, float], draw: Callable[[Any], None]) -> str:
    """Return a matplotlib figure, drawn by ``draw`` in a size in inches, as one SVG element."""
    # A fixed salt and no date make the same picture give the same file.
    with matplotlib.rc_context({"svg.hashsalt": "fedhello", "svg.fonttype": "none", "font.size": 10}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def memory(figure: Any, results: list[dict[str, Any]]) -> None:
    """Peak memory against step time by allocation and policy, both relative to training and keeping everything."""
    axes = figure.subplots()
    for result, marker in zip(results, "os^D", strict=False):
        rows = result["rows"]
        x, y = [row["peak_ratio"] for row in rows], [row["time_ratio"] for row in rows]
        axes.plot(x, y, marker, label=result["model"])
        if result is results[0]:
            for row in rows:
                axes.annotate(
                    row["case"],
                    (row["peak_ratio"], row["time_ratio"]),
                    fontsize=6,
                    xytext=(3, 3),
                    textcoords="offset points",
                )
    axes.set_xlabel("peak memory / all blocks, kept")
    axes.set_ylabel("step time / all blocks, kept")
    axes.legend()
    axes.grid(alpha=0.3)


def fisher(figure: Any, results: list[dict[str, Any]]) -> None:
    """Seconds of both ways."""
    axes = figure.subplots()
    (result,) = results
    axes.barh(["per-sample loop", "one pass per batch"], [result["seconds_loop"], result["seconds_batched"]])
    axes.set_xlabel(f"seconds for {result['proxies']} proxy samples (MiniLM)")


def throughput(figure: Any, results: list[dict[str, Any]]) -> None:
    """Speed-up of bf16 by batch size, and time over needed work by capacity."""
    left, right = figure.subplots(1, 2)
    (result,) = results
    left.plot([row["batch_size"] for row in result["bf16"]], [row["speedup"] for row in result["bf16"]], "o-")
    left.set_xscale("log", base=2)
    left.set_xlabel("batch size (MiniLM)")
    left.set_ylabel("bf16 speed-up over fp32")
    for name in dict.fromkeys(row["model"] for row in result["inverted"]):
        rows = [row for row in result["inverted"] if row["model"] == name]
        right.plot([row["needed_share"] for row in rows], [row["time_ratio"] for row in rows], "o", label=name)
    right.plot([0.4, 1], [0.4, 1], color="grey", linewidth=0.8)
    right.set_xlabel("needed share of the work, last c blocks")
    right.set_ylabel("share of the time")
    right.legend()


def resident(figure: Any, results: list[dict[str, Any]]) -> None:
    """Resident peak of each case beside its budget."""
    axes = figure.subplots()
    (result,) = results
    names = [row["case"] for row in result["rows"]]
    axes.barh(names, [row["resident_peak_bytes"] / 1e6 for row in result["rows"]], label="measured in its own process")
    for i, row in enumerate(result["rows"]):
        if row["budget_bytes"]:
            axes.plot(
                [row["budget_bytes"] / 1e6] * 2, [i - 0.4, i + 0.4], color="black", label="budget" if i == 0 else None
            )
    axes.set_xlabel("resident memory above the loaded model (MB)")
    axes.legend()


def accuracy_per_byte(figure: Any, results: list[dict[str, Any]]) -> None:
    """Accuracy against upload per client and round."""
    for axes, result in zip(figure.subplots(1, len(results), squeeze=False)[0], results, strict=True):
        for row in result["rows"]:
            axes.errorbar(
                row["bytes_up"] / 1e3, row["mean_last_5"], yerr=row["std"], marker="o", capsize=2, label=row["name"]
            )
        axes.set_title(result["data"])
        axes.set_xlabel("upload per client and round (kB)")
        axes.set_ylabel("test accuracy, mean of the last 5 rounds")
        axes.legend(fontsize=5)
        axes.grid(alpha=0.3)


PICTURES: dict[str, tuple[list[str], Callable[[Any, list[dict[str, Any]]], None]]] = {
    "memory": (["memory_bert_base", "memory_vit_b16", "memory_minilm"], memory),
    "fisher": (["fisher"], fisher),
    "throughput": (["throughput"], throughput),
    "resident": (["resident_minilm"], resident),
    "accuracy_per_byte": (["accuracy_per_byte_demo", "accuracy_per_byte_reviews"], accuracy_per_byte),
}

if __name__ == "__main__":
    main()
