"""``confusion.json``: what a run writes, keeps when it goes on, and reads back."""

import json
from dataclasses import replace

import numpy as np
import pytest
from handmade import played

import fedhello as fh
from fedhello.model.confusion import ConfusionMatrix
from fedhello.runs import loop
from fedhello.runs.confusion import Confusion, read_confusion, stored_matrices, with_matrix, without_matrices
from fedhello.runs.folder import RunFolder
from fedhello.runs.progress import restore_progress
from fedhello.runs.runner import run_session

SMALL = {"train.measure_memory": False, "train.rounds": 2}


@pytest.fixture
def prepared(workplace, monkeypatch):
    def build(**more):
        monkeypatch.chdir(workplace)
        return fh.prepare("tiny.yaml", SMALL | more)

    return build


def folder_in(path):
    return RunFolder(path / "r")


def test_a_run_counts_from_the_passes_that_score_it(prepared, tmp_path, monkeypatch):
    session, passes = prepared(), []
    scored = loop.evaluate_adapter
    monkeypatch.setattr(loop, "evaluate_adapter", lambda *a: passes.append(1) or scored(*a))
    folder = folder_in(tmp_path)
    summary = run_session(session, folder)
    assert len(passes) <= 1 + session.settings.rounds, "before training, and after each round at most"
    found = read_confusion(folder.path)
    assert found.labels == session.labels == summary.labels
    for matrix, accuracy in ((found.before, summary.start), (found.after, summary.final)):
        assert matrix.samples == len(session.server.test)
        assert np.trace(matrix.matrix()) == round(accuracy * matrix.samples)
        counts = np.bincount(session.server.test.labels, minlength=len(found.labels))
        assert np.array_equal(matrix.matrix().sum(axis=1), counts)
    assert fh.load_run(folder.path).evaluate().test.confusion == found.after


def test_a_run_that_goes_on_writes_it_anew(prepared, tmp_path):
    session = prepared()
    whole, stopped = RunFolder(tmp_path / "whole"), folder_in(tmp_path)
    run_session(session, whole)
    expected = read_confusion(whole.path)

    class Stop(fh.Callback):
        def on_round(self, state, record):
            return True

    run_session(session, stopped, [Stop()])
    assert read_confusion(stopped.path).before == expected.before
    with stopped.locked():
        place = restore_progress(session, stopped, pytest.fail)
        assert read_confusion(stopped.path) is None, "it is of the end of a run"
        assert place.confusion.before == expected.before
        assert place.results[-1].test.confusion is not None
        run_session(session, stopped, resumed=place)
    assert read_confusion(stopped.path) == expected
    # A run whose rounds are all played, but whose end was lost, needs no pass to write it again.
    with stopped.locked():
        run_session(session, stopped, resumed=restore_progress(session, stopped, pytest.fail))
    assert read_confusion(stopped.path) == expected


def test_heads_of_clients_and_several_models_have_none(prepared, tmp_path):
    for name, more in (("own", {"model.head": "local"}), ("several", {"method.name": "local-only"})):
        folder = RunFolder(tmp_path / name)
        run_session(prepared(**{**more, "train.rounds": 1}), folder)
        assert read_confusion(folder.path) is None


ONE = ConfusionMatrix(("a", "b"), ((0, 0, 3), (1, 0, 2)))


def test_it_is_read_as_it_was_written(tmp_path):
    folder = RunFolder(tmp_path)
    for found in (Confusion(ONE, None), Confusion(None, ONE), Confusion(ONE, ConfusionMatrix(("a", "b"), ()))):
        (tmp_path / "confusion.json").write_text(json.dumps(found.to_dict()))
        assert read_confusion(folder.path) == found
    assert found.to_dict()["before"] == [(0, 0, 3), (1, 0, 2)]
    assert found.to_dict()["split"] == "test"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 2}, "it has format 2; this version of fedhello reads 1 or earlier"),
        ({"before": [[0, 2, 1]]}, "a cell is not within the 2 classes"),
        ({"before": [[0, 1, 0]]}, "a cell is not within the 2 classes"),
        ({"after": "none"}, "valid tuple"),
        ({"labels": 3}, "valid tuple"),
    ],
)
def test_a_damaged_file_is_said(change, said, tmp_path):
    (tmp_path / "confusion.json").write_text(json.dumps(Confusion(ONE, ONE).to_dict() | change))
    with pytest.raises(fh.RunFolderError, match=rf"expected confusion matrices in .*confusion\.json; .*{said}"):
        read_confusion(tmp_path)


def test_only_the_last_round_keeps_its_matrices():
    records = [played(0), replace(played(1), report=replace(played(1).report, failed="too few"))]
    kept = with_matrix(records, ONE)
    assert [one.test.confusion for one in kept] == [ONE, None], "a failed attempt is no round"
    assert without_matrices(kept[0]).test.confusion is None
    assert (
        with_matrix([played(0, test=None)], ONE) == [played(0, test=None)] == [without_matrices(played(0, test=None))]
    )
    assert with_matrix([], ONE) == []
    assert stored_matrices(None, ("a",)) == (None, None), "of 0.2.0"
