"""``status`` and ``watch``: what is printed of runs that go on, have ended or were killed."""

import json
from dataclasses import replace

import pytest
from handmade import STATUS

from fedhello.cli.watching import connected_table, watched
from fedhello.notes import show_notes
from fedhello.results.overview import run_overview
from fedhello.runs.status import ConnectedClient, write_status
from fedhello.watch import serving


@pytest.fixture
def finished(place, call):
    code, _, err = call(place, "run", "tiny.yaml", "--quiet", "run.name=mine", "model.pooling=mean")
    assert code == 0, err
    return place


def test_runs_are_listed_with_what_they_do(finished, call):
    code, out, _ = call(finished, "status")
    head, row = out.splitlines()
    assert (code, head.split()[:4]) == (0, ["run", "method", "status", "process"])
    assert row.split()[:7] == ["runs/mine", "fed-hello", "finished", "–", "2", "of", "2"]
    (found,) = json.loads(call(finished, "status", "--json")[1])
    assert (found["name"], found["status"], found["round"], found["now"]) == ("mine", "finished", 2, None)
    write_status(finished / "runs" / "mine", STATUS)
    assert call(finished, "status", "runs")[1].splitlines()[1].split()[2:4] == ["running", str(STATUS.pid)]


def test_where_there_are_no_runs_that_is_said(place, call):
    assert call(place, "status")[1].startswith("no runs here")
    assert call(place, "status", "--json")[1] == "[]\n"
    (place / "runs").mkdir()
    assert call(place, "status", "runs")[1] == "no runs in runs\n"
    code, _, err = call(place, "status", "missing")
    assert (code, err) == (5, "error: expected a folder of runs; missing is none. Give another, or start a run.\n")


def test_one_run_has_its_clients_and_the_results_of_each(finished, call):
    out = call(finished, "status", "runs/mine")[1]
    assert out.startswith("runs/mine: fed-hello, finished, round 2 of 2 finished, test accuracy ")
    found = json.loads(call(finished, "status", "runs/mine", "--json")[1])
    assert [one["client"] for one in found["last_round"]] == [2, 3]
    assert all(one["counts"] and one["metrics"]["loss"] > 0 for one in found["last_round"])
    (finished / "runs" / "mine" / "summary.json").unlink()
    write_status(finished / "runs" / "mine", STATUS)
    lines = call(finished, "status", "runs/mine")[1].splitlines()
    assert lines[1].startswith("round 3 of 5: training; about 30 s left")
    assert lines[2] == "best on validation: 0.750 after round 2"
    assert lines[3] == f"process {STATUS.pid} on {STATUS.host}: 1 GB of memory, 10 GB free on its disk"
    assert [line.split()[:2] for line in lines[5:7]] == [["3", "(berlin)"], ["4", "0"]]
    assert "20 of 60" in lines[5] and "late" in lines[6]
    write_status(finished / "runs" / "mine", replace(STATUS, updated=1000.0))
    assert "killed" in call(finished, "status", "runs/mine")[1]
    assert "fedhello resume runs/mine" in call(finished, "status", "runs/mine")[1]


def test_of_a_server_it_is_shown_who_is_connected(finished):
    here = ConnectedClient(0, "oslo", STATUS.updated - 1)
    gone = ConnectedClient(1, "rome", STATUS.updated - 120)
    write_status(finished / "runs" / "mine", replace(STATUS, connected=(here, gone)))
    table = connected_table(run_overview(finished / "runs" / "mine"))
    assert [list(column.cells) for column in table.columns] == [["0 (oslo)", "1 (rome)"], ["yes", "no, for 2 min"]]


def test_who_was_there_when_the_server_last_looked_is_connected_while_it_does_not_look(finished):
    oslo, rome = ConnectedClient(0, "oslo", STATUS.updated - 60), ConnectedClient(1, "rome", STATUS.updated - 180)
    for phase, cells in (("scoring", ["yes", "no, for 3 min"]), ("training", ["no, for 60 s", "no, for 3 min"])):
        write_status(finished / "runs" / "mine", replace(STATUS, phase=phase, connected=(oslo, rome)))
        table = connected_table(run_overview(finished / "runs" / "mine"))
        assert list(table.columns[1].cells) == cells


def test_watch_refuses_what_is_no_run_and_a_run_without_it_has_no_page(place, call, monkeypatch):
    code, _, err = call(place, "watch", ".")
    assert (code, err) == (5, "error: expected the folder of a run; . has no config.yaml. Check the path.\n")
    monkeypatch.setattr(serving.subprocess, "Popen", None)
    with watched(None) as callbacks:
        assert callbacks == []


def test_a_log_for_programs_never_holds_the_token_of_a_page(place, call):
    words = ("run", "tiny.yaml", "--watch", "--log-format", "json", "--quiet", "run.name=logged", "model.pooling=mean")
    with pytest.MonkeyPatch.context() as patch:  # the variable that the option sets is for this test alone
        patch.setenv("FEDHELLO_LOG_FORMAT", "text")
        code, _, err = call(place, *words)
        show_notes("text")
    (said,) = [line for line in map(json.loads, err.splitlines()) if line.get("event") == "no page"]
    assert code == 0 and "token" not in err and "127.0.0.1" not in err
    assert said["level"] == "warning" and said["message"].endswith("fedhello watch runs/logged")
