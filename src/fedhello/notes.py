"""What a process says on standard error: notes of the logger ``fedhello``, in words or as JSON.

The library only logs; the program decides where records go. Entry points call ``show_notes``. With the environment
variable ``FEDHELLO_LOG_FORMAT=json``, which child processes inherit, whatever a process writes on standard error is one
JSON object a line, also what other packages print there.
"""

import io
import json
import logging
import os
import sys
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal, TextIO, cast

logger = logging.getLogger("fedhello")

FORMAT = "FEDHELLO_LOG_FORMAT"
"""The environment variable that says how: ``json``, or in words."""

Level = Literal["info", "warning", "error"]

LEVELS: Mapping[str, Level] = {"note: ": "warning", "error: ": "error"}
"""What a line in words begins with, and the level that this tells."""

LONGEST = 2**16
"""The most characters of a message."""


class Line(str):
    """A line for people, with what a program would want to know of it.

    Attributes:
        fields: Name → value; ``event`` says what happened.

    Example:
        >>> line = Line("berlin has joined: 1 of 3", event="joined", name="berlin")
        >>> line.upper(), line.fields["name"]
        ('BERLIN HAS JOINED: 1 OF 3', 'berlin')
    """

    fields: Mapping[str, Any]

    def __new__(cls, text: str, **fields: Any) -> "Line":
        """Return a line."""
        line = super().__new__(cls, text)
        line.fields = fields
        return line


def fields_of(line: object) -> Mapping[str, Any]:
    """Return what a line tells besides its words; empty for a mere string."""
    return line.fields if isinstance(line, Line) else {}


class _Lines(logging.Handler):
    """Writes each record as one line on the current standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        level: Level = "info" if record.levelno < logging.WARNING else "warning"
        tell(record.getMessage(), "error" if record.levelno >= logging.ERROR else level, **fields_of(record.msg))


def tell(line: str, level: Level = "info", **fields: Any) -> None:
    """Write a line on standard error: in words, with what its level puts before it, or as JSON with its fields."""
    if isinstance(sys.stderr, JsonLines):
        sys.stderr.put(line, level, **{**fields_of(line), **fields})
        return
    before = next((start for start, meant in LEVELS.items() if meant == level), "")
    sys.stderr.write(f"{before}{line}\n")
    sys.stderr.flush()


class JsonLines(io.TextIOBase):
    """Standard error as one JSON object a line.

    Attributes:
        stream: Where they go.
        always: Fields of every object.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream, self._rest = stream, ""
        self.always: dict[str, Any] = {}

    def write(self, text: str) -> int:
        """Write what somebody says in words: each line becomes an object."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            said = line.rsplit("\r", 1)[-1].strip()  # of a progress bar, what is left of it
            if said:
                start = next((start for start in LEVELS if said.startswith(start)), "")
                self.put(said.removeprefix(start), LEVELS.get(start, "info"))
        self._rest = self._rest[-LONGEST:]
        return len(text)

    def put(self, message: str, level: Level, **fields: Any) -> None:
        """Write an object."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        entry = {"time": now, "level": level, "message": str(message)[:LONGEST]}
        self.stream.write(json.dumps(entry | self.always | fields, default=str) + "\n")
        self.stream.flush()

    def flush(self) -> None:
        """Write out what has come."""
        self.stream.flush()

    def fileno(self) -> int:
        """Return the descriptor of the stream below."""
        return self.stream.fileno()

    def writable(self) -> bool:
        """Return True."""
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]  # an attribute there
        """The encoding of the stream below."""
        return self.stream.encoding


def is_json() -> bool:
    """Whether this process speaks JSON."""
    return isinstance(sys.stderr, JsonLines)


def always(**fields: Any) -> None:
    """Put fields, such as the name of a client, into every object that this process writes from here on."""
    if isinstance(sys.stderr, JsonLines):
        sys.stderr.always |= fields


def show_notes(log_format: str | None = None) -> None:
    """Show warnings of this process on standard error, each as ``note: …``; as JSON, everything that it says.

    Args:
        log_format: ``json`` or ``text``, also for processes that this one starts; None takes what the environment says.
    """
    if log_format is not None:
        os.environ[FORMAT] = log_format
    wanted = os.environ.get(FORMAT) == "json"
    if wanted and not is_json():
        sys.stderr = cast(TextIO, JsonLines(sys.stderr))
        sys.excepthook = _traceback
    elif not wanted and isinstance(sys.stderr, JsonLines):
        sys.stderr, sys.excepthook = sys.stderr.stream, sys.__excepthook__
    handler = next((one for one in logger.handlers if isinstance(one, _Lines)), None)
    if handler is None:
        handler = _Lines()
        logger.addHandler(handler)
    handler.setLevel(logging.INFO if wanted else logging.WARNING)
    logger.setLevel(logging.INFO if wanted else logging.NOTSET)


def be_quiet() -> None:
    """Say warnings and errors alone."""
    logger.setLevel(logging.WARNING)


def _traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Write an error that nobody foresaw as one object."""
    told = "".join(traceback.format_exception(kind, error, trace))
    tell(f"{kind.__name__}: {error}", "error", event="error", error=kind.__name__, exit_code=1, traceback=told)
