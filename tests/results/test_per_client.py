"""Test accuracy by client, worked out by hand."""

import pytest

import fedhello as fh
from fedhello.model.confusion import ConfusionMatrix
from fedhello.results.per_client import EQUAL_MIX, MIX, client_scores
from fedhello.session import ClientEntry

# Recall 0.9 of a, 0.5 of b, 0.1 of c; d has no sample.
MATRIX = ConfusionMatrix(("a", "b", "c", "d"), ((0, 0, 9), (0, 1, 1), (1, 0, 5), (1, 1, 5), (2, 0, 9), (2, 2, 1)))


def test_a_client_is_scored_at_its_mix_of_classes():
    clients = (
        ClientEntry(0, 0, 30, {"a": 10, "b": 20}),
        ClientEntry(1, 1, 40, {"c": 3, "d": 37}),
        ClientEntry(2, 1, 5, {"d": 5}),
    )
    found = client_scores(MATRIX, clients)
    assert [one.accuracy for one in found.clients] == [pytest.approx((0.9 + 2 * 0.5) / 3), pytest.approx(0.1), None]
    assert (found.what, [one.client for one in found.ranked]) == (MIX, [1, 0])
    assert found.worst_decile == pytest.approx(0.1)
    assert found.mean == pytest.approx((0.1 + 1.9 / 3) / 2)
    assert found.to_dict()["clients"][1] == {
        "client": 1, "name": None, "tier": 1, "samples": 40, "accuracy": pytest.approx(0.1)
    }  # fmt: skip


def test_clients_on_other_machines_say_which_classes_alone():
    found = client_scores(MATRIX, (ClientEntry(0, 0, 30, ("a", "c"), {"name": "north"}),))
    assert (found.clients[0].name, found.what) == ("north", EQUAL_MIX)
    assert found.clients[0].accuracy == pytest.approx(0.5)


def test_the_worst_decile_is_of_a_tenth_of_the_clients():
    clients = tuple(ClientEntry(k, 0, 10, {"a": k, "c": 25 - k}) for k in range(25))
    found = client_scores(MATRIX, clients)
    assert found.worst_decile == pytest.approx(sum(0.1 + 0.8 * k / 25 for k in range(3)) / 3)
    assert client_scores(MATRIX, ()).worst_decile is None


def test_a_run_needs_no_pass_for_it(place):
    run = fh.run("tiny.yaml", {"run.name": "mixed"})
    found = run.client_scores()
    assert found == run.client_scores(run.evaluate().test)
    assert [one.samples for one in found.clients] == [row["samples"] for row in run.clients]
    own = fh.run("tiny.yaml", {"run.name": "own", "model.head": "local", "train.rounds": 1})
    with pytest.raises(fh.ConfigError, match="expected a confusion matrix"):
        own.client_scores()
