"""Decode images, many at once, with Pillow."""

import io
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from fedhello.data.dataset import Picture
from fedhello.errors import DataError, MissingExtraError

BILINEAR = 2
"""Pillow's number of bilinear resampling."""

Scale = Callable[[np.ndarray], np.ndarray]
"""From pixels, uint8, shape (H, W, channels), to those of one size, uint8, shape (channels, height, width)."""

WORKERS = 8
"""Number of threads that decode; Pillow releases the interpreter lock."""

SAMPLED = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB")
"""Pillow's modes of at most 8 bits per channel; deeper ones cannot be converted without choosing a range."""


def decode(
    pictures: Sequence[Picture],
    size: tuple[int, int],
    *,
    channels: int = 3,
    scale: Scale | None = None,
    workers: int = WORKERS,
) -> np.ndarray:
    """Decode images, rotate them by their orientation tag, and scale them to one size; grey images fill all channels.

    Args:
        pictures: n images.
        size: Height and width.
        channels: 3 for red, green and blue, 1 for grey.
        scale: Function that scales to the size; None scales bilinearly, without keeping the aspect ratio.
        workers: Threads.

    Returns:
        Pixels, uint8, shape (n, channels, height, width).

    Raises:
        DataError: If one cannot be decoded; it is named.
        MissingExtraError: If Pillow is not installed.
    """
    _pillow()
    mode = {1: "L", 3: "RGB"}[channels]
    height, width = size
    pixels = np.empty((len(pictures), channels, height, width), dtype=np.uint8)

    def fill(i: int) -> None:
        image = _opened(pictures[i]).convert(mode)
        if scale is None and image.size != (width, height):
            image = image.resize((width, height), BILINEAR)
        own = np.asarray(image).reshape(image.height, image.width, channels)
        pixels[i] = own.transpose(2, 0, 1) if scale is None else scale(own)

    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(fill, range(len(pictures))):
            pass  # raises the exceptions of the threads
    return pixels


@dataclass(frozen=True)
class DecodedLater:
    """Images that are decoded at each access, for data sets that do not fit into memory.

    Attributes:
        pictures: n images.
        size: Height and width.
        channels: As in ``decode``.
        scale: As in ``decode``.
    """

    pictures: tuple[Picture, ...]
    size: tuple[int, int]
    channels: int = 3
    scale: Scale | None = None

    def __getitem__(self, positions: np.ndarray) -> np.ndarray:
        """Return the images at some positions, as ``decode`` does."""
        chosen = [self.pictures[i] for i in positions.tolist()]
        return decode(chosen, self.size, channels=self.channels, scale=self.scale)


def undecodable(pictures: Sequence[Picture], workers: int = WORKERS) -> dict[int, str]:
    """Return, by position, why images cannot be decoded.

    Raises:
        MissingExtraError: If Pillow is not installed.
    """
    _pillow()

    def complaint(picture: Picture) -> str | None:
        try:
            _opened(picture)
        except DataError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(workers) as pool:
        found = enumerate(pool.map(complaint, pictures))
        return {i: reason for i, reason in found if reason is not None}


def check(pictures: Sequence[Picture]) -> None:
    """Check that all images can be decoded.

    Raises:
        DataError: If one cannot be; the first is named.
        MissingExtraError: If Pillow is not installed.
    """
    bad = undecodable(pictures)
    if bad:
        more = f" This is the case for {len(bad)} of {len(pictures)} images." if len(bad) > 1 else ""
        raise DataError(bad[min(bad)] + more)


def _opened(picture: Picture) -> Any:
    """Return a decoded Pillow image with 8 bits per channel.

    Raises:
        DataError: If it cannot be decoded.
    """
    Image = _pillow()
    from PIL import ImageOps

    try:
        if isinstance(picture.content, np.ndarray):
            image = Image.fromarray(picture.content)
        else:
            image = Image.open(io.BytesIO(picture.encoded(picture.content)))
            image.load()
        image = ImageOps.exif_transpose(image)
    except (OSError, SyntaxError, ValueError, TypeError, EOFError, struct.error, Image.DecompressionBombError) as error:
        hint = "Repair it, or set data.on_bad_image: skip."
        raise DataError(f"expected an image; {picture.name} cannot be decoded ({error}). {hint}") from error
    if image.mode not in SAMPLED:
        raise DataError(f"expected 8 bits per channel; {picture.name} is of Pillow's mode {image.mode}. Convert it.")
    return image


def _pillow() -> ModuleType:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError("images need pillow; run: pip install 'fedhello[images]'") from error
    return Image
