"""A cache of tokens on disk, keyed by the tokenised content."""

import hashlib
import os
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from fedhello.data.batches import Examples
from fedhello.data.ragged import Ragged
from fedhello.notes import logger

VARIABLE = "FEDHELLO_CACHE"
"""The environment variable that names the folder; an empty value switches the cache off."""

LEAST = 5000
"""The least number of samples for which tokens are cached."""

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
            found = {name: kept[name] for name in kept.files}
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        logger.warning("%s cannot be read (%s); its texts are tokenised again", path, error)
        return None
    ragged = {
        name: Ragged.joined(found[name].astype(np.int32), found["lengths"])
        for name in ("tokens", "segments")
        if name in found
    }
    examples = Examples(ragged["tokens"], labels, int(found["pad"]), ragged.get("segments"), found.get("answers"))
    return examples, int(found["cut"])


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
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".npz", delete=False) as file:
            temporary = Path(file.name)
            np.savez(file, **arrays)
        temporary.replace(path)
    except OSError as error:
        logger.warning("tokens are not cached in %s (%s)", path.parent, error.strerror or error)
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()


def _path(key: str | None) -> Path | None:
    where = folder()
    return None if key is None or where is None else where / "tokens" / f"{key}.npz"
