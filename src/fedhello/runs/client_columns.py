"""The clients of a run as columns: ``clients.npz``, with one number per client and column, nothing pickled.

    client    ids, ascending              tier     index of the tier
    samples   training samples            names    names of the C classes
    labels    samples by class, (K, C)    format   of this file

Without ``labels`` and ``names`` it is not said which classes a client has. A hundred thousand clients take less than a
megabyte; as JSON they would take twenty.
"""

import io
import zlib
from collections.abc import Mapping, Sequence
from tokenize import TokenError
from typing import Any
from zipfile import BadZipFile

import numpy as np

from fedhello.errors import RunFolderError
from fedhello.session import ClientEntry

COLUMNS = 1
"""Format of ``clients.npz``."""

LEAST = 1000
"""With more clients than this, they are written as columns."""


def columns_of(entries: Sequence[ClientEntry]) -> bytes | None:
    """Return the clients as the content of ``clients.npz``; None for few, and for those that said more of themselves.

    Args:
        entries: The clients, in ascending id.
    """
    if len(entries) <= LEAST or any(entry.facts is not None for entry in entries):
        return None
    columns: dict[str, Any] = {
        "format": np.array(COLUMNS),
        "client": np.array([entry.client for entry in entries]),
        "tier": np.array([entry.tier for entry in entries]),
        "samples": np.array([entry.samples for entry in entries]),
    }
    if any(entry.labels for entry in entries):
        counts = [entry.labels for entry in entries if isinstance(entry.labels, Mapping)]
        names = list(counts[0]) if counts else []
        if len(counts) < len(entries) or any(list(of_client) != names for of_client in counts):
            return None
        columns["names"] = np.array(names)
        if columns["names"].tolist() != names:  # numpy drops NUL characters at a name's end
            return None
        columns["labels"] = np.array([list(of_client.values()) for of_client in counts])
    content = io.BytesIO()
    np.savez_compressed(content, **columns)
    return content.getvalue()


def entries_of(content: bytes, where: str) -> tuple[ClientEntry, ...]:
    """Return the clients in the content of ``clients.npz``, in ascending id.

    Args:
        content: The file.
        where: Its name, for messages.

    Raises:
        RunFolderError: If it holds no such columns, or a later version of fedhello wrote it in a newer format.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as found:
            written = int(found["format"])
            if written > COLUMNS:
                raise ValueError(
                    f"it holds clients of format {written}; this version of fedhello reads {COLUMNS} or earlier"
                )
            columns = [_whole(found[name]) for name in ("client", "tier", "samples")]
            names = [str(name) for name in found["names"]] if "names" in found else None
            labels = None if names is None else _whole(found["labels"])
    except (
        ValueError,
        KeyError,
        OSError,
        EOFError,
        TypeError,
        BadZipFile,
        zlib.error,
        SyntaxError,
        TokenError,
    ) as error:
        said = " ".join(str(error).split())[:200]
        raise RunFolderError(f"expected the columns of clients in {where}; {said}") from error
    shapes = {column.shape for column in columns}
    K = len(columns[0]) if columns[0].ndim == 1 else -1
    if shapes != {(K,)} or (names is not None and labels is not None and labels.shape != (K, len(names))):
        raise RunFolderError(f"expected the columns of clients in {where}; they are of different lengths")
    ids, tiers, samples = (column.tolist() for column in columns)
    if names is None or labels is None:
        return tuple(ClientEntry(*row, ()) for row in zip(ids, tiers, samples, strict=True))
    return tuple(
        ClientEntry(client, tier, of_client, dict(zip(names, counts, strict=True)))
        for client, tier, of_client, counts in zip(ids, tiers, samples, labels.tolist(), strict=True)
    )


def _whole(column: np.ndarray) -> np.ndarray:
    if column.dtype.kind not in "iu":
        raise ValueError(f"its numbers are of the type {column.dtype}")
    return column
