"""Read a file as bytes or as text; what cannot be opened, unpacked or decoded is said in one sentence."""

import codecs
import gzip
import io
import shlex
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TextIO, cast

from fedhello.data.tables import SUFFIXES
from fedhello.errors import DataError
from fedhello.formatting import nearest

GZIP = b"\x1f\x8b"

_BEGIN = 16
_BLOCK = 2**20

MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # begins like the mark of UTF-16, so it comes first
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Byte order mark → encoding."""

OTHERS = {
    b"PK\x03\x04": "an Excel or OpenDocument workbook or another archive. Save the table as CSV in UTF-8",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook. Save the table as CSV in UTF-8",
    b"%PDF": "a PDF. Save the table as CSV in UTF-8",
    b"PAR1": "a Parquet file. Rename it to end in .parquet",
    b"ARROW1": "an Arrow file. Write it as Parquet",
    b"SQLite format 3": "a SQLite database. Export the table as CSV in UTF-8",
    b"\x93NUMPY": "an array of numpy. Pass it from Python, or write it as Parquet",
    b"\x80\x04\x95": "a pickle, which can run code when it is read. Write it as Parquet",
    b"BZh": "compressed by bzip2. Unpack it",
    b"\xfd7zXZ": "compressed by xz. Unpack it",
    b"\x28\xb5\x2f\xfd": "compressed by Zstandard. Unpack it",
}
"""First bytes of files that are no text → what they are, and what to do."""


def suffix_of(path: Path) -> str:
    """Return the suffix that tells the format, in lower case; ``.csv`` for ``x.csv.gz``."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix == ".gz" else suffix


def name_of(path: Path) -> str:
    """Return a file's name without the suffix that tells the format."""
    return Path(path.stem).stem if path.suffix.lower() == ".gz" else path.stem


def exists(path: Path) -> bool:
    """Whether there is a file or folder; False for a name that no file can have."""
    try:
        return path.exists()
    except (OSError, ValueError):  # too long, or with a NUL
        return False


def absent(name: str, key: str) -> DataError:
    """Return the error for a file that is not there, with names in its folder that are similar.

    Args:
        name: What was asked for.
        key: The key of the configuration that names it.
    """
    shown = repr(name if len(name) <= 200 else name[:200] + "…")
    expected = f"expected {key} to be a file, a folder or an embedded data set; there is no {shown}"
    example = f" (seen from {Path.cwd()}). The first lines of an example say how its data are made."
    folder = Path(name).parent
    if len(name) > 4096 or not exists(folder):
        return DataError(expected + ("." if len(name) > 4096 else f", and no folder {str(folder)!r}{example}"))
    try:
        names = sorted(path.name for path in folder.iterdir() if path.is_dir() or suffix_of(path) in SUFFIXES)
    except OSError:  # a folder that cannot be listed has no names to suggest
        names = []
    files = [found for found in names if suffix_of(Path(found)) in SUFFIXES]
    close = nearest(Path(name).name, names)
    if close == "." and files:
        close = f". Its folder has {', '.join(files[:5])}{' and more' if len(files) > 5 else ''}."
    return DataError(expected + close)


