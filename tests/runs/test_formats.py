"""What files hold comes back as it was; what 0.1.0 wrote is read; what a later fedhello writes is refused."""

import json
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import pytest

from fedhello.errors import RunFolderError
from fedhello.model.evaluation import Evaluation
from fedhello.runs.formats import read_clients, read_round, write_clients, write_round
from fedhello.runs.heads import HeadChange
from fedhello.runs.loop import RoundRecord
from fedhello.session import ClientEntry
from fedhello.state import ClientReport, RoundReport
from fedhello.types import Rejection

GOLDEN = Path(__file__).parent.parent / "golden" / "run-0.1"

RECORD = RoundRecord(
    report=RoundReport(
        round=3,
        clients=(ClientReport(2, 1, (0, 2), ("keep", "recompute"), 17, {"loss": 0.5, "steps": 4.0}, 11, 12, (4, 8)),),
        contributors=(1, 0, 1),
        scores=(0.25, 1 / 3, 1e-300),
        scored=True,
        over_budget=(2,),
        rejections=(Rejection(5, 3, "late", "enough others came first", 7, 8),),
        failed="1 of 2 updates count; the quorum is 2",
        attempt=1,
        flags=("one thing",),
        score_bytes_down=21,
        score_bytes_up=22,
        step=0.5,
        train_loss=0.7,
    ),
    train_loss=0.75,
    validation=Evaluation(0.5, 1.25, 8, {"macro_f1": 0.4}),
    test=Evaluation(0.6, 1.5, 16, {"macro_f1": 0.3}),
    seconds=2.5,
    evaluation_seconds=1.5,
    head=HeadChange(3, 30.5, 100, 200, 0.1, 0.9, 0.4, False, 2, 0.3, 0.6, 13),
    selected=2,
)


def filled(value):
    """Whether no field, at any depth, has the value that it has by default."""
    return all(
        getattr(value, f.name) != f.default
        and (not is_dataclass(getattr(value, f.name)) or filled(getattr(value, f.name)))
        for f in fields(value)
        if f.name != "confusion"  # has a file of its own, confusion.json
    )


def test_every_field_of_a_round_comes_back():
    assert filled(RECORD), "a new field needs its place in the file, and here"
    assert filled(RECORD.report.clients[0])
    assert filled(RECORD.report.rejections[0])
    assert read_round(json.dumps(write_round(RECORD)), "here") == RECORD
    bare = RoundRecord(RoundReport(0, (), (), None, False), None, None, None, 0.0, 0.0)
    assert read_round(json.dumps(write_round(bare)), "here") == bare


@pytest.mark.parametrize("run", ["finished", "half", "heads"])
def test_what_0_1_0_wrote_is_read(run):
    lines = (GOLDEN / run / "rounds.jsonl").read_text().splitlines()
    for number, line in enumerate(lines):
        record, entry = read_round(line, "there"), json.loads(line)
        assert (record.report.round, record.train_loss) == (number, entry["train_loss"])
        assert record.test.accuracy == entry["test"]["accuracy"]
    found = read_clients((GOLDEN / run / "clients.json").read_text(), "there")
    assert [entry.client for entry in found] == list(range(len(found)))
    assert all(entry.samples == sum(entry.labels.values()) for entry in found)


def test_clients_come_back():
    here = (ClientEntry(0, 1, 3, {"a": 1, "b": 2}), ClientEntry(1, 0, 4, {"a": 4, "b": 0}))
    there = (ClientEntry(0, 0, 3, ("a",), {"name": "berlin", "samples": 3}),)
    for entries in (here, there):
        assert read_clients(json.dumps(write_clients(entries)), "here") == entries


@pytest.mark.parametrize(
    ("read", "text", "said"),
    [
        (read_round, json.dumps(write_round(RECORD) | {"format": 9}), "a round of format 9"),
        (read_round, json.dumps(write_round(RECORD) | {"round": "x"}), "expected a round in here"),
        (read_round, "[]", "expected a round in here"),
        (read_clients, json.dumps({"format": 9, "clients": []}), "clients of format 9"),
        (read_clients, "{}", "expected the list of clients in here"),
        (read_clients, "3", "expected the list of clients in here"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_sentence(read, text, said):
    with pytest.raises(RunFolderError, match=said):
        read(text, "here")


def test_names_that_a_later_version_adds_do_no_harm():
    line = json.dumps(write_round(RECORD) | {"of a later version": 1})
    assert read_round(line, "here") == RECORD
    assert read_round(json.dumps(write_round(replace(RECORD, selected=None))), "here").selected is None
