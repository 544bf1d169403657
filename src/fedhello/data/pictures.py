"""Decode images, many at once, with Pillow."""

import io
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import PurePath
from types import ModuleType
from typing import Any, TextIO

import numpy as np

from fedhello.data.dataset import Picture
from fedhello.errors import DataError, MissingExtraError
from fedhello.notes import logger

BILINEAR = 2
"""Pillow's number of bilinear resampling."""

Scale = Callable[[np.ndarray], np.ndarray]
"""From pixels, uint8, shape (H, W, channels), to those of one size, uint8, shape (channels, height, width)."""

WORKERS = 8
"""Number of threads that decode; Pillow releases the interpreter lock."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "JPEG2000")
"""Pillow's formats that are read. Pillow knows others, of which EPS starts a program for what a file says."""

JPEG_BEGINS = b"\xff\xd8\xff"

SAMPLED = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB")
"""Pillow's modes of at most 8 bits per channel; deeper ones cannot be converted without choosing a range."""

MOST_PIXELS = 2**26
"""The most pixels of an image, 8192 × 8192; a JPEG of more is reduced to fewer while it is decoded."""

LARGE = 2**22
"""Images of more pixels are decoded one at a time, so that memory does not grow with their number."""

LONGEST_FORM = 100
"""The most times that one side is as long as the other: scaled to a shorter side, such an image would grow."""

ORIENTATION = 0x0112
"""Number of the orientation tag in EXIF."""

TURNED = "are turned upright by their orientation tag"
SEVERAL = "have several frames or pages, of which the first is used"
TRANSPARENT = "are transparent in part; the colours beneath are used"
DEEP = "have 16 bits per channel, of which the upper 8 are used"
CMYK = "are in CMYK and are converted without a colour profile"
REDUCED = f"have more than {MOST_PIXELS:,} pixels and are reduced while they are decoded"


def decode(
    pictures: Sequence[Picture],
    size: tuple[int, int],
    *,
    channels: int = 3,
    scale: Scale | None = None,
    workers: int = WORKERS,
    changes: Counter[str] | None = None,
) -> np.ndarray:
    """Decode images, rotate them by their orientation tag, and scale them to one size; grey images fill all channels.

    Args:
        pictures: n images.
        size: Height and width.
        channels: 3 for red, green and blue, 1 for grey.
        scale: Function that scales to the size; None scales bilinearly, without keeping the aspect ratio.
        workers: Threads.
        changes: Counts, by what is done to them, images of which something is left out or turned.

    Returns:
        Pixels, uint8, shape (n, channels, height, width).

    Raises:
        DataError: If one cannot be decoded or scaled; it is named.
        MissingExtraError: If Pillow is not installed.
    """
    mode = {1: "L", 3: "RGB"}[channels]
    height, width = size
    pixels = np.empty((len(pictures), channels, height, width), dtype=np.uint8)

    def fill(i: int, image: Any) -> None:
        if scale is None and image.size != (width, height):
            image = image.resize((width, height), BILINEAR)
        own = np.asarray(image).reshape(image.height, image.width, channels)
        pixels[i] = own.transpose(2, 0, 1) if scale is None else scale(own)

    errors = _each(pictures, mode, fill, workers, changes, to_the_end=False)
    if errors and errors[-1] is not None:
        raise errors[-1]
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


def undecodable(
    pictures: Sequence[Picture], workers: int = WORKERS, changes: Counter[str] | None = None
) -> dict[int, str]:
    """Return, by position, why images cannot be decoded.

    Raises:
        MissingExtraError: If Pillow is not installed.
    """
    found = enumerate(_each(pictures, None, lambda i, image: None, workers, changes))
    return {i: str(error) for i, error in found if error is not None}


def check(pictures: Sequence[Picture], changes: Counter[str] | None = None) -> None:
    """Check that all images can be decoded.

    Args:
        pictures: The images.
        changes: As in ``decode``.

    Raises:
        DataError: If one cannot be; the first is named.
        MissingExtraError: If Pillow is not installed.
    """
    bad = undecodable(pictures, changes=changes)
    if bad:
        more = f" This is the case for {len(bad)} of {len(pictures)} images." if len(bad) > 1 else ""
        raise DataError(bad[min(bad)] + more)


