"""Progress of a run: a live table on a terminal, plain lines elsewhere."""

from collections.abc import Callable

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table

from fedhello.formatting import budget_words, client_words, human_bytes, tier_words
from fedhello.model.head import HeadSettings
from fedhello.model.loading import AUTO_CLASSES
from fedhello.model.pooling import NATIVE
from fedhello.model.sources import CAUSAL_LM, TENSORS, ModelSource
from fedhello.runs.callbacks import Callback
from fedhello.runs.folder import RunFolder
from fedhello.runs.heads_said import head_line
from fedhello.runs.loop import RoundRecord, RunStart
from fedhello.runs.now import PHASES, left_words, now_line, now_view
from fedhello.runs.status import Status
from fedhello.runs.summarise import OVER_BUDGET, taken_lines
from fedhello.runs.summary import OWN_ENDS, Summary
from fedhello.session import Session
from fedhello.state import ClientReport, RoundReport, RunState
from fedhello.streams import show, surviving
from fedhello.types import Budget, Reason

SHOWN_ROUNDS = 20
ABSENT: tuple[Reason, ...] = ("lost", "late")
"""Reasons that are shown without their detail."""
LINE_EVERY = 60.0
"""Seconds after which a long round has a line on how far it is, where there is no terminal."""

WIDEST_MAP = 48
"""If clients times blocks exceed this, counts are shown instead of one mark per client and block."""


def block_map(clients: tuple[ClientReport, ...], blocks: int) -> str:
    """Return which client trained which block: one mark per client and block, ● trained; or counts if too wide."""
    if len(clients) * blocks <= WIDEST_MAP:
        return " ".join("".join("●" if b in c.blocks else "·" for b in range(blocks)) for c in clients)
    return " ".join(str(sum(b in c.blocks for c in clients)) for b in range(blocks))


def said_of(record: RoundReport, called: Callable[[int], str] = client_words) -> list[str]:
    """Return lines on the rejected replies of a round, its flags, and whether it failed.

    Args:
        record: The round's report.
        called: What to call a client.
    """
    where = f"round {record.round + 1}" + (f", attempt {record.attempt + 1}" if record.attempt else "")
    absent = [
        f"{called(r.client)} {r.reason}" + ("" if r.reason in ABSENT else f" ({r.detail})") for r in record.rejections
    ]
    asked = len({report.client for report in record.clients} | {rejection.client for rejection in record.rejections})
    lines = [f"{where}: {len(absent)} of {asked} replies do not count: {'; '.join(absent)}"] if absent else []
    lines += [f"{where}: note: {flag}" for flag in record.flags]
    return lines if record.failed is None else [*lines, f"{where} failed, the state has not changed: {record.failed}"]


