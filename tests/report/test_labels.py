from io import StringIO

from rich.cells import cell_len
from rich.console import Console

from fedhello.report.labels import MOST_CLIENTS, ClientPlan, show_labels

NAMES = [f"card_payment_wrong_exchange_rate_{i}" for i in range(77)]


def client(k, **counts):
    labels = [0] * len(NAMES)
    for name, count in counts.items():
        labels[int(name[1:])] = count
    return ClientPlan(k, k % 2, sum(labels), tuple(labels))


def shown(names, clients, width):
    console = Console(width=width, file=StringIO(), no_color=True, force_jupyter=False, force_terminal=False)
    show_labels(names, clients, console)
    return console.file.getvalue().splitlines()


def test_few_classes_have_a_column_each():
    lines = shown(["a", "b"], [ClientPlan(0, 1, 19, (19, 0))], 80)
    assert [line.split() for line in lines] == [["client", "tier", "samples", "a", "b"], ["0", "1", "19", "19", "·"]]


def test_of_many_classes_the_largest_that_fit_are_listed_and_the_rest_is_summed():
    """77 names of 33 letters and more, which are cut in the middle, since they begin alike."""
    clients = [client(0, c3=2, c76=30, c9=5, c10=1), client(1, c5=4)]
    lines = shown(NAMES, clients, 100)
    assert all(cell_len(line.rstrip()) <= 100 for line in lines)
    assert len(lines) == 3
    assert lines[1].split(maxsplit=4)[:4] == ["0", "0", "38", "4"]
    assert lines[1].split(maxsplit=4)[4].rstrip() == (
        "card_payment…nge_rate_76 30, card_payment…ange_rate_9 5, 2 more 3"
    )
    assert lines[2].split(maxsplit=4)[4].rstrip() == "card_payment…ange_rate_5 4"
    wide = shown(NAMES, clients, 160)
    assert wide[1].rstrip().endswith("card_payment…ange_rate_3 2, card_payment…nge_rate_10 1")


def test_of_many_clients_the_first_have_a_row_and_the_others_a_range():
    clients = [client(k, c0=k + 1, **({"c1": 1} if k == 99 else {})) for k in range(100)]
    lines = shown(NAMES, clients, 120)
    assert len(lines) == 1 + MOST_CLIENTS + 1
    assert lines[-1] == "and 60 more clients with 41 to 101 samples of 1 to 2 classes, which --page and --json show"


def test_without_clients_nothing_is_shown():
    assert shown(NAMES, [], 80) == []
