"""Standard streams that cannot end a run: what cannot be shown is replaced, and a closed output is quiet."""

import codecs
import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

INSTEAD = {
    "●": "#", "○": "o", "·": ".", "–": "-", "−": "-", "…": "...", "→": "->", "×": "x", "±": "+-", "≤": "<=", "≥": ">=",
    "≈": "~", "σ": "sigma", "ε": "epsilon", "δ": "delta", "α": "alpha", "Γ": "G", "‖": "|", "√": "sqrt ", "²": "^2",
}  # fmt: skip
"""What is shown instead of characters that an output lacks; ``?`` for all others."""


def _instead(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(INSTEAD.get(sign, "?") for sign in error.object[error.start : error.end]), error.end


codecs.register_error("fedhello.instead", _instead)


def keep_going() -> None:
    """Replace standard output and error by streams to which writing never fails.

    Characters that the encoding lacks are replaced. If nobody can read what is written, or a disk is full, the stream
    is quiet from then on; unless its reader merely left, standard error says so. Streams that a program has replaced
    are left as they are.
    """
    _fill_gaps()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, _lasting(os.open(os.devnull, os.O_WRONLY), "utf-8", at_once=False))
        elif stream is getattr(sys, f"__{name}__"):
            setattr(
                sys, name, _lasting(stream.fileno(), stream.encoding, stream.line_buffering or stream.write_through)
            )


def _fill_gaps() -> None:
    """Open /dev/null in the place of closed standard streams, so that no file takes their numbers."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one


def _lasting(descriptor: int, encoding: str, at_once: bool) -> TextIO:
    raw = _Lasting(descriptor, "w", closefd=False)
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, "fedhello.instead", line_buffering=at_once)


class _Lasting(io.FileIO):
    """Writes to a descriptor until that fails, and to /dev/null from then on."""

    @property
    def is_error(self) -> bool:
        """Whether this is standard error."""
        return self.fileno() == 2

    def write(self, data: Any) -> int:
        """Write bytes; return how many were written, or passed over."""
        try:
            while (written := super().write(data)) is None:  # the reader of a non-blocking pipe is slow
                select.select([], [self], [])
        except OSError as error:
            self._be_quiet(error)
            return memoryview(data).nbytes
        return written

    def _be_quiet(self, error: OSError) -> None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.fileno())
        os.close(null)
        if not isinstance(error, BrokenPipeError) and not self.is_error:
            said = f"note: standard output cannot be written ({error.strerror}); no more is shown\n"
            with suppress(OSError):  # not through sys.stderr, which a live display may have redirected to this stream
                os.write(2, said.encode())


def show(console: Any, *what: Any, **how: Any) -> None:
    """Print on a rich console of a program; if that fails, the console is quiet from then on.

    Args:
        console: A ``rich.console.Console``.
        what: As for its ``print``.
        how: Likewise.
    """
    with surviving(console):
        console.print(*what, **how)


@contextmanager
def surviving(console: Any) -> Iterator[None]:
    """Let a console that cannot be written become quiet, instead of raising an error."""

    def be_quiet() -> None:
        console.quiet = True

    before = console.on_broken_pipe  # of rich: it closes standard output, whatever the console writes to, and exits
    console.on_broken_pipe = be_quiet
    try:
        yield
    except (OSError, UnicodeError):
        be_quiet()
    finally:
        console.on_broken_pipe = before
