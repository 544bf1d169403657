"""Scores of each class and each client for the terminal."""

from collections.abc import Iterable, Iterator, Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from fedhello.model.confusion import ClassScore, ConfusionMatrix
from fedhello.results.per_client import ClientScores

MOST_CLASSES = 30
"""The most classes whose scores are listed; of more the worst are."""

WIDEST = 10
"""The most classes of which the whole confusion matrix is shown; of more the largest confusions are."""

MOST_CLIENTS = 30
"""The most clients that are listed; of more the worst are."""

LONGEST = 24
"""The most characters of a class in the header of a matrix."""


def class_tables(matrix: ConfusionMatrix) -> list[Group]:
    """Return the scores of the classes and their confusions as tables."""
    return [_classes(matrix), _confusions(matrix)]


def _classes(matrix: ConfusionMatrix) -> Group:
    known = sorted(matrix.per_class, key=lambda one: (one.recall is None, one.recall))
    shown = known[:MOST_CLASSES] if len(known) > MOST_CLASSES else matrix.per_class
    title = f"scores by class on {matrix.samples} samples"
    if len(known) > MOST_CLASSES:
        title += f": the {MOST_CLASSES} of {len(known)} classes with the lowest accuracy; --json has all"
    columns = ("class", "samples", "accuracy (recall)", "precision", "F1")
    return _table(title, columns, tuple(map(_class_cells, shown)))


def _class_cells(one: ClassScore) -> tuple[str, ...]:
    return (one.label, str(one.samples), _number(one.recall), _number(one.precision), _number(one.f1))


def _confusions(matrix: ConfusionMatrix) -> Group:
    labels = matrix.labels
    if len(labels) <= WIDEST:
        rows = zip(labels, matrix.matrix().tolist(), strict=True)
        return _table(
            "confusion: rows are true classes, columns are predicted ones",
            ("", *(label[:LONGEST] for label in labels)),
            tuple((label, *(str(n) if n else "·" for n in row)) for label, row in rows),
        )
    found = matrix.mistakes[:WIDEST]
    of_class = [one.samples for one in matrix.per_class]
    rest = len(matrix.mistakes) - len(found)
    more = f"; {rest} other pairs are in --json" if rest else ""
    return _table(
        f"the largest confusions{more}",
        ("true class", "predicted as", "samples"),
        tuple((labels[y], labels[p], f"{n} of {of_class[y]}") for y, p, n in found),
    )


def client_table(scores: ClientScores) -> Group:
    """Return the clients' accuracies as a table."""
    clients, ranked = scores.clients, scores.ranked
    shown = clients if len(clients) <= MOST_CLIENTS else ranked[:MOST_CLIENTS]
    title = f"{scores.what}: {len(clients)} clients"
    if len(clients) > MOST_CLIENTS:
        title += f", of which the worst {len(shown)}; --json has all"
    names = any(one.name for one in clients)
    rows = tuple(
        (str(one.client), *([one.name or ""] if names else []), str(one.tier), str(one.samples), _number(one.accuracy))
        for one in shown
    )
    return _table(title, ("client", *(["name"] if names else []), "tier", "samples", "accuracy"), rows)


def client_lines(scores: ClientScores) -> Iterator[str]:
    """Yield what the clients' accuracies come to."""
    ranked = scores.ranked
    if not ranked:
        yield "the classes of the clients are not known here, so that there is no accuracy for each of them"
        return
    yield f"mean over clients {_number(scores.mean)}, worst decile {_number(scores.worst_decile)}"
    lacking = len(scores.clients) - len(ranked)
    if lacking:
        yield f"{lacking} clients have no accuracy: their classes are not known, or have no sample among these"


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Group:
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    return Group(Text(title), table)  # a table's own title is no wider than its columns


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
