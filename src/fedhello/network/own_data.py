"""The columns of a client's own data: named by the owner, or found by their names and values."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from fedhello.data.dataset import UNNAMED, Columns
from fedhello.data.inspect import Asked, guess
from fedhello.data.sources import open_source, training_table
from fedhello.data.tables import Source
from fedhello.errors import ConfigError, DataError

Role = Literal["text", "label", "image", "prompt", "response"]
"""What a column is for, if an owner names it."""

Named = Mapping[Role, str | tuple[str, ...]]
"""Role → the column, or two for pairs of texts."""


def own_source(name: str, named: Named, encoding: str | None = None) -> tuple[Source, Columns]:
    """Return a client's data set, and the columns to use, which depend on nothing but the data and the owner.

    Args:
        name: A file, a folder, an embedded data set or a hub id.
        named: The columns that the owner names.
        encoding: The one that the owner names; see ``open_source``.

    Raises:
        ConfigError: If several columns fit, or none; the message asks for the argument that decides.
        DataError: If the data set cannot be read.
    """
    source = open_source(name, encoding=encoding)
    if source.columns is not None and not named:
        return source, replace(source.columns, group=None)
    (table,) = training_table(source, None, [])[0].values()
    split = "train" if "train" in source.splits else next(iter(source.splits))
    # The table is in memory now; it is not read a second time.
    source = replace(source, splits={**source.splits, split: lambda: table}, columns=None)
    asked = _asked(named)
    missing = [column for column in (*asked.text, asked.label, asked.image) if column and column not in table.columns]
    if missing:
        raise DataError(
            f"expected a column {missing[0]!r} in {table.name}; it has {', '.join(map(repr, table.columns))}"
        )
    try:
        return source, guess(table, asked)
    except ConfigError:
        # A few samples, or those of one class, do not show what a column is; the usual names do.
        texts, label = asked.text or (UNNAMED.text,), asked.label or UNNAMED.label
        if asked.image or asked.prompt or asked.response or not {*texts, label} <= {*table.columns}:
            raise
        return source, Columns(text=str(texts[0]) if len(texts) == 1 else (str(texts[0]), str(texts[1])), label=label)


def _asked(named: Named) -> Asked:
    text = named.get("text", ())
    texts = (text,) if isinstance(text, str) else tuple(text)
    if len(texts) > 2:
        raise ConfigError(f"expected one column of texts, or two for pairs of texts; found {len(texts)}")
    one = {role: _one(role, column) for role, column in named.items() if role != "text"}
    return Asked(texts, one.get("label"), one.get("image"), one.get("prompt"), one.get("response"))


def _one(role: str, column: str | tuple[str, ...]) -> str:
    if not isinstance(column, str):
        raise ConfigError(f"expected one column as {role}; found {len(column)}")
    return column