def check_regular(path: Path) -> None:
    """Check that a path is a file that can be read twice.

    Raises:
        DataError: If it is not.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        raise DataError(f"expected to read the data in {str(path)!r}; {_why(error)}") from error
    if not stat.S_ISREG(mode):
        raise DataError(
            f"expected {path} to be a file; it is a folder, a pipe or a device, and a run reads its data again when it "
            "is resumed or evaluated. Write them to a file."
        )


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def read_bytes(path: Path) -> bytes:
    """Return the content of a file, unpacked if it is gzipped.

    Raises:
        DataError: If it cannot be read.
    """
    check_regular(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"expected to read the data in {path}; {_why(error)}") from error
    if not content.startswith(GZIP):
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"expected {path} to be a whole gzip file; {error}") from error


def read_text(path: Path, named: str | None = None) -> tuple[str, list[str]]:
    """Return the text of a file, and a note if it is not in UTF-8, or not in the encoding that the user names.

    Args:
        path: The file.
        named: The encoding of text that has no byte order mark and is not UTF-8; None for no other.

    Raises:
        DataError: If it cannot be read, or is no text.
    """
    content = read_bytes(path)
    for begin, what in OTHERS.items():
        if content.startswith(begin):
            raise DataError(f"expected {path} to be a table as text; it is {what}.")
    encoding = _encoding_of(content, named)
    text = _decoded(path, content, encoding, is_named=encoding == named)
    nul = text.find("\0")
    if nul >= 0:
        wide = "utf-16-le" if nul % 2 else "utf-16-be"
        how = f"It looks like UTF-16: {_other_encoding(path, wide)}"
        raise DataError(
            f"expected {path} to be text; line {line_at(text[:nul])} has a NUL byte. "
            + (how if text.count("\0") > len(text) // 4 else "It is damaged, or no text.")
        )
    return text, _notes(path, encoding, named)


def _notes(path: Path, encoding: str, named: str | None) -> list[str]:
    if encoding[:5] != "utf-8":
        return [f"{path} is read as {encoding.upper()}"]
    if named is None or codecs.lookup(named).name[:5] == "utf-8":
        return []
    return [f"{path} is read as UTF-8, which it is in, not as {named.upper()}, which is named"]


@dataclass(frozen=True)
class OpenText:
    """A file that is read bit by bit.

    Attributes:
        file: Its text, with line ends as they are.
        notes: As those of ``read_text``.
        share: Returns how much of it is read, within 0 … 1.
    """

    file: TextIO
    notes: list[str]
    share: Callable[[], float]


@contextmanager
def open_text(path: Path, named: str | None = None) -> Iterator[OpenText]:
    """Open a text to be read bit by bit, after one pass that checks that all of it can be decoded.

    Args:
        path: The file.
        named: See ``read_text``.

    Raises:
        DataError: If it cannot be read, or is no text.
    """
    check_regular(path)
    try:
        encoding = _streamed_encoding(path, named)
    except (OSError, EOFError, zlib.error, UnicodeError, _NoTextError) as error:
        read_text(path, named)  # says what is wrong
        raise DataError(f"expected to read the data in {path}; {_why(error)}") from error
    size = max(1, path.stat().st_size)
    with path.open("rb") as raw, _unpacked(raw) as content:
        file = io.TextIOWrapper(content, encoding=encoding, newline="")
        yield OpenText(file, _notes(path, encoding, named), lambda: min(1.0, raw.tell() / size))


class _NoTextError(Exception):
    """The file is no text."""


def _unpacked(raw: BinaryIO) -> BinaryIO:
    begin = raw.read(len(GZIP))
    raw.seek(0)
    return cast("BinaryIO", gzip.GzipFile(fileobj=raw)) if begin == GZIP else raw


def _streamed_encoding(path: Path, named: str | None) -> str:
    """Return the encoding as ``_encoding_of`` does, in memory that does not grow with the file."""
    with path.open("rb") as raw, _unpacked(raw) as content:
        begin = content.read(_BEGIN)
    if any(begin.startswith(other) for other in OTHERS):
        raise _NoTextError
    mark = next((found for mark, found in MARKS.items() if begin.startswith(mark)), None)
    encoding = mark or named or "utf-8"
    if mark is None and named is not None and not _decodes(path, "ascii") and _decodes(path, "utf-8"):
        encoding = "utf-8"
    if not _decodes(path, encoding):
        raise _NoTextError
    return encoding


def _decodes(path: Path, encoding: str) -> bool:
    """Whether a file is text of an encoding, without NUL characters."""
    with path.open("rb") as raw, _unpacked(raw) as content:
        decoder = codecs.getincrementaldecoder(encoding)()
        try:
            while block := content.read(_BLOCK):
                if "\0" in decoder.decode(block):
                    return False
            return "\0" not in decoder.decode(b"", final=True)
        except UnicodeError:
            return False


def _encoding_of(content: bytes, named: str | None) -> str:
    """Return the encoding that a mark tells, else UTF-8 where characters beyond ASCII are in it, else the named one."""
    mark = next((found for mark, found in MARKS.items() if content.startswith(mark)), None)
    if mark is not None or named is None:
        return mark or "utf-8"
    if content.isascii():
        return named
    try:
        content.decode()
    except UnicodeDecodeError:
        return named
    return "utf-8"


def _decoded(path: Path, content: bytes, encoding: str, is_named: bool) -> str:
    try:
        return content.decode(encoding)
    except UnicodeError as error:
        at = getattr(error, "start", 0)
        line = line_at(content[:at].decode(encoding, "replace"))
        how = "Save it as UTF-8."
        if is_named:
            how = "Set data.encoding (or --encoding) to the encoding that it has."
        elif encoding == "utf-8":
            how = f"If it is of Excel or Windows in a Western language, {_other_encoding(path, 'cp1252')}"
        raise DataError(
            f"expected {path} to be {'UTF-8 text' if encoding[:5] == 'utf-8' else encoding.upper()}; byte "
            f"{at}, on line {line}, is not. {how}"
        ) from error


def _other_encoding(path: Path, encoding: str) -> str:
    """Return what to do with a file of an encoding, to be added to a message."""
    new = shlex.quote(str(path.with_name(f"{name_of(path)}-utf8{suffix_of(path)}")))
    old, convert = shlex.quote(str(path)), f"iconv -f {encoding} -t utf8"
    command = f"gunzip -c {old} | {convert} > {new}" if path.suffix.lower() == ".gz" else f"{convert} {old} > {new}"
    commands = f"init, client, evaluate, predict: --encoding {encoding}"
    return f"set data.encoding={encoding} ({commands}), or convert it: {command}"


def line_at(before: str) -> int:
    """Return the number of the line at the end of a text, from 1; line ends are those of Unix, Windows and old Macs."""
    return 1 + before.count("\n") + before.count("\r") - before.count("\r\n")
