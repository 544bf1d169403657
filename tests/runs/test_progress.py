"""How far a run has come, and what is noted or refused where it goes on with something else."""

import csv
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from handmade import begun, played, score, session

import fedhello as fh
from fedhello.data.digest import DataDigest, PartDigest
from fedhello.model.sources import ModelSource
from fedhello.runs import progress as module
from fedhello.runs.folder import RunFolder
from fedhello.runs.formats import read_evaluation
from fedhello.runs.heads import HeadChange
from fedhello.runs.progress import (
    OTHER_DATA,
    OTHER_TEST,
    OTHER_TRAIN,
    Progress,
    changed_data,
    check_same,
    other_data,
    restore_progress,
    unchecked_data,
)
from fedhello.session import ClientEntry

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
    session = fh.prepare(tested.path / "config.yaml")
    assert changed_data(session, tested) == unchecked_data(session, tested) == []
    write(TEST[::-1])
    session = fh.prepare(tested.path / "config.yaml")
    assert changed_data(session, tested) == [OTHER_TEST]


DATA = DataDigest(("a", "b"), {part: PartDigest(9, part) for part in ("train", "validation", "proxy", "test")})


@pytest.mark.parametrize(
    ("parts", "notes"),
    [
        ((), []),
        (("train",), [OTHER_TRAIN]),
        (("validation", "proxy"), [OTHER_DATA]),
        (("proxy", "test"), [OTHER_DATA, OTHER_TEST]),
    ],
)  # fmt: skip
def test_each_part_that_changed_is_noted_once(empty, parts, notes):
    there = session(digest=DATA)
    empty.write_data(DataDigest(DATA.labels, {**DATA.parts, **{part: PartDigest(9, "other") for part in parts}}), ())
    assert changed_data(there, empty) == notes
    if notes:
        with pytest.raises(fh.DataError, match=f"found other data in {', '.join(parts)}. Restore"):
            restore_progress(there, empty, print)
    noted = restore_progress(there, empty, print, accept_data=True).notes
    assert (list(noted), empty.data()) == (notes, (DATA, (0,) if notes else ()))


def test_what_a_folder_does_not_tell_is_said(empty):
    there = session(digest=DATA, settings=replace(session().settings, is_remote=True))
    empty.write_data(DataDigest(DATA.labels, {"test": DATA.parts["test"]}), ())
    (said,) = unchecked_data(there, empty)
    assert said.endswith("clients' data has changed is not checked, since their digests stay with them")
    (empty.path / "data.json").unlink()
    assert "has no digest of them (data.json)" in unchecked_data(there, empty)[0]
    assert other_data(there, empty) == unchecked_data(there, empty)
    assert changed_data(there, empty) == []


def place_of(**changes):
    plain = {"beginning": begun(), "answers": ("red",), "state": begun().state, "seconds": 100.0, "notes": ("odd",)}
    return Progress(**{**plain, **changes})


def test_a_round_goes_on_from_its_state_and_what_was_is_not_changed():
    before, state, record = place_of(), replace(begun().state, round=1), played(0)
    after = before.after(state, record)
    assert (after.state, after.results) == (state, (record,))
    assert (before.state.round, before.results) == (0, ())
    assert after.beginning is before.beginning


def test_a_checkpoint_holds_what_a_later_process_needs(monkeypatch):
    monkeypatch.setattr(module.time, "perf_counter", lambda: 7.5)
    head = HeadChange(3, 60, 5000, 1)
    here = place_of(beginning=begun(test=0.3, validation=0.4, head=head), since=5.0, results=(played(0), played(1)))
    found = here.checkpoint({"model": "digest"})
    assert (found.lines, found.state, found.identity) == (2, here.state, {"model": "digest"})
    assert (found.more["seconds"], found.more["answers"], found.more["notes"]) == (102.5, ("red",), ("odd",))
    assert read_evaluation(found.more["test"]) == score(0.3)
    assert module._first_head(found.more) == head
    assert module._first_head({"bytes_up": 9}) == HeadChange(0, 0, 9, 0)  # of 0.1.0
    assert module._first_head({"head": None}) is None


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """The folder of a run without a checkpoint."""
    folder = RunFolder(tmp_path / "r")
    folder.begin(session(config_yaml="", roster=()))
    monkeypatch.setattr(module, "begin", lambda there: place_of(notes=()))
    return folder


def test_without_a_checkpoint_a_run_begins_unless_rounds_have_finished(empty):
    said = []
    (empty.path / "summary.json").write_text("{}")
    assert restore_progress(session(), empty, said.append).notes == ()
    assert said[-1:] == ["there is no checkpoint yet; the run starts at round 1"]
    assert not (empty.path / "summary.json").exists()
    empty.add_round(played(0))
    with pytest.raises(fh.RunFolderError, match=r"expected checkpoints in .*, since rounds have finished; found none"):
        restore_progress(session(), empty, said.append)


IDENTITY = {
    "configuration": {"train.lr": 0.1},
    "model": {"weights": "digest"},
    "machine": {"threads": 1},
}


@pytest.mark.parametrize(
    ("changed", "notes"),
    [
        ({}, []),
        ({"machine": {"threads": 2}}, ["the run continues, but not bit for bit: threads is 2 there and 1 here"]),
        ({"data": {"server": "digest of 0.1.0"}}, []),
        ({"configuration": {"train.lr": 0.2}}, r"expected the configuration that .* started with; train\.lr is 0\.2"),
        ({"model": {"weights": "other"}}, "started with; the frozen weights of revision abc, of tiny, are others"),
    ],
)  # fmt: skip
def test_what_differs_is_noted_and_another_model_or_configuration_is_an_error(empty, monkeypatch, changed, notes):
    monkeypatch.setattr(module, "identity_of", lambda there: IDENTITY)
    there = session(roster=(), model=SimpleNamespace(source=ModelSource("org/tiny", "tiny", "abc")))
    if isinstance(notes, str):
        with pytest.raises(fh.RunFolderError, match=notes):
            check_same({**IDENTITY, **changed}, there, empty)
    else:
        assert check_same({**IDENTITY, **changed}, there, empty) == notes


def test_clients_that_left_joined_or_changed_are_named():
    one, two, three = (ClientEntry(k, 0, 10, {"a": 10}) for k in range(3))
    assert module._cohort((one, two), (replace(one, samples=9), three)) == [
        "client 1 left", "client 2 joined", "client 0 has other data or another tier"
    ]  # fmt: skip
    assert module._cohort((one, two), (two, one)) == []
