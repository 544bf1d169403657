"""Tables of a comparison as Markdown, and its figures without the single runs as JSON.

python benchmarks/comparison_tables.py [OUT] > benchmarks/results/comparison.json     # tables go to standard error
"""

import json
import sys
from pathlib import Path
from typing import Any

KEPT = (
    "methods", "differences", "seeds", "reference", "confidence", "target", "test_samples", "equal_cost", "tuning",
    "notes", "versions",
)  # fmt: skip
COSTS = {"bytes_up": ("upload", 1e6, "MB"), "flops": ("computation", 1e12, "TFLOP")}


def main() -> None:
    """Read the comparison, print both."""
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/definitions")
    comparison = json.loads((out / "comparison.json").read_text())
    for lines in (accuracies(comparison), costs(comparison), *(at_equal(comparison, cost) for cost in COSTS)):
        print("\n".join(lines), end="\n\n", file=sys.stderr)
    print(json.dumps({key: comparison[key] for key in KEPT}, indent=1))


def accuracies(comparison: dict[str, Any]) -> list[str]:
    """Return the lines of the table of accuracies: the baselines, then the best method first."""
    reference = comparison["reference"]
    lines = [
        f"| method | learning rate | last | mean of the last 5 | against `{reference}`, 95 %, adjusted | p, adjusted |",
        "|---|---|---|---|---|---|",
    ]
    for method in ordered(comparison):
        name = method["method"]
        found = next((d for d in comparison["differences"] if d["method"] == name), None)
        difference, p = "–", "–"
        if found is not None and found["low"] is not None:
            difference = f"{found['mean']:+.3f} ({found['low']:+.3f} … {found['high']:+.3f})"
            p = f"{found['p_adjusted']:.3f}"
        cells = (f"`{name}`", rate(comparison, name), *map(spread, (method["final"], method["mean_last_5"])))
        lines.append("| " + " | ".join((*cells, difference, p)) + " |")
    start = comparison["methods"][-1]["start"]["mean"]
    return [*lines, "", f"Before training: {start:.3f}. One test sample is {1 / comparison['test_samples']:.4f}."]


def rate(comparison: dict[str, Any], name: str) -> str:
    """Return a method's learning rate, with a mark where it is at the edge of the grid."""
    found = (comparison["tuning"] or {"methods": {}})["methods"].get(name)
    return "–" if found is None else f"{found['rate']:g}" + ("*" if found["at_edge"] else "")


def costs(comparison: dict[str, Any]) -> list[str]:
    """Return the lines of the table of what methods cost in the whole run, and the largest peak of each tier."""
    tiers = len(comparison["methods"][0]["tiers"])
    lines = [
        "| method | up | down | TFLOP | " + " | ".join(f"peak, tier {g}" for g in range(tiers)) + " |",
        "|---|" + "---|" * (3 + tiers),
    ]
    for method in ordered(comparison):
        peaks = [tier["peak_bytes"] for tier in method["tiers"]]
        cells = [f"{method[key] / 1e6:.1f} MB" for key in ("bytes_up", "bytes_down")]
        cells.append("–" if method["flops"] is None else f"{method['flops'] / 1e12:.1f}")
        cells += ["–" if peak is None else f"{peak / 1e6:.1f} MB" for peak in (*peaks, *[None] * (tiers - len(peaks)))]
        lines.append(f"| `{method['method']}` | " + " | ".join(cells) + " |")
    return lines


def at_equal(comparison: dict[str, Any], cost: str) -> list[str]:
    """Return the lines of the table of accuracies by the time that so much of a cost was spent."""
    words, unit, symbol = COSTS[cost]
    amounts = comparison["equal_cost"].get(cost, [])
    lines = [
        f"| at equal {words} | " + " | ".join(f"{amount / unit:.3g} {symbol}" for amount in amounts) + " |",
        "|---|" + "---|" * len(amounts),
    ]
    for method in ordered(comparison):
        found = method["at_equal_cost"].get(cost)
        if found:
            cells = ["–" if value["mean"] is None else f"{value['mean']:.3f}" for value in found]
            lines.append(f"| `{method['method']}` | " + " | ".join(cells) + " |")
    return lines


def ordered(comparison: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the methods: the trivial baselines first, then by accuracy."""
    first = ("head-only", "server-only")
    return sorted(
        comparison["methods"],
        key=lambda m: (m["method"] not in first, -m["mean_last_5"]["mean"] if m["method"] not in first else 0),
    )


def spread(value: dict[str, Any]) -> str:
    """Write a mean and its standard deviation over seeds."""
    deviation = value["deviation"]
    return f"{value['mean']:.3f}" + ("" if deviation is None else f" ± {deviation:.3f}")


if __name__ == "__main__":
    main()
