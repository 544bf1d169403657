"""What a run does right now, for people: a line, and a view with a bar for each client of the round."""

from collections import Counter

from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fedhello.formatting import human_seconds
from fedhello.runs.status import ClientStatus, Status

SHOWN_CLIENTS = 8
"""The most clients that have a bar of their own; the others are counted."""

WIDTH = 24
"""Of a bar, in characters."""

PHASES = {
    "loading": "loading",
    "heads": "solving the head from the clients' statistics",
    "scores": "Fisher scores from the clients",
    "training": "training",
    "aggregating": "aggregating",
    "scoring": "scoring",
    "answers": "answering the test prompts",
    "saving": "saving",
    "ended": "ended",
}
"""Phase → what it is called."""

DONE = ("sent", "late", "lost", "rejected")


def who(one: ClientStatus) -> str:
    """Return a client's name, or its number."""
    return f"client {one.client}" if one.name is None else one.name


def now_line(status: Status) -> str:
    """Return what a run does in one line, such as ``training: 2 of 5 have sent; client 3 step 20 of 60``."""
    said = PHASES.get(status.phase, status.phase)
    if status.phase != "training" or not status.clients:
        return said
    counts = Counter[str](one.phase for one in status.clients)
    parts = [f"{counts['sent']} of {len(status.clients)} have sent"]
    parts += [f"{counts[phase]} {phase}" for phase in DONE[1:] if counts[phase]]
    busy = [one for one in status.clients if one.phase == "training"]
    parts += [f"{who(one)}{_step(one)}" for one in busy[:SHOWN_CLIENTS]]
    more = len(busy) - SHOWN_CLIENTS
    return f"{said}: {'; '.join(parts)}" + (f"; and {more} others train" if more > 0 else "")


def left_words(status: Status) -> str:
    """Return how long the run will still take, and the best score so far."""
    parts = [] if status.seconds_left is None else [f"about {human_seconds(status.seconds_left)} left"]
    if status.best is not None:
        where = f"after round {status.best.round}" if status.best.round else "before training"
        parts.append(f"best on validation {status.best.validation:.3f} {where}")
    return "; ".join(parts)


def now_view(status: Status) -> Group:
    """Return what a run does as lines on a terminal: the phase, and the clients that train, with their steps."""
    bars = Table.grid(padding=(0, 1))
    done = sum(one.phase in DONE for one in status.clients)
    if status.clients:
        bars.add_row("clients", _bar(done, len(status.clients)), f"{done} of {len(status.clients)}")
    busy = [one for one in status.clients if one.phase == "training"]
    for one in busy[:SHOWN_CLIENTS]:
        bars.add_row(who(one), _bar(one.step, one.steps), _step(one).strip())
    if len(busy) > SHOWN_CLIENTS:
        bars.add_row(f"and {len(busy) - SHOWN_CLIENTS} others", "", "")
    said = "; ".join(filter(None, (PHASES.get(status.phase, status.phase), left_words(status))))
    return Group(Text(said), bars)


def _bar(done: int, total: int) -> ProgressBar:
    return ProgressBar(total=max(total, 1), completed=done, width=WIDTH)


def _step(one: ClientStatus) -> str:
    return f" step {one.step} of {one.steps}" if one.steps else " trains"
