"""Case 73: a server does not choose columns or labels of a client's data; only the owner does."""

import numpy as np
import pytest
from hostile import client_of, told_at


@pytest.fixture(autouse=True)
def here(place, monkeypatch):
    monkeypatch.chdir(place)


ROWS = [(f"{word} number {i}", kind, f"person {i} of street {i}", f"{i % 3}-secret")
        for i in range(12) for word, kind in (("pear", "fruit"), ("zinc", "metal"))]  # fmt: skip


@pytest.fixture
def mine(place):
    lines = ["note,topic,owner,number", *(",".join(row) for row in ROWS)]
    (place / "mine.csv").write_text("\n".join(lines) + "\n")
    return place


NAMED = {"columns": {"text": "note", "label": "topic"}}
ASKED = [
    {"text": "owner", "label": "topic"}, {"text": "note", "label": "number"}, {"text": ["owner", "note"]},
    {"image": "owner"}, {"tensor": "number"}, {"prompt": "owner", "response": "number"},
]  # fmt: skip


def texts_of(client):
    return [tokens.tolist() for tokens in client.data.tokens], client.data.labels.tolist()


def test_the_servers_columns_are_not_read_whatever_it_names(mine):
    worker, ready = client_of("mine.csv", **NAMED)
    assert "facts" in worker.answer("join", told_at(mine))
    expected = texts_of(ready.client)
    for keys in ASKED:
        worker, ready = client_of("mine.csv", **NAMED)
        reply = worker.answer("join", told_at(mine, data=keys))
        # Either it takes part with its owner's columns, or it does not fit; the named columns are not read.
        assert reply == {"error": "does not fit"} or texts_of(ready.client) == expected


def test_without_names_columns_follow_from_the_data_alone(mine):
    (mine / "plain.csv").write_text("body,kind\n" + "".join(f"{row[0]},{row[1]}\n" for row in ROWS))
    worker, ready = client_of("plain.csv")
    assert "facts" in worker.answer("join", told_at(mine, data={"text": "kind", "label": "body"}))
    assert np.array_equal(np.unique(ready.client.data.labels), [0, 1])
    worker, _ = client_of("mine.csv")  # several columns could be the texts
    assert worker.answer("join", told_at(mine)) == {"error": "does not fit"}
    assert "Name one as" in str(worker.failure)


def test_a_list_of_labels_does_not_choose_the_column(mine):
    labels = sorted({row[3] for row in ROWS})
    worker, _ = client_of("mine.csv", **NAMED)
    assert worker.answer("join", told_at(mine, labels, data={"label": "number"})) == {"error": "does not fit"}


def test_samples_with_other_labels_than_the_owner_names_stay_unused(mine):
    worker, ready = client_of("mine.csv", **NAMED, labels=["metal"])
    assert "facts" in worker.answer("join", told_at(mine))
    assert ready.client.facts.classes == (1,)
    assert ready.client.facts.samples == 12
