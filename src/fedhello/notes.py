"""Notes for the user during a run: the logger ``fedhello``, and its lines on standard error.

The library only logs; the program decides where records go. Entry points call ``show_notes``.
"""

import logging
import sys

logger = logging.getLogger("fedhello")


class _Lines(logging.Handler):
    """Writes each record as one line on the current standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(f"note: {record.getMessage()}\n")
        sys.stderr.flush()


def show_notes() -> None:
    """Show warnings of this process on standard error, each as ``note: …``."""
    if not any(isinstance(handler, _Lines) for handler in logger.handlers):
        logger.addHandler(_Lines(logging.WARNING))
