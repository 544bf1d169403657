"""Backups of a run's folder, made while the run goes on, and their restoration.

A backup is one tar file without compression: ``manifest.json`` first, with the size and the digest of every other file.
Of a run that goes on it holds the newest checkpoint and the files that belong to it, of one that has ended also its
results. It holds no lock and no status, no data of clients, and no keys, which a run's folder never has.
"""

import hashlib
import importlib.metadata
import io
import json
import os
import re
import shutil
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedhello.errors import RunFolderError
from fedhello.runs.checkpoint import Checkpoints, DamagedError, decode
from fedhello.runs.files import check_path, check_room, sync_folder, whole_lines, writing
from fedhello.runs.folder import ENDING, RunFolder, check_free

MANIFEST = "manifest.json"

SMALL = ("config.yaml", "clients.json", "clients.npz", "data.json", "plan.json")
"""Files that are there before the first round, each replaced whole or not at all."""

RESULTS = (*ENDING, "confusion.json")
"""Files and folders of a run that has ended."""

TRIES, PAUSE = 10, 0.5
"""How often a folder is read anew that has changed while it was read, and the seconds in between."""

LONGEST_MANIFEST = 2**26

NAME = r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}(/[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}){0,3}$"
"""Names of files in a backup: relative, and no part begins with a dot."""


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Backup(BaseModel):
    """What a backup holds.

    Attributes:
        format: Version of its format.
        fedhello: The version of fedhello that made it.
        run: Name of the run's folder.
        round: Number of finished rounds.
        ended: Whether the run had ended.
        files: Name of a file → its size and SHA-256.

    Example:
        >>> _ = fh.run("my.yaml", {"run.name": "mine"})
        >>> made = fh.backup("runs/mine", "mine.tar")
        >>> made.run, made.ended, "config.yaml" in made.files
        ('mine', True, True)
    """

    model_config = ConfigDict(frozen=True)

    format: Literal[1] = 1
    fedhello: str
    run: str
    round: int
    ended: bool
    files: dict[Annotated[str, Field(pattern=NAME)], _Entry]


class _ChangedError(Exception):
    """The folder changed while it was read."""


