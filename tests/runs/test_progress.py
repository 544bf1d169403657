"""What of the server's data a checkpoint tells apart, also one of an earlier fedhello."""

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import fedhello as fh
from fedhello.runs.checkpoint import Checkpoints
from fedhello.runs.folder import RunFolder
from fedhello.runs.progress import OTHER_DATA, OTHER_TEST, check_same, other_data

TEST = [(f"{word} number {70 + i}", kind) for i, (word, kind) in enumerate([("plum", "fruit"), ("zinc", "metal")] * 4)]


def write(rows):
    with Path("test.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])


@pytest.fixture
def tested(workplace, tmp_path, monkeypatch):
    """The folder of a run whose test set is in a file of its own."""
    shutil.copytree(workplace, tmp_path / "place", ignore=shutil.ignore_patterns("runs"))
    monkeypatch.chdir(tmp_path / "place")
    write(TEST)
    return RunFolder(fh.run("tiny.yaml", {"run.name": "it", "data.test": "test.csv"}).path)


def test_a_run_read_back_notes_that_its_test_data_are_others(tested, caplog):
    read = fh.load_run(tested.path)
    assert read.evaluate().test.accuracy == read.summary.final
    assert caplog.messages == []
    for rows in (TEST[1:] + TEST[:1], [(text.replace("number", "no"), kind) for text, kind in TEST]):
        caplog.clear()
        write(rows)
        assert read.evaluate().test.samples == len(TEST)
        (said,) = caplog.messages
        assert said.startswith("the test data are not those that runs/it was scored on: the scores cannot be compared")


def test_going_on_with_other_test_data_is_noted_and_keeps_the_selected_model(tested):
    found = Checkpoints(tested.checkpoints).latest(print)
    session = fh.prepare(tested.path / "config.yaml")
    assert check_same(found.identity, session, tested) == []
    write(TEST[::-1])
    session = fh.prepare(tested.path / "config.yaml")
    assert check_same(found.identity, session, tested) == [OTHER_TEST]


def test_a_checkpoint_of_before_is_compared_in_what_it_has(tested):
    kept = Checkpoints(tested.checkpoints)
    found = kept.latest(print)
    before = {"server": found.identity["data"]["server"]}
    kept.save(replace(found, identity={**found.identity, "data": before}))
    write(TEST[::-1])
    session = fh.prepare(tested.path / "config.yaml")
    assert other_data(session, tested) == check_same({**found.identity, "data": before}, session, tested) == []
    data = {"server": "other"}
    kept.save(replace(found, identity={**found.identity, "data": data}))
    assert check_same({**found.identity, "data": data}, session, tested) == [OTHER_DATA]
    (said,) = other_data(session, tested)
    assert said.startswith("the validation or proxy data are not those that")
    kept.save(replace(found, identity={key: value for key, value in found.identity.items() if key != "data"}))
    assert other_data(session, tested) == []


def test_where_no_checkpoint_is_good_nothing_can_be_told(tested):
    session = fh.prepare(tested.path / "config.yaml")
    for file in Checkpoints(tested.checkpoints).files():
        file.write_bytes(b"damaged")
    *_, said = other_data(session, tested)
    assert said.startswith("whether the data are those of the run cannot be told: expected a good checkpoint")
    shutil.rmtree(tested.checkpoints)
    assert other_data(session, tested) == []
