"""Write pages as HTML that needs no network: style, script, the drawing library and all data are within the file.

    page = Page("fedhello: my run", ["A sentence."], cards, sections)      # see fedhello.report.figures
    whole = page_html(page)                                               # the file, or the page of a server
    inner = main_html(page)                                               # what a live page takes in place of <main>

``templates/base.html`` is the frame, ``templates/main.html`` the content with a macro for each part, ``page.css`` the
style, ``page.js`` what draws, sorts, downloads, switches between light and dark, and follows a live run. A page reads
without its script: each figure has its caption and its data as a table.
"""

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fedhello.errors import MissingExtraError
from fedhello.report.figures import Figure, Page
from fedhello.report.themes import THEMES


def page_html(page: Page, *, live: bool = False) -> str:
    """Return a page as one self-contained HTML document.

    Args:
        page: Its content.
        live: Whether it follows the server's events, see ``fedhello.report.run_page``.

    Raises:
        MissingExtraError: If the drawing library is not installed.
    """
    return _rendered(
        "base.html",
        page=page,
        live=live,
        style=_text("page.css"),
        library=Markup(drawing_library()),
        script=_text("page.js"),
        themes=THEMES,
        main=Markup(main_html(page)),
    )


def page_scripts() -> tuple[str, ...]:
    """Return the scripts of a page, for a server that allows no others.

    Raises:
        MissingExtraError: If the drawing library is not installed.
    """
    return drawing_library(), _text("page.js")


def main_html(page: Page) -> str:
    """Return the content of a page's ``<main>``."""
    return _rendered("main.html", page=page)


@cache
def drawing_library() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script.

    Raises:
        MissingExtraError: If they are not installed.
    """
    return str(_vl_convert().javascript_bundle())


def svg_of(spec: dict[str, Any]) -> str:
    """Return a Vega-Lite specification with data, drawn as one SVG element in light colours.

    Raises:
        MissingExtraError: If the drawing library is not installed.
    """
    config = {**THEMES["light"], "background": "white"}
    text = str(_vl_convert().vegalite_to_svg({**spec, "config": config}))
    return _renumbered(text[text.index("<svg") :])


def _renumbered(svg: str) -> str:
    """Number clips and gradients from 0 on, so that the same figure gives the same text each time."""
    found = dict.fromkeys(re.findall(r"(?:clip|gradient_)\d+", svg))
    numbers = {name: f"{name.rstrip('0123456789')}{i}" for i, name in enumerate(found)}
    return re.sub(r"(?:clip|gradient_)\d+", lambda match: numbers[match[0]], svg)


def stacked(figures: Sequence[Figure], width: int = 720) -> dict[str, Any]:
    """Return the specification of some figures, one below the other, each with its own looks and legend."""
    specs = [{**figure.whole_spec(), "width": width, "title": figure.title} for figure in figures]
    own = dict.fromkeys(("color", "shape", "strokeDash"), "independent")
    return {"vconcat": specs, "resolve": {"scale": own}}


def _vl_convert() -> Any:
    try:
        import vl_convert
    except ImportError as error:
        raise MissingExtraError("vl-convert-python is not installed; run: pip install 'fedhello[report]'") from error
    return vl_convert


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("fedhello.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["unbroken"] = unbroken
    return made


def unbroken(text: str) -> str:
    """Return a text whose numbers stay on one line with their units."""
    return re.sub(r"(?<=\d) (?=(?:%|[kMGT]?B|[kMGTP]?FLOP|s|min|h|J|k?Wh|points)\b|%)", "\u00a0", text)


def _rendered(template: str, **values: Any) -> str:
    return str(_environment().get_template(template).render(**values))


@cache
def _text(name: str) -> Markup:
    loader = _environment().loader
    assert loader is not None
    return Markup(loader.get_source(_environment(), name)[0])
