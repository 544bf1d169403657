"""What was tokenised once is not tokenised again: tokens on disk, found by the content that they were made from."""

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
from fedhello.notes import logger

VARIABLE = "FEDHELLO_CACHE"
"""The environment variable that names the folder; set but empty, nothing is kept."""

LEAST = 5000
"""Samples from which on keeping them pays."""

FORMAT = "2"
"""Of the files, and of what tokenising means; another one finds nothing of before."""


def folder() -> Path | None:
    """Return where tokens are kept, or None if they are not."""
    named = os.environ.get(VARIABLE)
    if named is None:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fedhello"
    return Path(named) if named else None


def key_of(tokenizer: Any, texts: Iterable[str | tuple[str, str]], *settings: object) -> str | None:
    """Return the name for what a tokenizer makes of texts; None of a tokenizer that does not tell what it does.

    It is the SHA-256 of the tokenizer's own description, its template, its special tokens, what it returns and where
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
    """Return the samples kept under a name, with labels, and how many were cut; None if there are none."""
    path = _path(key)
    if path is None or not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as kept:
            found = {name: kept[name] for name in kept.files}
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        logger.warning("%s cannot be read (%s); its texts are tokenised again", path, error)
        return None
    bounds = np.cumsum(found["lengths"])[:-1]
    ragged = {name: tuple(np.split(found[name], bounds)) for name in ("tokens", "segments") if name in found}
    examples = Examples(ragged["tokens"], labels, int(found["pad"]), ragged.get("segments"), found.get("answers"))
    return examples, int(found["cut"])


def store(key: str | None, examples: Examples, cut: int) -> None:
    """Store samples under a name; the file appears whole or not at all, and a failure to write it is logged."""
    path = _path(key)
    if path is None or len(examples) < LEAST:
        return
    arrays: dict[str, Any] = {"lengths": examples.lengths(), "cut": np.asarray(cut), "pad": np.asarray(examples.pad)}
    arrays["tokens"] = np.concatenate(examples.tokens)
    if examples.segments is not None:
        arrays["segments"] = np.concatenate(examples.segments)
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
        logger.warning("tokens are not kept in %s (%s)", path.parent, error.strerror or error)
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()


def _path(key: str | None) -> Path | None:
    where = folder()
    return None if key is None or where is None else where / "tokens" / f"{key}.npz"
