"""Write a text task of 40 classes from WordNet: which of its lexicographers' files does a definition belong to?

    apt-get download wordnet-base && dpkg -x wordnet-base*.deb x       # or installed: /usr/share/wordnet
    python benchmarks/senses.py x/usr/share/wordnet senses.csv [--each 120]

The classes are WordNet 3.0's files of nouns and verbs, such as ``noun.animal`` and ``verb.motion``; a sample is the
first sentence of a definition, without the word that it defines. Of each class so many are drawn, or all where it has
fewer.
"""

import argparse
import csv
from pathlib import Path

import numpy as np

FILES = {
    "noun": (
        "act animal artifact attribute body cognition communication event feeling food group location motive object "
        "person phenomenon plant possession process quantity relation shape state substance time"
    ),
    "verb": (
        "body change cognition communication competition consumption contact creation emotion motion perception "
        "possession social stative weather"
    ),
}
"""Names in WordNet's order; see lexnames(5WN). The file of the topmost nouns, 03, is left out."""

FIRST = {"noun": 4, "verb": 29}


def definitions(folder: Path) -> dict[str, list[str]]:
    """Return class → its definitions, sorted."""
    found: dict[str, set[str]] = {}
    for part, words in FILES.items():
        names = dict(enumerate((f"{part}.{word}" for word in words.split()), FIRST[part]))
        for line in (folder / f"data.{part}").read_text(encoding="utf-8").splitlines():
            data, bar, gloss = line.partition("| ")
            if bar and not line.startswith("  ") and (name := names.get(int(data.split()[1]))):
                found.setdefault(name, set()).add(gloss.split(";")[0].strip())
    return {name: sorted(found[name]) for name in sorted(found)}


def main() -> None:
    """Read WordNet, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wordnet", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--each", type=int, default=120, help="definitions of each class at most")
    asked = parser.parse_args()
    rng, rows = np.random.default_rng(0), 0
    with asked.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "label"))
        for name, texts in definitions(asked.wordnet).items():
            drawn = [texts[i] for i in rng.permutation(len(texts))[: asked.each]]
            writer.writerows((text, name) for text in drawn)
            rows += len(drawn)
    print(f"wrote {rows} definitions to {asked.out}")


if __name__ == "__main__":
    main()
