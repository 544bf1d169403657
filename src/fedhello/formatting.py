"""Format quantities, suggestions and nested values for people."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from fedhello.types import Budget, Federation


def human_flops(count: float | None) -> str:
    """Write a number of FLOPs for people; ``–`` for None.

    Example:
        >>> human_flops(1.234e12)
        '1.23 TFLOP'
    """
    if count is None:
        return "–"
    for unit in ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP"):
        if abs(count) < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} PFLOP"


def human_bytes(count: float | None) -> str:
    """Write a number of bytes for people, in powers of 1000; ``–`` for None.

    Example:
        >>> human_bytes(1_234_567)
        '1.23 MB'
    """
    if count is None:
        return "–"
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def budget_words(budget: Budget) -> str:
    """Write a budget for people.

    Example:
        >>> budget_words(Budget(memory=300_000_000, seconds=5.0, speed=4e10))
        '300 MB, 5 s at 40 GFLOP/s'
    """
    parts = []
    if budget.blocks is not None:
        parts.append(f"{budget.blocks} block" + "s" * (budget.blocks != 1))
    if budget.rank is not None:
        parts.append(f"rank {budget.rank}")
    if budget.memory is not None:
        parts.append(human_bytes(budget.memory))
    if budget.seconds is not None:
        speed = "" if budget.speed is None else f" at {budget.speed / 1e9:.3g} GFLOP/s"
        parts.append(f"{budget.seconds:g} s{speed}")
    if budget.upload is not None:
        parts.append(f"{human_bytes(budget.upload)} up")
    return ", ".join(parts)


def tier_words(federation: Federation) -> str:
    """Write the tiers of a federation for people.

    Example:
        >>> tier_words(Federation((), (Budget(2), Budget(4)), num_blocks=6, clients_per_round=1, seed=0))
        '2/4 of 6 blocks'
    """
    if all(tier.only_counts and tier.rank is None for tier in federation.tiers):
        return "/".join(str(tier.blocks) for tier in federation.tiers) + f" of {federation.num_blocks} blocks"
    return " | ".join(budget_words(tier) for tier in federation.tiers) + f" for {federation.num_blocks} blocks"


ALIKE = 0.66
"""How alike a known word must be to be suggested, by ``difflib``: a word with a typing error is, half of it is not."""


def close_to(word: str, known: Iterable[str], alike: float = ALIKE) -> str | None:
    """Return the known word that is most like another one, None if none is so much alike."""
    by_letters = {one.lower(): one for one in known}
    close = difflib.get_close_matches(word.lower(), by_letters, n=1, cutoff=alike)
    return by_letters[close[0]] if close else None


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the end of a sentence: a full stop and, if a known word is similar, a suggestion."""
    close = close_to(word, known)
    return "." if close is None else f". Did you mean {close}?"


def flatten(value: Any, separator: str = "/", prefix: str = "") -> dict[str, Any]:
    """Return every number, text, truth value and None in nested mappings and lists, by its path.

    Example:
        >>> flatten({"tiers": [{"share": 0.5}], "seed": 0})
        {'tiers/0/share': 0.5, 'seed': 0}
    """
    if isinstance(value, Mapping):
        items: Iterator[tuple[Any, Any]] = iter(value.items())
    elif isinstance(value, (list, tuple)):
        items = iter(enumerate(value))
    else:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in items:
        flat |= flatten(inner, separator, f"{prefix}{separator}{key}" if prefix else str(key))
    return flat
