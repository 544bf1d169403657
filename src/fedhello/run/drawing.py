"""Pictures as SVG text that is the same for the same input. Needs the extra ``report``."""

import io
from collections.abc import Callable
from typing import Any

from fedhello.errors import MissingExtraError


def svg_of(size: tuple[float, float], draw: Callable[[Any], None]) -> str:
    """Let ``draw`` fill a matplotlib figure of a size in inches, and return it as one SVG element.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib is not installed; run: pip install 'fedhello[report]'") from error
    # A fixed salt and no date make the same picture give the same file.
    with matplotlib.rc_context({"svg.hashsalt": "fedhello", "svg.fonttype": "none", "font.size": 10}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