def backup(run: str | Path, out: str | Path) -> Backup:
    """Write a backup of a run's folder, whole or not at all, also while the run goes on.

    Args:
        run: The run's folder.
        out: The tar file to write.

    Returns:
        What it holds.

    Raises:
        RunFolderError: If this is not the folder of a run, it has no checkpoint yet, all are damaged, or the file
            exists or cannot be written.

    Example:
        >>> _ = fh.run("my.yaml", {"run.name": "mine"})
        >>> fh.backup("runs/mine", "mine.tar").round
        2
    """
    folder, file = RunFolder(Path(run)), Path(out)
    folder.check()
    check_path(file)
    if file.exists():
        raise RunFolderError(f"expected a new file for the backup; {file} exists. Give another name, or remove it.")
    contents, round_ = _consistent(folder)
    entries = {
        name: _Entry(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
        for name, content in contents.items()
    }
    ended = "summary.json" in contents
    version = importlib.metadata.version("fedhello")
    made = Backup(fedhello=version, run=folder.path.name, round=round_, ended=ended, files=entries)
    check_room(file.absolute().parent, sum(map(len, contents.values())))
    with (
        writing(file),
        _appearing(file) as opened,
        tarfile.open(fileobj=opened, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name, content in {MANIFEST: made.model_dump_json(indent=1).encode(), **contents}.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o644
            tar.addfile(member, io.BytesIO(content))
    return made


@contextmanager
def _appearing(file: Path) -> Iterator[io.BufferedWriter]:
    """Yield a new file to write, which has its name only once all of it is on disk."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("xb") as opened:
            yield opened
            opened.flush()
            os.fsync(opened.fileno())
        temporary.rename(file)
        sync_folder(file.absolute().parent)
    finally:
        temporary.unlink(missing_ok=True)


def _consistent(folder: RunFolder) -> tuple[dict[str, bytes], int]:
    """Return files that belong together, by name, and the number of finished rounds.

    Raises:
        RunFolderError: If there is no whole checkpoint, or the folder changes all the time.
    """
    for _ in range(TRIES):
        try:
            return _read(folder)
        except (_ChangedError, FileNotFoundError):  # resumed or written at this moment: once more
            time.sleep(PAUSE)
    raise RunFolderError(
        f"expected {folder.path} to stay the same for as long as reading it takes; it changed {TRIES} times. Try again."
    )


def _read(folder: RunFolder) -> tuple[dict[str, bytes], int]:
    before = _marks(folder)
    small = {name: (folder.path / name).read_bytes() for name in SMALL if (folder.path / name).is_file()}
    ended = (folder.path / "summary.json").is_file()
    results = dict(_results(folder.path)) if ended else {}
    name, content, lines, round_ = _newest(folder)
    # Lines are appended before the checkpoint that they belong to is there, so whoever has read it finds them.
    found = whole_lines(folder.path / "rounds.jsonl")[:lines]
    log = whole_lines(folder.path / "log.txt")
    if len(found) < lines or _marks(folder) != before:
        raise _ChangedError
    texts = {"rounds.jsonl": found, "log.txt": log}
    written = {file: "".join(f"{line}\n" for line in rows).encode() for file, rows in texts.items()}
    return small | written | {f"checkpoints/{name}": content} | results, round_


def _marks(folder: RunFolder) -> dict[str, tuple[int, int]]:
    """Return what changes when a run is resumed or ends, but not from round to round."""
    found = {}
    for name in (*SMALL, *ENDING):
        file = folder.path / name
        if file.exists():
            stat = file.stat()
            found[name] = stat.st_ino, stat.st_mtime_ns
    return found


def _newest(folder: RunFolder) -> tuple[str, bytes, int, int]:
    """Return the newest whole checkpoint: name, content, lines of ``rounds.jsonl``, and finished rounds."""
    files = Checkpoints(folder.checkpoints).files()
    for file in files:
        content = file.read_bytes()
        try:
            found = decode(content)
        except DamagedError:
            continue
        return file.name, content, found.lines, found.state.round
    what = f"all {len(files)} are damaged" if files else "there is none yet. Wait for the start of the first round."
    raise RunFolderError(f"expected a whole checkpoint in {folder.checkpoints}; {what}")


def _results(path: Path) -> Iterator[tuple[str, bytes]]:
    for name in RESULTS:
        place = path / name
        files = sorted(file for file in place.rglob("*") if file.is_file()) if place.is_dir() else [place]
        for file in files:
            if file.is_file() and not file.name.startswith("."):
                yield file.relative_to(path).as_posix(), file.read_bytes()


def restore(archive: str | Path, folder: str | Path) -> Backup:
    """Restore a backup as the folder of a run, whole or not at all.

    Args:
        archive: The backup.
        folder: The path of a new folder.

    Returns:
        What it held.

    Raises:
        RunFolderError: If the archive is no backup, or damaged, or the folder exists or cannot be written.

    Example:
        >>> _ = fh.run("my.yaml", {"run.name": "mine"})
        >>> _ = fh.backup("runs/mine", "mine.tar")
        >>> _ = fh.restore("mine.tar", "runs/again")
        >>> fh.load_run("runs/again").summary.rounds
        2
    """
    target, file = RunFolder(Path(folder)), Path(archive)
    check_free(target)
    made = target.path.with_name(f".{target.path.name}.{os.getpid()}.tmp")
    try:
        with tarfile.open(file, mode="r:") as tar:
            found = _manifest(tar, file)
            check_room(target.path, sum(entry.bytes for entry in found.files.values()))
            with writing(target.path):
                made.mkdir(parents=True)
            _extract(tar, found, made, file)
        with writing(target.path):
            made.rename(target.path)
            sync_folder(target.path.absolute().parent)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise _no_backup(file, f"it cannot be read: {error}") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return found


def _no_backup(file: Path, why: str) -> RunFolderError:
    return RunFolderError(f"expected a backup made by fedhello backup in {file}; {why}. Nothing was restored.")


def _manifest(tar: tarfile.TarFile, file: Path) -> Backup:
    member = tar.next()
    if member is None or member.name != MANIFEST or not member.isreg() or member.size > LONGEST_MANIFEST:
        raise _no_backup(file, f"it does not begin with {MANIFEST}")
    content = tar.extractfile(member)
    assert content is not None  # of a regular file
    text = content.read()
    try:
        version = json.loads(text).get("format")
        if version != 1:
            raise _no_backup(file, f"it is of format {version!r}, and this version of fedhello reads 1")
        return Backup.model_validate_json(text)
    except (ValidationError, ValueError, AttributeError) as error:
        raise _no_backup(file, f"its {MANIFEST} says {' '.join(str(error).split())[:200]}") from error


def _extract(tar: tarfile.TarFile, found: Backup, folder: Path, file: Path) -> None:
    """Write every file of a backup, which must be exactly those that its manifest names, to a new folder."""
    missing = dict(found.files)
    safe = getattr(tarfile, "data_filter", None)  # Python 3.11.0 to 3.11.3 have none; the manifest's names are safe
    while (member := tar.next()) is not None:
        entry = missing.pop(member.name, None)
        if entry is None or not member.isreg() or not re.fullmatch(NAME, member.name):
            raise _no_backup(file, f"it holds {member.name!r}, which its manifest does not name as a file")
        if member.issparse() or member.size != entry.bytes:  # a few bytes could stand for as many as a disk holds
            raise _no_backup(file, f"{member.name} is not of the size that its manifest says")
        if safe is not None:
            safe(member, str(folder))
        content = tar.extractfile(member)
        assert content is not None  # of a regular file
        place = folder / member.name
        with writing(place):
            place.parent.mkdir(parents=True, exist_ok=True)
        _copy(content, place, entry, file)
    if missing:
        raise _no_backup(file, f"{', '.join(sorted(missing)[:3])} is missing")


def _copy(content: IO[bytes], place: Path, entry: _Entry, file: Path) -> None:
    digest, size = hashlib.sha256(), 0
    with writing(place), place.open("xb") as opened:
        while chunk := content.read(2**20):
            digest.update(chunk)
            size += len(chunk)
            opened.write(chunk)
        opened.flush()
        os.fsync(opened.fileno())
    if (size, digest.hexdigest()) != (entry.bytes, entry.sha256):
        raise _no_backup(file, f"{place.name} is not what its digest says")
