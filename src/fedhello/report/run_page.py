"""The page of a run: as one self-contained file, and live, from what is in its folder.

page = RunPage(folder)
if page.refresh():                 # reads only what is new
    send(page.main(live=True))     # the content of <main>, which page.js swaps in
"""

from pathlib import Path

from fedhello.errors import RunFolderError
from fedhello.report.figures import Listing, Page, Part, Section
from fedhello.report.html import main_html, page_html, stacked, svg_of
from fedhello.report.run_clients import clients, trained_blocks
from fedhello.report.run_cost import cost, cost_cards
from fedhello.report.run_facts import RunFacts
from fedhello.report.run_plan import why
from fedhello.report.run_privacy import privacy, privacy_cards
from fedhello.report.run_quality import learning_curve, quality, quality_cards
from fedhello.results.run import TrainedRun
from fedhello.runs.console import loading_lines
from fedhello.runs.files import write_whole
from fedhello.runs.folder import RunFolder


class RunPage:
    """The page of a run that goes on, or has ended.

    A live page asks its server, relative to its own address and with the same query: ``main`` for ``main(live=True)``,
    and ``events`` for server-sent events: ``change`` when ``refresh`` returned True (the page then asks for ``main``),
    and ``status`` with the JSON of ``.status.json`` as data.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: RunFolder | str | Path) -> None:
        self._facts = RunFacts(folder if isinstance(folder, RunFolder) else RunFolder(Path(folder)))
        self.refresh()

    def refresh(self) -> bool:
        """Read what is new in the folder, and return whether there was anything; of rounds only the new lines.

        Raises:
            RunFolderError: If this is not the folder of a run, or a file is not valid.
        """
        return self._facts.refresh()

    def html(self, live: bool = False) -> str:
        """Return the whole page.

        Args:
            live: Whether it follows a run through the server's events.

        Raises:
            MissingExtraError: If the drawing library is not installed.
        """
        return page_html(self._page(live), live=live)

    def main(self, live: bool = False) -> str:
        """Return the content of the page's ``<main>``."""
        return main_html(self._page(live))

    def picture(self) -> str:
        """Return the learning curve and the trained blocks as SVG.

        Raises:
            MissingExtraError: If the drawing library is not installed.
        """
        return svg_of(stacked([learning_curve(self._facts), trained_blocks(self._facts)]))

    def _page(self, live: bool) -> Page:
        return _page(self._facts, live)


def _page(facts: RunFacts, live: bool) -> Page:
    sections = [quality(facts), clients(facts), cost(facts), why(facts), privacy(facts), *_rest(facts)]
    cards = [*quality_cards(facts), *cost_cards(facts), *privacy_cards(facts)]
    return Page(f"fedhello: {facts.folder.path.resolve().name}", [_lead(facts, live)], cards, sections)


def _lead(facts: RunFacts, live: bool) -> str:
    """Say what ran, and whether it has ended."""
    model = (facts.config.get("model") or {}).get("name", "")
    method = (facts.config.get("method") or {}).get("name", "")
    planned = (facts.config.get("train") or {}).get("rounds", "?")
    model = model if facts.summary is None else facts.summary.model or model
    said = f"{method} on {model}, {len(facts.entries):,} clients, {len(facts.rounds):,} of {planned} rounds"
    if facts.summary is None:
        return f"{said}; the run has not ended" if live else f"{said}; the run had not ended when this was written"
    error = f": {facts.summary.error}" if facts.summary.error else ""
    return f"{said}; {facts.summary.status}{error}"


def _rest(facts: RunFacts) -> list[Section]:
    """Return what a reader looks up: notes, how to load the adapter, the configuration and versions."""
    summary = facts.summary
    notes = list(facts.flags) if summary is None else [*summary.notes, *summary.flags]
    parts: list[Part] = []
    if summary is not None:
        lines = loading_lines(summary, facts.folder)
        parts.append(Listing("Load the adapter", code="\n".join(lines), folded=True))
    parts.append(Listing("Configuration", code=facts.config_text, folded=True))
    if summary is not None:
        versions = ", ".join(f"{name} {version}" for name, version in summary.versions.items())
        parts.append(Listing("Versions", [versions], folded=True))
    if notes:
        parts.insert(0, Listing("Notes", notes))
    return [Section("more", "Notes, configuration, versions", [], parts)]


def write_report(run: TrainedRun | str | Path, *, picture: str | Path | None = None) -> Path:
    """Write ``report.html``, a self-contained page on how good a run is, what clients did, and what it cost.

    Args:
        run: The run, or its folder.
        picture: A file for only the learning curve and the trained blocks, as SVG, instead of the page.

    Returns:
        The file that was written.

    Raises:
        MissingExtraError: If the drawing library is not installed.
        RunFolderError: If this is not the folder of a run, it has no finished round, or the file cannot be written.

    Example:
        >>> print(fh.write_report(fh.run("my.yaml", {"run.name": "mine"})))
        runs/mine/report.html
    """
    folder = RunFolder(run.path if isinstance(run, TrainedRun) else Path(run))
    folder.check()
    if not folder.rounds():
        raise RunFolderError(f"expected at least one finished round in {folder.path}; found none")
    page = RunPage(folder)
    if picture is not None:
        write_whole(Path(picture), page.picture() + "\n")
        return Path(picture)
    write_whole(folder.report, page.html())
    return folder.report
