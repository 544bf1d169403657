"""Write the report of a comparison; its page and pictures need the extra ``report``."""

import json
import os
from contextlib import nullcontext
from pathlib import Path

from fedhello.errors import ConfigError, MissingExtraError, RunFolderError
from fedhello.notes import logger
from fedhello.report.comparison_page import comparison_page, side_figures
from fedhello.report.html import page_html, stacked, svg_of
from fedhello.report.tables import csv_text
from fedhello.results.comparison import COMPARISON_FILE, Comparison
from fedhello.runs.files import check_path, write_whole
from fedhello.runs.folder import RunFolder, check_free

FOREIGN_FILES = ("config.yaml", "results.csv", "report.html")
"""A folder with one of these files but without a ``COMPARISON_FILE`` is not that of a comparison."""


def check_out(out: Path) -> None:
    """Check early that a comparison can be written to a folder.

    Raises:
        RunFolderError: If it cannot be created or written, or contains files that are not a comparison's.
    """
    check_path(out)
    if not out.exists():
        check_free(RunFolder(out))
        return
    if not out.is_dir() or not os.access(out, os.W_OK | os.X_OK):
        raise RunFolderError(f"expected to write to {out}; it is not a folder that can be written. Give another out.")
    foreign = [name for name in FOREIGN_FILES if (out / name).exists()]
    if foreign and not (out / COMPARISON_FILE).exists():
        raise RunFolderError(
            f"expected a new folder or one of a comparison; {out} has {foreign[0]} but no {COMPARISON_FILE}. "
            "Give another out."
        )


def write_comparison(comparison: Comparison, out: str | Path | None = None) -> Path:
    """Write ``comparison.json``, ``results.csv``, figures and ``report.html``, each completely or not at all.

    Args:
        comparison: The comparison.
        out: The folder, which is created if necessary; None takes the folder of the comparison's runs.

    Returns:
        The path of ``report.html``, or of ``comparison.json`` if the drawing library is not installed and there is
        no page; the logger ``fedhello`` then gets a warning.

    Raises:
        ConfigError: If no folder is given for runs that were only read.
        RunFolderError: If a file cannot be written, or the folder contains files that are not a comparison's.

    Example:
        >>> found = fh.compare("my.yaml", methods=["full"], seeds=[0], baselines=False, out="side-by-side")
        >>> print(fh.write_comparison(found))
        side-by-side/report.html
    """
    where = comparison.folder if out is None else Path(out)
    if where is None:
        raise ConfigError("expected a folder for the comparison; found none. Pass out.")
    return _write_comparison(comparison, where)


def _write_comparison(comparison: Comparison, out: Path) -> Path:
    check_out(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(f"expected to create {out}; {error.strerror or error}") from error
    # Where a comparison is made, a lock tells; where runs are only read, there is none.
    with RunFolder(out).locked() if (out / ".lock").exists() else nullcontext():
        return _write_files(comparison, out)


def _write_files(comparison: Comparison, out: Path) -> Path:
    write_whole(out / COMPARISON_FILE, json.dumps(comparison.to_dict(), indent=2) + "\n")
    write_whole(out / "results.csv", csv_text(comparison.summary))
    try:
        page = page_html(comparison_page(comparison, f"fedhello: {out.resolve().name}"))
        drawn = {figure.id: svg_of(stacked([figure])) for figure in side_figures(comparison)}
    except MissingExtraError as error:
        logger.warning("no pictures and no report.html: %s; then: fedhello report %s", error, out)
        return out / COMPARISON_FILE
    for name, picture in drawn.items():
        write_whole(out / f"{name}.svg", picture + "\n")
    write_whole(out / "report.html", page)
    return out / "report.html"
