"""Notes for the user while something runs: the logger ``fedhello``, and its lines on standard error.

The library logs, and nothing else; a program decides where that goes. Entry points call ``show_notes``.
"""

import logging
import sys

logger = logging.getLogger("fedhello")


class _Lines(logging.Handler):
    """Writes each record as one line on whatever standard error is at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(f"note: {record.getMessage()}\n")
        sys.stderr.flush()


def show_notes() -> None:
    """Let warnings of this process appear on standard error, each as ``note: …``."""
    if not any(isinstance(handler, _Lines) for handler in logger.handlers):
        logger.addHandler(_Lines(logging.WARNING))