class Progress(Callback):
    """Shows progress, and logs it in a run's folder; it never prints data for programs.

    Args:
        console: The output, such as ``rich.console.Console()``; None shows nothing.
        folder: The run's folder for the log; None writes no log.

    Example:
        >>> from rich.console import Console
        >>> _ = fh.run("my.yaml", callbacks=[fh.Progress(Console(quiet=True))])  # without quiet it shows the rounds
    """

    def __init__(self, console: Console | None = None, folder: RunFolder | None = None) -> None:
        self._console = console or Console(quiet=True)
        self._folder = folder
        self._blocks = 0
        self._remote = False
        self._called: Callable[[int], str] = client_words
        self._head, self._least = HeadSettings(), 1
        self._source: ModelSource | None = None
        self._table = self._new_table()
        self._progress = Bar(
            TextColumn("round"),
            MofNCompleteColumn(),
            BarColumn(),
            TimeElapsedColumn(),
            console=self._console,
        )
        self._task = self._progress.add_task("rounds", total=None)
        self._live: Live | None = None
        self._now: RenderableType = ""
        self._phase, self._begun, self._said = "", False, 0.0

    def on_loading(self, what: str) -> None:
        """Show on a terminal what is loaded."""
        if self._console.is_terminal:
            show(self._console, f"  {what} …", highlight=False, markup=False)

    def on_progress(self, status: Status) -> None:
        """Show how far the round is: on a terminal at once, elsewhere a line now and then."""
        if self._live is not None:
            self._now = now_view(status)
            self._live.update(self._view())
        elif self._begun:
            self._say_now_and_then(status)
        elif self._console.is_terminal and status.phase != self._phase:
            self._phase = status.phase
            show(self._console, f"  {PHASES.get(status.phase, status.phase)} …", highlight=False, markup=False)

    def _say_now_and_then(self, status: Status) -> None:
        if status.updated - max(self._said, status.round_started) < LINE_EVERY or status.phase in ("saving", "ended"):
            return
        self._said = status.updated
        said = "; ".join(filter(None, (now_line(status), left_words(status))))
        after = status.round >= status.rounds
        where = "after the last round" if after else f"round {status.round + 1} of {status.rounds}"
        self._say(f"{where}: {said}")

    def _view(self) -> Group:
        return Group(self._table, self._progress, self._now)

    def on_start(self, session: Session, start: RunStart) -> None:
        """Show the run's settings and its scores before training."""
        federation, rounds, self._begun = session.federation, session.settings.rounds, True
        self._progress.update(self._task, total=rounds)
        self._blocks = federation.num_blocks
        self._remote, self._called = session.settings.is_remote, session.called
        self._head, self._least = session.head, session.statistics.least
        self._source = session.model.source
        self._say(
            f"{session.row.name} on {session.model.source.base_name}: {rounds} rounds, "
            f"{federation.clients_per_round} of {len(session.tier_of)} clients each, "
            f"tiers with {tier_words(federation)}"
        )
        for note in session.notes:
            self._say(f"note: {note}")
        if start.head is not None:
            self._say(head_line(start.head, self._head, self._least))
        self._say(f"before training: test {start.test.accuracy:.3f}, validation {start.validation.accuracy:.3f}")
        if start.state.round:
            self._say(f"resumed after round {start.state.round} of {rounds}")
            self._progress.update(self._task, completed=start.state.round)
        if self._console.is_terminal and not self._console.quiet:
            self._live = Live(self._view(), console=self._console, refresh_per_second=4)
            with surviving(self._console):
                self._live.start()

    def on_round(self, state: RunState, record: RoundRecord) -> None:
        """Show one round."""
        report = record.report
        for line in said_of(report, self._called):
            self._say(line)
        if report.failed is not None:
            return
        if record.head is not None:
            self._say(head_line(record.head, self._head, self._least, report.round + 1))
        cells = (
            str(report.round + 1) + (" Γ" if report.scored else ""),
            _number(None if record.test is None else record.test.accuracy) + _own_metrics(record),
            _number(None if record.validation is None else record.validation.accuracy),
            _number(record.train_loss),
            _taken(record),
            block_map(report.clients, self._blocks),
            human_bytes(sum(client.bytes_up for client in report.clients) + report.score_bytes_up),
            human_bytes(sum(client.bytes_down for client in report.clients) + report.score_bytes_down),
            f"{record.seconds:.1f}",
        )
        line = "round {}: test {}, validation {}, loss {}, taken {}, blocks {}, up {}, down {}, {} s".format(*cells)
        self._log(line)
        if self._live is not None:
            if len(self._table.rows) >= SHOWN_ROUNDS:
                self._table = self._without_first_row()
                self._live.update(self._view())
            self._table.add_row(*cells)
        else:
            show(self._console, line, highlight=False, soft_wrap=True, markup=False)
        self._progress.advance(self._task)

    def on_end(self, summary: Summary) -> None:
        """Close the display and show the result."""
        if self._live is not None:
            self._live.update(Group(self._table, self._progress))
            with surviving(self._console):
                self._live.stop()
            self._live = None
        self._say(_result_line(summary))
        if summary.stopped is not None:
            self._say(summary.stopped)
        for line in tier_lines(summary):
            self._log(line)
            if not self._console.is_terminal:
                show(self._console, line, highlight=False, soft_wrap=True)
        if self._console.is_terminal:
            show(self._console, tier_table(summary))
        self._say_what_is_left(summary)

    def _say_what_is_left(self, summary: Summary) -> None:
        """Show which rounds were taken, where the adapter is, and how to resume the run."""
        lines = taken_lines(summary.search, summary.selection)
        lines += [f"note: {note}" for note in summary.notes if OVER_BUDGET in note]
        if self._folder is not None:
            lines += loading_lines(summary, self._folder, self._source)
            if summary.status != "finished":
                where = f"server {self._folder.path}/config.yaml" if self._remote else f"resume {self._folder.path}"
                by = [f" {key}=null" for key in OWN_ENDS if key in (summary.stopped or "")]
                lines.append(f"resume with: fedhello {where}{''.join(by)}")
        for line in lines:
            self._say(line)

    def _say(self, line: str) -> None:
        self._log(line)
        show(self._console, line, highlight=False, soft_wrap=True, markup=False)

    def _log(self, line: str) -> None:
        if self._folder is not None and self._folder.path.exists():
            self._folder.log(line)

    def _new_table(self) -> Table:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("round", "test", "valid.", "loss", "taken", "who trained which blocks", "up", "down", "s"):
            table.add_column(name, justify="left" if name.startswith("who") else "right", no_wrap=True)
        return table

    def _without_first_row(self) -> Table:
        table = self._new_table()
        rows = zip(*(list(column.cells)[1:] for column in self._table.columns), strict=True)
        for row in rows:
            table.add_row(*row)
        return table


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _taken(result: RoundRecord) -> str:
    """Return the server's step size α; without a search, whether the model after the round is selected now."""
    if result.report.step is not None:
        return f"{result.report.step:g}"
    return "–" if result.selected is None else "yes" if result.selected == result.report.round + 1 else "no"


