"""Format quantities, suggestions and nested values for people; tell what a path leads to."""

import csv
import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from errno import ENAMETOOLONG
from pathlib import Path
from stat import S_ISDIR
from typing import Any, Literal, TextIO

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


def human_seconds(seconds: float | None) -> str:
    """Write a duration for people; ``–`` for None.

    Example:
        >>> human_seconds(42.4), human_seconds(150), human_seconds(7200), human_seconds(200_000)
        ('42 s', '2.5 min', '2 h', '2.3 days')
    """
    if seconds is None:
        return "–"
    if seconds < 100:
        return f"{seconds:.0f} s"
    for unit, length, most in (("min", 60, 100), ("h", 3600, 48)):
        if seconds < most * length:
            return f"{_short(seconds / length)} {unit}"
    return f"{_short(seconds / 86400)} days"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


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
    if budget.cache is not None:
        parts.append(f"{human_bytes(budget.cache)} of cache")
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


OTHER_LETTERS = 3
"""A suggested word differs in at most one of so many letters, but in one in any case."""


def close_to(word: str, known: Iterable[str], alike: float = ALIKE) -> str | None:
    """Return the known word that is most like another one, None if none is so much alike and few letters apart."""
    by_letters = {one.lower(): one for one in known}
    for close in difflib.get_close_matches(word.lower(), by_letters, n=3, cutoff=alike):
        if slips(word.lower(), close) <= max(1, max(len(word), len(close)) // OTHER_LETTERS):
            return by_letters[close]
    return None


def slips(one: str, other: str) -> int:
    """Return how many letters must be added, left out, replaced or swapped with the next to make one word another.

    Example:
        >>> slips("rnak", "rank"), slips("early_stopping", "over_selection")
        (1, 12)
    """
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one):
        earlier, before, row = before, row, [i + 1]
        for j, right in enumerate(other):
            least = min(before[j] + (letter != right), before[j + 1] + 1, row[j] + 1)
            if i and j and letter == other[j - 1] and one[i - 1] == right:
                least = min(least, earlier[j - 1] + 1)
            row.append(least)
    return row[-1]


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the end of a sentence: a full stop and, if a known word is similar, a suggestion."""
    close = close_to(word, known)
    return "." if close is None else f". Did you mean {close}?"


_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # the last four are their wide forms


def spreadsheet_safe(value: Any) -> Any:
    """Return a cell for CSV that no spreadsheet takes for a formula: a text that begins like one gets an apostrophe.

    Numbers stay as they are, negative ones among them.

    Example:
        >>> spreadsheet_safe("=1+1"), spreadsheet_safe("a"), spreadsheet_safe(-0.5)
        ("'=1+1", 'a', -0.5)
    """
    if not isinstance(value, str):
        return value
    line = value.replace("\r", " ")  # which Python does not put into quotes, and spreadsheets take for the row's end
    risky = line.lstrip().startswith(_FORMULA) or line.startswith(("\t", "\n"))
    return f"'{line}" if risky else line


def write_csv(
    file: TextIO,
    columns: Sequence[str],
    rows: Iterable[Mapping[str, Any]],
    header: bool = True,
    end: str = "\n",
    separator: str = ",",
    safe: Callable[[Any], Any] = spreadsheet_safe,
) -> None:
    """Write rows as CSV, with cells and names of columns that are safe in a spreadsheet.

    Args:
        file: Where to write.
        columns: The keys of the rows, in order.
        rows: Column → value; missing ones and None are empty.
        header: Whether to write the names of the columns first.
        end: Of each line.
        separator: Between cells.
        safe: Makes a cell safe.
    """
    writer = csv.writer(file, delimiter=separator, lineterminator=end)
    if header:
        writer.writerow(map(spreadsheet_safe, columns))
    writer.writerows([safe(row.get(column)) for column in columns] for row in rows)


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


def kind_of_path(name: str) -> Literal["folder", "file", "nothing", "no path"]:
    """Return what a path leads to; ``no path`` if no file can have that name: too long, or with NUL.

    Example:
        >>> kind_of_path("."), kind_of_path("a" * 300)
        ('folder', 'no path')
    """
    try:
        mode = Path(name).stat().st_mode
    except ValueError:
        return "no path"
    except OSError as error:
        return "no path" if error.errno == ENAMETOOLONG else "nothing"
    return "folder" if S_ISDIR(mode) else "file"


def client_words(client: int, name: str | None = None) -> str:
    """Write a client for people: its id, and its name if it has one.

    Example:
        >>> client_words(0), client_words(0, "hospital-a")
        ('client 0', 'client 0 (hospital-a)')
    """
    return f"client {client}" + (f" ({name})" if name else "")


def first_few(ids: Sequence[int], most: int = 20) -> str:
    """Return some numbers, separated by commas, and how many more there are.

    Args:
        ids: The numbers.
        most: So many are named.

    Example:
        >>> first_few([3, 5, 8, 9], most=2)
        '3, 5 and 2 more'
    """
    named = ", ".join(map(str, ids[:most]))
    return named if len(ids) <= most else f"{named} and {len(ids) - most:,} more"