def pixels_of(image: Any, name: str) -> np.ndarray:
    """Return the pixels of an image of Pillow, upright: uint8, shape (H, W), (H, W, 3), or with transparency one more.

    Raises:
        DataError: If it cannot be decoded, or is of more than 8 bits per channel.
    """
    found: list[np.ndarray] = []
    error = _tried(Picture(b"", name), None, lambda upright: found.append(_as_pixels(upright)), set(), opened=image)
    if error is not None:
        raise error
    return found[0]


def _as_pixels(image: Any) -> np.ndarray:
    kept = image.mode if image.mode in ("L", "LA", "RGB", "RGBA") else "RGB"
    return np.asarray(image if image.mode == kept else image.convert(kept))


def _each(
    pictures: Sequence[Picture],
    mode: str | None,
    use: Callable[[int, Any], None],
    workers: int,
    changes: Counter[str] | None,
    to_the_end: bool = True,
) -> list[DataError | None]:
    """Decode images in threads and use each; return what is wrong with each, up to the first wrong one if so asked.

    Large images are decoded here, one after the other: each thread keeps the memory that it has once had. What Pillow
    warns of is logged for images that are read to the end; of others the error says more.
    """
    Image = _pillow()

    def one(i: int, here: bool = False) -> tuple[DataError | None, set[str]] | None:
        made: set[str] = set()
        said.here.clear()
        try:
            error = _tried(pictures[i], mode, partial(use, i), made, may_be_large=here)
        except _LargeError:
            return None
        said.keep(pictures[i].name, error)
        return error, made

    found: list[DataError | None] = []
    with _pillow_warnings(logged=to_the_end) as said, ThreadPoolExecutor(workers) as pool:
        # Pillow warns of what is refused here.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        for i, done in enumerate(pool.map(one, range(len(pictures)))):
            error, made = done or one(i, here=True) or (None, set())
            found.append(error)
            if changes is not None:
                changes.update(made)
            if error is not None and not to_the_end:
                pool.shutdown(wait=False, cancel_futures=True)
                break
    return found


class _Said(threading.local):
    """What Pillow warns of: ``here`` of the image in the own thread, ``told`` with the first image that is read."""

    def __init__(self, told: dict[str, str]) -> None:
        self.here: list[str] = []
        self.told = told  # of all threads

    def keep(self, name: str, error: DataError | None) -> None:
        """Keep the warnings of an image, if it has no error, which says more."""
        if error is None:
            for warning in self.here:
                self.told.setdefault(warning, name)


@contextmanager
def _pillow_warnings(logged: bool) -> Iterator[_Said]:
    """Collect what Pillow warns of, and log in the end what is kept of it, if so asked."""
    said = _Said({})
    with warnings.catch_warnings():
        others = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if "PIL" in PurePath(filename).parts:
                said.here.append(" ".join(str(message).split()))
            else:
                others(message, category, filename, lineno, file, line)

        warnings.filterwarnings("always", module=r"PIL\.")
        warnings.showwarning = show
        yield said
    if logged:
        for warning, name in said.told.items():
            logger.warning("Pillow warns of %s: %s", name, warning)


class _LargeError(Exception):
    """An image has more than ``LARGE`` pixels and is to be decoded in the caller's thread."""


def _tried(
    picture: Picture,
    mode: str | None,
    use: Callable[[Any], None],
    made: set[str],
    opened: Any = None,
    may_be_large: bool = True,
) -> DataError | None:
    """Decode an image and use it; return what is wrong, and add to ``made`` what was done to it.

    Args:
        picture: The image.
        mode: Pillow's mode that it is converted to; None leaves it.
        use: Called with the decoded image.
        made: Set to add to.
        opened: The image, if Pillow has opened it.
        may_be_large: Whether an image of more than ``LARGE`` pixels is decoded.

    Raises:
        _LargeError: If it is not.
    """
    Image = _pillow()
    try:
        image = _opened(picture) if opened is None else opened
        _check_form(image, picture.name)
        if image.width * image.height > LARGE and not may_be_large:
            raise _LargeError
        image = _upright(image, picture.name, made)
        if mode is not None and image.mode != mode:
            image = image.convert(mode)  # the decoded one is released before the next copy
        use(image)
    except _LargeError:
        raise
    except DataError as error:
        return error.with_traceback(None)  # whose frames would keep the pixels of each bad image
    except Image.DecompressionBombError:
        return _too_many(picture.name, "far more")
    except Exception as error:  # decoders document none, and raise RuntimeError, SyntaxError, struct.error and others
        if isinstance(error, Image.UnidentifiedImageError) and not isinstance(picture.content, np.ndarray):
            begin = picture.encoded(picture.content)[:16]
            reason = f"it is no readable {', '.join(FORMATS)}; it begins with {begin!r}"
        else:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
        found = DataError(
            f"expected an image; {picture.name} cannot be decoded ({reason}). Repair it, or set "
            "data.on_bad_image: skip."
        )
        found.__cause__ = error.with_traceback(None)
        return found
    return None


