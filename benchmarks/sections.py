"""Write a text task of some 40 classes from Debian's package index: which section is a package with such a summary in?

    apt-cache dumpavail > packages.txt
    python benchmarks/sections.py packages.txt sections.csv [--each 120] [--fewest 80]

The classes are the archive's sections, such as ``games`` and ``science``, and a sample is the one line that describes a
package. Of each source package one binary package is drawn, so that no two samples are variants of one; a line that
occurs in two sections is left out, and sections with fewer than so many lines are, too.
"""

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np

FIELDS = ("Package", "Source", "Section", "Description")


def packages(file: Path) -> Iterator[dict[str, str]]:
    """Yield the fields of each package that are of use."""
    for paragraph in file.read_text(encoding="utf-8").split("\n\n"):
        pairs = (line.partition(": ") for line in paragraph.splitlines())
        found = {name: value.strip() for name, _, value in pairs if name in FIELDS}
        if {"Package", "Section", "Description"} <= found.keys():
            yield found


def summaries(file: Path, rng: np.random.Generator) -> dict[str, list[str]]:
    """Return section → the summaries of its packages, one per source package, sorted."""
    by_source: dict[str, list[dict[str, str]]] = {}
    for package in packages(file):
        by_source.setdefault(package.get("Source", package["Package"]).split()[0], []).append(package)
    sections: dict[str, set[str]] = {}
    for _, made in sorted(by_source.items()):
        package = made[int(rng.integers(len(made)))]
        sections.setdefault(package["Description"], set()).add(package["Section"].rpartition("/")[2])
    found: dict[str, list[str]] = {}
    for summary, of in sorted(sections.items()):
        if len(of) == 1:
            found.setdefault(min(of), []).append(summary)
    return dict(sorted(found.items()))


def main() -> None:
    """Read the index, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--each", type=int, default=120, help="summaries of each section at most")
    parser.add_argument("--fewest", type=int, default=80, help="sections with fewer are left out")
    asked = parser.parse_args()
    rng, rows, classes = np.random.default_rng(0), 0, 0
    with asked.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "label"))
        for section, texts in summaries(asked.packages, rng).items():
            if len(texts) < asked.fewest:
                continue
            drawn = [texts[i] for i in rng.permutation(len(texts))[: asked.each]]
            writer.writerows((text, section) for text in drawn)
            rows, classes = rows + len(drawn), classes + 1
    print(f"wrote {rows} summaries of {classes} sections to {asked.out}")


if __name__ == "__main__":
    main()
