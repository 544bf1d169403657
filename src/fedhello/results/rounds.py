"""The rounds of a run, as a sequence of records and as a table."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, overload

from fedhello.errors import MissingExtraError
from fedhello.runs.loop import RoundRecord
from fedhello.runs.tracking import round_metrics

if TYPE_CHECKING:
    import pandas


class Rounds(Sequence[RoundRecord]):
    """The rounds of a run, in order, without failed attempts.

    Example:
        >>> found = fh.run("my.yaml").rounds
        >>> len(found), found[-1].report.round, found.to_dicts()[0]["round"]
        (2, 1, 1)
    """

    def __init__(self, records: Sequence[RoundRecord]) -> None:
        self._records = tuple(record for record in records if record.report.failed is None)

    @overload
    def __getitem__(self, index: int) -> RoundRecord: ...
    @overload
    def __getitem__(self, index: slice) -> "Rounds": ...
    def __getitem__(self, index: int | slice) -> "RoundRecord | Rounds":
        """Return one round, or a slice."""
        return Rounds(self._records[index]) if isinstance(index, slice) else self._records[index]

    def __len__(self) -> int:
        """Return the number of rounds."""
        return len(self._records)

    def __iter__(self) -> Iterator[RoundRecord]:
        """Yield the rounds in order."""
        return iter(self._records)

    def to_dicts(self) -> list[dict[str, float]]:
        """Return the numbers of each round by name, as in tracking tools, and ``round`` from 1."""
        return [{"round": record.report.round + 1, **round_metrics(record)} for record in self]

    def to_pandas(self) -> "pandas.DataFrame":
        """Return ``to_dicts`` as a table with one line per round.

        Raises:
            MissingExtraError: If pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise MissingExtraError("a table of rounds needs pandas; run: pip install 'fedhello[pandas]'") from error
        return pandas.DataFrame(self.to_dicts())
