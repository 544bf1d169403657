"""A cache of tokens on disk, keyed by the tokenised content.

Tokens of more than ``ragged.IN_MEMORY`` bytes are not read but mapped: the system reads what a batch needs, and may
forget it again, so that data sets may be larger than memory.
"""

import hashlib
import os
import struct
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any
from zipfile import BadZipFile, ZipFile

import numpy as np

from fedhello.data.batches import Examples
from fedhello.data.ragged import IN_MEMORY, Ragged
from fedhello.notes import logger

VARIABLE = "FEDHELLO_CACHE"
"""The environment variable that names the folder; an empty value switches the cache off."""

LEAST = 5000
"""The least number of samples for which tokens are cached."""

ROWS = ("tokens", "segments")
"""The arrays of the file that have a number per token."""

FORMAT = "3"
"""Version of the files and of the tokenisation; files of other versions are not used."""


def folder() -> Path | None:
    """Return the folder of the cache; None if it is switched off."""
    named = os.environ.get(VARIABLE)
    if named is None:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fedhello"
    return Path(named) if named else None


def key_of(tokenizer: Any, texts: Iterable[str | tuple[str, str]], *settings: object) -> str | None:
    """Return the cache key of tokenised texts; None for a tokenizer that cannot be serialised.

    It is the SHA-256 of the serialised tokenizer, its template, its special tokens, what it returns and where
    it cuts, the settings and the texts.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    digest = hashlib.sha256()
    described = (FORMAT, backend.to_str(), tokenizer.chat_template, tokenizer.special_tokens_map)
    returned = (tokenizer.model_input_names, tokenizer.truncation_side)
    for part in (*described, *returned, *settings, *texts):
        data = repr(part).encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def load(key: str | None, labels: np.ndarray) -> tuple[Examples, int] | None:
    """Return the cached samples of a key, with labels, and how many were cut; None if they are not cached."""
    path = _path(key)
    if path is None or not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as kept:
            found = {name: _mapped(path, name) if name in ROWS else kept[name] for name in kept.files}
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        logger.warning("%s cannot be read (%s); its texts are tokenised again", path, error)
        return None
    rows = {name: Ragged.joined(found[name], found["lengths"]) for name in ROWS if name in found}
    examples = Examples(rows["tokens"], labels, int(found["pad"]), rows.get("segments"), found.get("answers"))
    return examples, int(found["cut"])


def _mapped(path: Path, name: str) -> np.ndarray:
    """Return an array of the file, in memory if it is small; its checksum is right.

    Raises:
        ValueError, OSError, BadZipFile: If it cannot be read.
    """
    with ZipFile(path) as archive:
        info = archive.getinfo(f"{name}.npy")
        with archive.open(info) as file:
            if info.file_size <= IN_MEMORY or info.compress_type:
                return np.asarray(np.lib.format.read_array(file, allow_pickle=False), dtype=np.int32)
            np.lib.format.read_magic(file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            begin = file.tell()
            while file.read(2**20):  # reads to the end, where the checksum is compared
                pass
    with path.open("rb") as raw:
        raw.seek(info.header_offset + 26)
        name_length, extra = struct.unpack("<HH", raw.read(4))
    offset = info.header_offset + 30 + name_length + extra + begin
    return np.memmap(path, dtype, "r", offset, shape)


def spill() -> IO[bytes]:
    """Open a file for tokens that are too many for memory; it is gone once it is closed."""
    where = folder()
    try:
        if where is not None:
            (where / "tokens").mkdir(parents=True, exist_ok=True)
            return tempfile.TemporaryFile(dir=where / "tokens")
    except OSError as error:
        logger.warning("tokens are kept in %s, since %s cannot be written (%s)", tempfile.gettempdir(), where, error)
    return tempfile.TemporaryFile()


def store(key: str | None, examples: Examples, cut: int) -> None:
    """Cache samples under a key; the file appears completely or not at all, and a failure to write it is logged."""
    path = _path(key)
    if path is None or len(examples) < LEAST:
        return
    arrays: dict[str, Any] = {"lengths": examples.lengths(), "cut": np.asarray(cut), "pad": np.asarray(examples.pad)}
    arrays["tokens"] = examples.tokens.flat()
    if examples.segments is not None:
        arrays["segments"] = examples.segments.flat()
    if examples.answers is not None:
        arrays["answers"] = examples.answers
    write(path, lambda file: np.savez(file, **arrays), "tokens")


def write(path: Path, content: Callable[[IO[bytes]], object], what: str) -> None:
    """Write a file of the cache; it appears completely or not at all, and a failure is logged.

    Args:
        path: The file.
        content: Writes to it; it is opened as binary.
        what: What it holds, for the log.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=path.suffix, delete=False) as file:
            temporary = Path(file.name)
            content(file)
        temporary.replace(path)
    except OSError as error:
        logger.warning("%s are not cached in %s (%s)", what, path.parent, error.strerror or error)
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()


def _path(key: str | None) -> Path | None:
    where = folder()
    return None if key is None or where is None else where / "tokens" / f"{key}.npz"
