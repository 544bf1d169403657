"""Write files completely or not at all, even if the process or the machine stops."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedhello.errors import RunFolderError
from fedhello.formatting import human_bytes

LONGEST_NAME = 255 - len(os.fsencode("..4194304.tmp"))
"""The most bytes of a file's name, which leave room for what is put around it while it is written."""

LONGEST_PATH = 4096 - 256
"""The most bytes of a path, which leave room for the files of a folder."""


def check_path(path: Path) -> None:
    """Check early that a file or folder can have this path.

    Raises:
        RunFolderError: If a name in it, or all of it, is too long, or holds a NUL or half a character.
    """
    said = f"{str(path)!r:.80}"
    try:
        encoded = str(path.absolute()).encode()  # as os.fsencode, but what is no UTF-8 cannot be written in a page
    except UnicodeEncodeError as error:
        raise RunFolderError(
            f"expected a path in UTF-8; found {said}, which has half a character. Rename it."
        ) from error
    if b"\0" in encoded:
        raise RunFolderError(f"expected a path without NUL characters; found {said}. Rename it.")
    longest = max(map(len, encoded.split(b"/")))
    if longest > LONGEST_NAME or len(encoded) > LONGEST_PATH:
        what, most, found = (
            ("names", LONGEST_NAME, longest) if longest > LONGEST_NAME else ("a path", LONGEST_PATH, len(encoded))
        )
        raise RunFolderError(f"expected {what} of at most {most} bytes; {said} has {found}. Choose a shorter one.")


def check_room(folder: Path, needed: int) -> None:
    """Check early that there is room for what will be written.

    Args:
        folder: The folder, which need not exist.
        needed: Bytes.

    Raises:
        RunFolderError: If there is less.
    """
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    with writing(folder):
        free = shutil.disk_usage(there).free
    if free < needed:
        raise RunFolderError(
            f"expected {human_bytes(needed)} of room for {folder}; {human_bytes(free)} are free. Make room, or set "
            "another run.out."
        )


def write_whole(file: Path, content: str | bytes) -> None:
    """Write a file completely or not at all: temporary file, fsync, rename, fsync of the folder.

    Raises:
        RunFolderError: If it cannot be written; an earlier file does not change.
    """
    check_path(file)
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
