"""Files that are there whole or not at all, whenever the process or the machine stops."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedhello.errors import RunFolderError


def write_whole(file: Path, content: str | bytes) -> None:
    """Write a file so that it is there whole or not at all: temporary file, fsync, rename, fsync of the folder.

    Raises:
        RunFolderError: If it cannot be written; what was there before is there still.
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
    """Add a line to a file and wait until the disk has it; a process that is killed meanwhile leaves a torn last line.

    Raises:
        RunFolderError: If it cannot be written.
    """
    with writing(file), file.open("a", encoding="utf-8") as opened:
        opened.write(line + "\n")
        opened.flush()
        os.fsync(opened.fileno())


def whole_lines(file: Path) -> list[str]:
    """Return the lines of a file, none if there is no file, without a torn last one, which does not end as lines do.

    Raises:
        RunFolderError: If it cannot be read, or is not UTF-8.
    """
    if not file.exists():
        return []
    try:
        *lines, _ = file.read_bytes().split(b"\n")
        return [line.decode() for line in lines]
    except (OSError, UnicodeDecodeError) as error:
        raise RunFolderError(f"expected lines of text in {file}; it cannot be read: {error}") from error


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the names in a folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def writing(what: Path) -> Iterator[None]:
    """Turn an error of the operating system into a sentence.

    Raises:
        RunFolderError: Instead of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise RunFolderError(f"expected to write {what}; {error.strerror or error}") from error
