"""Tables of what `benchmarks/comparison.sh` made, as Markdown, and its figures without the runs, as JSON.

python benchmarks/comparison_tables.py [OUT] > benchmarks/results/comparison.json     # tables go to standard error
"""

import json
import sys
from pathlib import Path
from typing import Any

FEDERATIONS = {
    "two-of-five": "Demo, two of five classes per client",
    "dirichlet": "Demo, Dirichlet 0.1",
    "iid": "Demo, IID",
    "reviews": "Movie reviews of two sources",
}


def main() -> None:
    """Read the comparisons that there are, print both."""
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/field")
    found = {
        name: json.loads((out / name / "comparison.json").read_text())
        for name in FEDERATIONS
        if (out / name / "comparison.json").exists()
    }
    for name, comparison in found.items():
        print(f"\n### {FEDERATIONS[name]}\n", file=sys.stderr)
        print("\n".join(table(comparison)), file=sys.stderr)
    print(json.dumps({name: figures(comparison) for name, comparison in found.items()}, indent=1))


def figures(comparison: dict[str, Any]) -> dict[str, Any]:
    """Leave the single rounds and machine-dependent folders out."""
    kept = ("methods", "differences", "seeds", "reference", "confidence", "target", "test_samples", "notes", "versions")
    return {key: comparison[key] for key in kept}


def table(comparison: dict[str, Any]) -> list[str]:
    """Return the lines of one table, the best method first."""
    lines = [
        "| method | last | mean of the last 5 | best on validation | against `full`, 95 % | up | down |",
        "|---|---|---|---|---|---|---|",
    ]
    ordered = sorted(comparison["methods"], key=lambda method: -method["mean_last_5"]["mean"])
    for method in ordered:
        cells = [
            f"`{method['method']}`",
            *(spread(method[key]) for key in ("final", "mean_last_5", "best_on_validation")),
        ]
        cells.append(against(comparison, method["method"]))
        cells += [f"{method[key] / 1e6:.1f} MB" for key in ("bytes_up", "bytes_down")]
        lines.append(f"| {' | '.join(cells)} |")
    start = comparison["methods"][0]["start"]["mean"]
    lines += by_domain(ordered)
    return [*lines, "", f"Before training: {start:.3f}. One test sample is {1 / comparison['test_samples']:.4f}."]


def by_domain(methods: list[dict[str, Any]]) -> list[str]:
    """Return the lines of the table of accuracies per domain; none where there are no domains."""
    domains = list(methods[0].get("domains", {}))
    if not domains:
        return []
    lines = ["", f"| method | {' | '.join(f'last, on {name}' for name in domains)} |", "|---|" + "---|" * len(domains)]
    rows = [[f"`{method['method']}`", *(spread(method["domains"][name]) for name in domains)] for method in methods]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows)]


def spread(value: dict[str, Any]) -> str:
    """Write a mean and its standard deviation over seeds."""
    return f"{value['mean']:.3f} ± {value['deviation']:.3f}"


def against(comparison: dict[str, Any], method: str) -> str:
    """Write the paired difference to the reference."""
    if method == comparison["reference"]:
        return "–"
    found = next(difference for difference in comparison["differences"] if difference["method"] == method)
    return f"{found['mean']:+.3f} ({found['low']:+.3f} … {found['high']:+.3f})"


if __name__ == "__main__":
    main()
