"""The page of a run that has no folder yet: it says what the run does, and becomes the run's page."""

from functools import cache
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup


def loading_page(folder: Path) -> str:
    """Return the page.

    Args:
        folder: The folder that the run will have.
    """
    return str(_template().render(name=folder.name, script=Markup(loading_script())))


@cache
def loading_script() -> str:
    """Return the page's script."""
    return (files("fedhello.watch") / "templates" / "loading.js").read_text(encoding="utf-8")


@cache
def _template() -> Template:
    loader = PackageLoader("fedhello.watch")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined).get_template("loading.html")
