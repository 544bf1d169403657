"""Write files completely or not at all, even if the process or the machine stops."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedhello.errors import RunFolderError


def write_whole(file: Path, content: str | bytes) -> None:
    """Write a file completely or not at all: temporary file, fsync, rename, fsync of the folder.

    Raises:
        RunFolderError: If it cannot be written; an earlier file does not change.
    """
    temporary = file.with_name(f".{file.name}.tmp")
    with writing(file):
        try:
            with temporary.open("wb") as opened:
                opened.write(content.encode() if isinstance(content, str) else content)
                opened.flush()
                os.fsync(opened.fileno())
            temporary.replace(file)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(file.parent)


def append_line(file: Path, line: str) -> None:
    """Append a line to a file and wait until it is on disk; a killed process may leave an incomplete last line.

    Raises:
        RunFolderError: If it cannot be written.
    """
    with writing(file), file.open("a", encoding="utf-8") as opened:
        opened.write(line + "\n")
        opened.flush()
        os.fsync(opened.fileno())


def whole_lines(file: Path) -> list[str]:
    """Return the complete lines of a file, without an incomplete last line; empty if the file does not exist.

    Raises:
        RunFolderError: If it cannot be read, or is not UTF-8.
    """
    if not file.exists():
        return []
    try:
        *lines, _ = file.read_bytes().split(b"\n")
        return [line.decode() for line in lines]
    except (OSError, UnicodeDecodeError) as error:
        raise RunFolderError(f"expected lines of text in {file}; the file cannot be read: {error}") from error


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def writing(what: Path) -> Iterator[None]:
    """Turn an ``OSError`` into a ``RunFolderError``.

    Raises:
        RunFolderError: Instead of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise RunFolderError(f"expected to write {what}; {error.strerror or error}") from error