def _result_line(summary: Summary) -> str:
    """Return a line with the run's status and accuracies."""
    ended = f"{summary.status} after {summary.rounds} rounds in {summary.wall_seconds:.0f} s"
    if not summary.rounds:
        return ended
    before, after = (scores.more if scores else {} for scores in (summary.start_scores, summary.final_scores))
    more = "".join(
        f"; {name.replace('_', ' ')} {before[name]:.3f} → {value:.3f}"
        for name, value in after.items()
        if name not in COMMON and name in before
    )
    if summary.rouge_l is not None:
        rouge = summary.rouge_l
        more += f"; ROUGE-L {rouge.before:.3f} → {rouge.after:.3f} on {rouge.samples} answers"
    if summary.domains:
        more += "; in " + ", ".join(f"{name} {accuracy:.3f}" for name, accuracy in summary.domains.items())
    whose = "of the selected adapter" if summary.selection else "after the last round"
    final, mean, best = map(_number, (summary.final, summary.mean_last_5, summary.best_on_validation))
    return (
        f"{ended}; {summary.metric}: {_number(summary.start)} before training, {final} {whose}, {mean} "
        f"mean of the last 5, {best} in the round that was best on validation{more}"
    )


COMMON = {"macro_f1", "micro_f1"}
"""Scores of every classifier that are only written to files."""


def _own_metrics(record: RoundRecord) -> str:
    """Return the user-defined metrics on the test data, in brackets; empty without any."""
    more = {} if record.test is None else record.test.more
    said = [f"{name} {value:.3f}" for name, value in more.items() if name not in (*COMMON, "perplexity")]
    return f" ({', '.join(said)})" if said else ""


TIER_COLUMNS = (
    "tier",
    "clients",
    "budget",
    "took part",
    "trained each block",
    "peak",
    "predicted",
    "of it saved",
    "s",
    "up",
    "down",
)


def tier_rows(summary: Summary) -> list[tuple[str, ...]]:
    """Return, per tier, the cells under ``TIER_COLUMNS``: peaks above the model, the rest per client and round."""
    return [
        (
            str(g),
            str(tier.clients),
            budget_words(Budget(**tier.budget)),  # type: ignore[arg-type]  # counts are whole numbers there
            f"{tier.participations} times",
            " ".join(map(str, tier.blocks_trained)),
            human_bytes(tier.measured_peak_bytes),
            human_bytes(tier.predicted_peak_bytes),
            human_bytes(tier.saved_bytes),
            "–" if tier.seconds is None else f"{tier.seconds:.2f}",
            human_bytes(tier.bytes_up),
            human_bytes(tier.bytes_down),
        )
        for g, tier in enumerate(summary.tiers)
    ]


def tier_table(summary: Summary) -> Table:
    """Return ``tier_rows`` as a table."""
    table = Table(*TIER_COLUMNS, box=None, pad_edge=False, header_style="bold")
    for row in tier_rows(summary):
        table.add_row(*row)
    return table


def tier_lines(summary: Summary) -> list[str]:
    """Return ``tier_rows`` as plain lines."""
    return [", ".join(f"{n} {c}" for n, c in zip(TIER_COLUMNS, row, strict=True)) for row in tier_rows(summary)]


def loading_lines(summary: Summary, folder: RunFolder, source: ModelSource | None = None) -> list[str]:
    """Return lines on where the adapter is and how two lines of Python load it.

    Args:
        summary: The summary of the run.
        folder: Its folder.
        source: Where the base was loaded from; None takes its public name.
    """
    labels = len(summary.labels)
    if summary.personal_heads:
        return [
            f"adapter without a head: {folder.adapter}",
            f"each client's own head: {folder.path / 'heads'}; see fedhello predict --client and export --client",
        ]
    if summary.model_kind == TENSORS:
        return [f"adapter: {folder.adapter}; {folder.adapter / 'README.md'} has code that loads it into your module"]
    pooled = summary.pooling != NATIVE
    auto = "AutoModel" if pooled else AUTO_CLASSES[summary.model_kind].__name__
    classes = "" if pooled or summary.model_kind == CAUSAL_LM else f", num_labels={labels}"
    base, file = (summary.model, None) if source is None else (source.location, source.gguf)
    more = classes + (f", gguf_file={file!r}" if file else "")
    return [
        f"adapter: {folder.adapter}",
        "load it with:",
        f"  from transformers import {auto}; from peft import PeftModel",
        f"  model = {auto}.from_pretrained({base!r}{more})",
        f"  model = PeftModel.from_pretrained(model, {str(folder.adapter)!r})",
        *([f"its head is beside it; {folder.adapter / 'README.md'} has code that uses both"] if pooled else []),
    ]
