"""Data sets in folders: images by class, images in idx files, one data file per client or split."""

import gzip
import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np

from fedhello.data.dataset import Columns, Picture
from fedhello.data.files import read_table
from fedhello.data.tables import SUFFIXES, Source, Table
from fedhello.data.text_files import name_of, suffix_of
from fedhello.errors import DataError

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
"""Suffixes of image files."""

IMAGE_COLUMNS = Columns(image="image")
"""Columns of classified images."""

SPLITS = {"train", "validation", "valid", "val", "dev", "test"}
"""Names of folders that are splits and not classes, if each holds folders of images."""

PIECE = 2**20
"""Bytes of a file that are read at once."""

IDX_SPLITS = {"train": "train", "t10k": "test"}
"""Prefix of idx files → name of the split."""


def folder_source(folder: Path, encoding: str | None = None) -> Source:
    """Return the source of a folder's data set.

    Args:
        folder: The folder.
        encoding: See ``fedhello.data.files.read_table``.

    Raises:
        DataError: If the folder holds no known form of data set.
    """
    try:
        listed = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"expected to read the folder {folder}; {error.strerror}") from error
    if any(folder.glob("*-images*idx3-ubyte*")):
        return Source(str(folder), idx_splits(folder), IMAGE_COLUMNS)
    files = [path for path in listed if suffix_of(path) in SUFFIXES and path.is_file()]
    if files:
        return _files(folder, files, encoding)
    classes = _class_folders(folder)
    splits = {path.name: found for path in _folders(folder) if (found := _class_folders(path))}
    if classes and not {path.name for path in classes} == splits.keys() <= SPLITS:
        return Source(str(folder), {"": partial(_image_table, folder, classes)}, IMAGE_COLUMNS)
    if splits:  # also where an image lies beside the folders of their classes
        beside = [path for path in _other_files(folder, set()) if path.relative_to(folder).parts[0] not in splits]
        readers = {name: partial(_image_table, folder / name, found, beside) for name, found in splits.items()}
        return Source(str(folder), readers, IMAGE_COLUMNS)
    raise DataError(
        f"expected a data set in the folder {folder}: images in one sub-folder per class, CSV, TSV, JSON or Parquet "
        "files, or what datasets' save_to_disk wrote; found none of them"
    )


def _files(folder: Path, files: list[Path], encoding: str | None) -> Source:
    readers = {name_of(path): partial(read_table, path, encoding) for path in files}
    if len(readers) < len(files):
        names = ", ".join(path.name for path in files)
        raise DataError(f"expected file names in {folder} that differ before the suffix; found {names}")
    return Source(str(folder), readers, files=True)


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGES)


def _class_folders(folder: Path) -> list[Path]:
    """Return the sub-folders, if one of them holds an image itself, so that they are classes."""
    folders = _folders(folder)
    holds = any(path.suffix.lower() in IMAGES for sub in folders for path in sub.iterdir())
    return folders if holds else []


def _other_files(folder: Path, read: set[Path]) -> list[Path]:
    """Return the files in a folder and below that are not read, but for hidden ones."""
    others = [path for path in sorted(folder.rglob("*")) if path not in read and path.is_file()]
    return [path for path in others if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def _other_notes(where: str, others: Sequence[Path]) -> tuple[str, ...]:
    if not others:
        return ()
    files = "file" if len(others) == 1 else "files"
    return (
        f"{len(others)} {files} {where} not read, such as {others[0]}: images are those in a class's folder that end "
        f"in {', '.join(IMAGES)}",
    )


def _image_table(folder: Path, classes: list[Path], beside: Sequence[Path] = ()) -> Table:
    """Return the images in the folders of classes, and note the files in the folder and beside it that are not read."""
    pictures: list[Picture] = []
    labels: list[str] = []
    for sub in classes:
        found = _images(sub)
        if not found:
            raise DataError(f"expected images in each class's folder; {sub} has none. Remove it, or add images.")
        pictures += [Picture(path, str(path)) for path in found]
        labels += [sub.name] * len(found)
    read = {picture.content for picture in pictures if isinstance(picture.content, Path)}
    notes = _other_notes(f"in {folder}", _other_files(folder, read)) + _other_notes("beside the splits", beside)
    return replace(Table.of(str(folder), {"image": pictures, "label": labels}), notes=notes)


def idx_splits(folder: Path, names: tuple[str, ...] | None = None) -> Mapping[str, Callable[[], Table]]:
    """Return the readers of the splits in a folder of the MNIST format.

    Args:
        folder: A folder with files such as ``train-images-idx3-ubyte.gz`` and ``train-labels-idx1-ubyte.gz``.
        names: The names of the classes; None uses their numbers.
    """
    found = sorted(path.name.split("-images")[0] for path in folder.glob("*-images*idx3-ubyte*"))
    return {IDX_SPLITS.get(prefix, prefix): partial(_idx_table, folder, prefix, names) for prefix in found}


def _idx_table(folder: Path, prefix: str, names: tuple[str, ...] | None) -> Table:
    pixels = _idx(folder, f"{prefix}-images*idx3-ubyte*", dimensions=3)
    numbers = _idx(folder, f"{prefix}-labels*idx1-ubyte*", dimensions=1)
    if len(pixels) != len(numbers):
        raise DataError(
            f"expected as many labels as images in {folder} ({prefix}); found {len(numbers)} and {len(pixels)}"
        )
    odd = [c for c in set(numbers.tolist()) if names is not None and c >= len(names)]
    if names is not None and odd:
        raise DataError(f"expected labels of 0 … {len(names) - 1} in {folder} ({prefix}); found {odd[0]}")
    labels = [str(c) if names is None else names[c] for c in numbers.tolist()]
    pictures = [Picture(image, f"image {i} of {folder} ({prefix})") for i, image in enumerate(pixels)]
    return Table.of(f"{folder} ({prefix})", {"image": pictures, "label": labels})


def _idx(folder: Path, pattern: str, dimensions: int) -> np.ndarray:
    """Read an idx file: two zero bytes, 8 for uint8, the number of dimensions, big-endian sizes, the values."""
    path = next(iter(sorted(folder.glob(pattern))), None)
    if path is None:
        raise DataError(f"expected a file {pattern} in {folder}; found none")
    begin = 4 + 4 * dimensions
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            head = file.read(begin)
            shape = tuple(int.from_bytes(head[at : at + 4]) for at in range(4, begin, 4))
            size = math.prod(shape)
            if len(head) < begin or head[:4] != bytes([0, 0, 8, dimensions]):
                raise DataError(f"expected {path} to be an idx file of bytes in {dimensions} dimensions; it is not")
            # Not read(size): that would take the memory which a damaged header states.
            values = b"".join(_pieces(file, size + 1))
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"expected {path} to be a gzipped idx file; {error}") from error
    if len(values) != size:
        found = "more" if len(values) > size else f"{len(values):,}"
        raise DataError(f"expected {path} to hold {size:,} bytes, as its header says; found {found}")
    return np.frombuffer(values, dtype=np.uint8).reshape(shape)


def _pieces(file: IO[bytes] | gzip.GzipFile, most: int) -> Iterator[bytes]:
    """Yield the content of a file in pieces, at most so many bytes."""
    while most > 0 and (piece := file.read(min(most, PIECE))):
        most -= len(piece)
        yield piece