def _opened(picture: Picture) -> Any:
    """Return a Pillow image of which only the header is read."""
    Image = _pillow()
    if isinstance(picture.content, np.ndarray):
        return Image.fromarray(picture.content)
    encoded = picture.encoded(picture.content)
    if encoded.startswith(JPEG_BEGINS):
        from PIL.JpegImagePlugin import JpegImageFile

        # Image.open would refuse the largest, which are reduced.
        return JpegImageFile(io.BytesIO(encoded))
    return Image.open(io.BytesIO(encoded), formats=[name for name in FORMATS if name != "JPEG"])


def _check_form(image: Any, name: str) -> None:
    """Check that an image has pixels, not too many of them, and no extreme form."""
    width, height = image.size
    if not width or not height:
        raise DataError(f"expected an image with pixels; {name} has {width} × {height}")
    if max(width, height) > LONGEST_FORM * min(width, height):
        raise DataError(
            f"expected an image whose longer side is at most {LONGEST_FORM} times the shorter one; {name} has "
            f"{width} × {height} pixels. Crop it, or set data.on_bad_image: skip."
        )
    if width * height > MOST_PIXELS and image.format != "JPEG":
        raise _too_many(name, f"{width} × {height}")


def _too_many(name: str, found: str) -> DataError:
    return DataError(
        f"expected an image of at most {MOST_PIXELS:,} pixels; {name} has {found}. Scale it down, save it as a JPEG, "
        "which is reduced while it is decoded, or set data.on_bad_image: skip."
    )


def _upright(image: Any, name: str, made: set[str]) -> Any:
    """Return an image decoded, with 8 bits per channel, and upright."""
    from PIL import ImageOps

    width, height = image.size
    if width * height > MOST_PIXELS:
        by = next(by for by in (2, 4, 8) if -(-width // by) * -(-height // by) <= MOST_PIXELS)
        image.draft(None, (width // by, height // by))
        made.add(REDUCED)
    if _has_more_frames(image):
        made.add(SEVERAL)
    if any(_is_deep(tile[3]) for tile in getattr(image, "tile", ())):
        made.add(DEEP)
    image.load()
    if image.mode not in SAMPLED:
        raise DataError(f"expected 8 bits per channel; {name} is of Pillow's mode {image.mode}. Convert it.")
    image = _coloured(image, made)
    if image.getexif().get(ORIENTATION, 1) != 1:
        made.add(TURNED)
        image = ImageOps.exif_transpose(image)
    return image


def _coloured(image: Any, made: set[str]) -> Any:
    """Return a decoded image in a mode that Pillow converts without a warning."""
    if image.mode == "CMYK":
        made.add(CMYK)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode in ("LA", "PA", "RGBA") and image.getextrema()[-1][0] < 255:
        made.add(TRANSPARENT)
    return image


def _has_more_frames(image: Any) -> bool:
    """Whether a file has more than one frame or page, also if the second one is damaged."""
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:
        return True


def _is_deep(arguments: Any) -> bool:
    """Whether Pillow's decoder of a part of an image reads 16 bits for each channel of it."""
    mode, most = (arguments, 255) if isinstance(arguments, str) else (str(arguments[0]), arguments[-1])
    return ";16" in mode or (mode == "RGB" and isinstance(most, int) and most > 255)


def _pillow() -> ModuleType:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError("images need pillow; run: pip install 'fedhello[images]'") from error
    return Image
