from dataclasses import replace

import pytest
from big_runs import big_run
from handmade import lost, played, trained

from fedhello.model.confusion import ConfusionMatrix
from fedhello.report.run_clients import accuracy_of_clients, clients, trained_blocks, worst_decile
from fedhello.report.run_facts import RunFacts
from fedhello.session import ClientEntry


def facts_of(folder, entries=None):
    found = RunFacts(folder)
    found.refresh()
    if entries is not None:
        found.entries = entries
    return found


@pytest.fixture
def facts(tmp_path):
    return facts_of(big_run(tmp_path / "run", clients=6, rounds=3, a_round=5, classes=3, blocks=3))


def test_accuracy_at_a_clients_own_mix_of_labels(facts, tmp_path):
    matrix = ConfusionMatrix(("class number 0", "class number 1"), ((0, 0, 3), (0, 1, 1), (1, 1, 1), (1, 0, 1)))
    facts.entries = (ClientEntry(0, 0, 4, {}), ClientEntry(3, 0, 4, {}))
    import numpy as np

    facts.histogram = (np.array([[4, 0], [1, 3]]), ("class number 0", "class number 1"))
    # 3 of 4 of class 0 and 1 of 2 of class 1 are right: 0.75, and 0.25·0.75 + 0.75·0.5
    assert accuracy_of_clients(facts, matrix) == {0: 0.75, 3: 0.5625}
    assert accuracy_of_clients(facts, None) == {}
    facts.histogram = None
    assert accuracy_of_clients(facts, matrix) == {}


def test_accuracies_of_the_model_before_training_are_not_told_of_clients(facts):
    assert "the worst tenth" in " ".join(clients(facts).answer)
    facts.confusion = replace(facts.confusion, after=None)
    section = clients(facts)
    assert "the worst tenth" not in " ".join(section.answer)
    assert "How evenly it serves them" not in [part.title for part in section.parts]


def test_the_worst_tenth_has_at_least_one_client():
    assert worst_decile({5: 0.4, 2: 0.9, 7: 0.6}) == (0.4, [5])
    assert worst_decile({k: k / 20 for k in range(20)}) == (pytest.approx(0.025), [0, 1])


def test_what_clients_did_in_sentences(facts):
    said = " ".join(clients(facts).answer)
    assert "of 6 clients trained in 3 rounds, 5 in a round on average, and 15 updates counted." in said
    assert "the worst tenth" in said and "no client was scored by itself" in said
    assert "Every reply counted." in said


def test_replies_that_do_not_count_have_reasons_and_an_example(facts):
    record = played(3, [trained(0)], rejections=(lost(1, 3), lost(2, 3, "not finite", "loss is nan"), lost(3, 3)))
    facts._add(record)
    section = clients(facts)
    assert "3 replies did not count: 2 late, 1 not finite." in section.answer
    figure = section.parts[-1]
    assert figure.table.rows == [
        ["late", 2, "enough others came first", "client 1 in round 4"],
        ["not finite", 1, "a value was NaN or infinite", "client 2 in round 4: loss is nan"],
    ]


def test_blocks_are_counted_by_round(facts):
    figure = trained_blocks(facts)
    assert len(figure.records()) == 9
    assert figure.records()[0]["block"] == 0
    assert [row[1:] for row in figure.table.rows] == [list(one.contributors) for one in facts.rounds]


def test_of_many_clients_the_table_has_those_who_fare_worst(tmp_path, monkeypatch):
    monkeypatch.setattr("fedhello.report.run_clients.MOST_ROWS", 3)
    facts = facts_of(big_run(tmp_path / "run", clients=6, rounds=1, a_round=5, classes=3, blocks=3))
    accuracies = accuracy_of_clients(facts, facts.confusion.after)
    table = next(part for part in clients(facts).parts if part.title == "Clients")
    worst = sorted(accuracies, key=accuracies.get)[:3]
    assert [row[0] for row in table.rows] == sorted(worst)
    assert "Shown are the 3 with the lowest accuracy of 6" in table.note


def test_clients_on_other_machines_have_names_and_no_accuracy(facts):
    facts.entries = tuple(ClientEntry(k, 0, 7, ("a",), {"name": f"site {k}"}) for k in range(2))
    facts.histogram = None
    table = next(part for part in clients(facts).parts if part.title == "Clients")
    assert [row[1] for row in table.rows] == ["site 0", "site 1"]
    assert "accuracy" not in [column.key for column in table.columns]


def test_a_private_run_has_no_client_by_round_and_none_with_what_it_sent(facts):
    record = played(3, [trained(0)], rejections=(lost(1, 3, detail="no reply of client 1"),))
    facts._add(record)
    parts = {part.title: part for part in clients(facts).parts}
    assert "Who trained when" in parts and "updates" in [one.title for one in parts["Clients"].columns]
    facts.config = {**facts.config, "privacy": {"epsilon": 8.0}}
    parts = {part.title: part for part in clients(facts).parts}
    assert "Who trained when" not in parts
    assert not {"updates", "loss", "time", "sent", "refused"} & {one.title for one in parts["Clients"].columns}
    assert {len(row) for row in parts["Clients"].rows} == {len(parts["Clients"].columns)}
    assert parts["What did not count, and why"].table.rows == [["late", 1, "enough others came first", "in round 4"]]
