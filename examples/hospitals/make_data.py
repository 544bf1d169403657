"""Write the diagnoses of ten hospitals: `pip install simple-icd-10-cm==1.5.0`, then `python make_data.py [FOLDER]`.

To which chapter of ICD-10-CM does a diagnosis belong? The texts are the classification's own: its titles, and the other
names that it lists under them, as they stand in discharge letters. Each hospital sees what it is there for: the heart
centre hearts, the maternity clinic births. No two hospitals have the same text.
"""

import csv
import random
import re
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from xml.etree import ElementTree

CHAPTERS = (
    "infections", "neoplasms", "blood", "endocrine", "mental", "nerves", "eye", "ear", "circulation", "respiration",
    "digestion", "skin", "muscles and bones", "kidneys and genitals", "pregnancy", "newborn", "malformations",
    "symptoms", "injuries",
)  # fmt: skip
"""Short names of chapters 1 to 19, in the order of the classification."""

SEEN_ELSEWHERE = 0.15
"""How often a clinic sees a chapter that it is not there for; 1 is how often a general hospital does."""

HOSPITALS: dict[str, tuple[int, dict[str, float]]] = {
    "university hospital": (800, {}),
    "city hospital": (600, {}),
    "county hospital": (400, {}),
    "cancer centre": (350, {"neoplasms": 12, "blood": 6}),
    "children's hospital": (300, {"newborn": 6, "malformations": 10, "infections": 3, "ear": 3}),
    "trauma centre": (250, {"injuries": 12, "muscles and bones": 8}),
    "maternity clinic": (200, {"pregnancy": 15, "newborn": 10, "kidneys and genitals": 4}),
    "heart centre": (150, {"circulation": 15, "respiration": 4, "symptoms": 2}),
    "psychiatric clinic": (100, {"mental": 15, "nerves": 8}),
    "eye and ear clinic": (100, {"eye": 12, "ear": 12}),
}
"""How many diagnoses each has, and how often it sees the chapters that it is there for."""


def diagnoses() -> Iterator[tuple[str, str]]:
    """Yield text and chapter of each category and subcategory, and of their other names."""
    folder = files("simple_icd_10_cm").joinpath("data")
    (source,) = (file for file in folder.iterdir() if file.name.endswith(".xml"))
    chapters = ElementTree.fromstring(source.read_bytes()).findall("chapter")
    for name, chapter in zip(CHAPTERS, chapters, strict=False):
        for category in chapter.iterfind("section/diag"):
            for code in (category, *category.findall("diag")):
                for found in (code.find("desc"), *code.iterfind("inclusionTerm/note")):
                    text = found.text if found is not None and found.text else ""
                    yield re.sub(r"\s+", " ", re.sub(r"\[[^]]*\]|\bNOS\b|, unspecified\b", "", text)).strip(" ,"), name


def main(folder: Path) -> None:
    """Draw who has which diagnosis, and write."""
    rng = random.Random(0)
    left: dict[str, list[str]] = {chapter: [] for chapter in CHAPTERS}
    for text, chapter in {text.lower(): (text, chapter) for text, chapter in diagnoses()}.values():
        left[chapter].append(text)
    for texts in left.values():
        rng.shuffle(texts)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "diagnoses.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["diagnosis", "chapter", "hospital"])
        for hospital, (count, own) in HOSPITALS.items():
            weights = [own.get(chapter, SEEN_ELSEWHERE if own else 1) for chapter in CHAPTERS]
            for chapter in rng.choices(CHAPTERS, weights, k=count):
                if left[chapter]:
                    writer.writerow([left[chapter].pop(), chapter, hospital])
    print(f"wrote the diagnoses of {len(HOSPITALS)} hospitals to {folder / 'diagnoses.csv'}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "data"))
