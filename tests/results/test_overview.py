"""What runs there are and what they do, from folders that may be torn, foreign, or of a run that was killed."""

import json
import os
import time
from dataclasses import replace

import pytest
from handmade import STATUS, lost, played, trained

from fedhello.errors import RunFolderError
from fedhello.results import overview as module
from fedhello.results.overview import client_results, list_runs, run_overview
from fedhello.runs.folder import RunFolder
from fedhello.runs.formats import write_clients
from fedhello.runs.status import write_status
from fedhello.session import ClientEntry

CLIENTS = tuple(ClientEntry(k, 0, 10, ("a",), {"name": f"site-{k}"}) for k in range(3))


def made(folder, records=(), summary=None, status=None):
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("method: {name: full}\ntrain: {rounds: 5}\n")
    (folder / "rounds.jsonl").write_text("")
    (folder / "clients.json").write_text(json.dumps(write_clients(CLIENTS)))
    for record in records:
        RunFolder(folder).add_round(record)
    if summary is not None:
        (folder / "summary.json").write_text(json.dumps(summary))
    if status is not None:
        write_status(folder, status)
    return folder


def of(folder):
    found = run_overview(folder)
    return found.status, found.round, found.rounds, found.accuracy, found.method, found.now is not None


def test_the_state_of_a_run_follows_from_its_files_and_its_process(tmp_path):
    two = [played(0, test=0.5), played(1, test=0.75)]
    assert of(made(tmp_path / "new")) == ("killed", 0, 5, None, "full", False)
    assert of(made(tmp_path / "runs", two, status=STATUS)) == ("running", 2, 5, 0.75, "full", True)
    assert of(made(tmp_path / "away", two, status=replace(STATUS, host="x"))) == ("elsewhere", 2, 5, 0.75, "full", True)
    dead = replace(STATUS, updated=1000.0)
    assert of(made(tmp_path / "dead", two, status=dead)) == ("killed", 2, 5, 0.75, "full", False)
    summary = {"status": "interrupted", "final": 0.25}
    ended = replace(STATUS, phase="ended")
    assert of(made(tmp_path / "over", two, summary, ended)) == ("interrupted", 2, 5, 0.25, "full", False)
    # Its last attempt failed, and the round before was not scored.
    more = [*two, played(2, test=None), played(3, failed="too few", test=None)]
    assert of(made(tmp_path / "failed", more, {"status": "failed"})) == ("failed", 3, 5, None, "full", False)
    assert of(made(tmp_path / "going", more, status=STATUS))[1:4] == (3, 5, 0.75)


def test_what_is_torn_or_foreign_is_left_out(tmp_path):
    folder = made(tmp_path / "mine", [played(0)])
    with (folder / "rounds.jsonl").open("a") as file:
        file.write('null\n"a"\n{"round": 1, "failed": null, "te')
    (folder / "summary.json").write_text("{")
    (folder / "config.yaml").write_text("a: [")
    assert of(folder) == ("killed", 1, None, 0.5, None, False)
    with pytest.raises(RunFolderError, match=r"has no config\.yaml"):
        run_overview(tmp_path)
    with pytest.raises(RunFolderError, match="expected a folder of runs"):
        list_runs(tmp_path / "missing")


@pytest.mark.parametrize(
    "line", ['{"round": "x"}', '{"round": null}', '{"round": -7}', '{"round": true}', "{}", "[" * 100_000]
)
def test_one_damaged_run_does_not_hide_the_others(tmp_path, line):
    bad = made(tmp_path / "bad", [played(0)], {"status": "finished", "final": "x", "method": ["a"]})
    made(tmp_path / "good", [played(0)])
    with (bad / "rounds.jsonl").open("a") as file:
        file.write(f"{line}\n")
    (bad / "config.yaml").write_text("[" * 100_000 if line.startswith("[") else "method: {name: [full]}\ntrain: x\n")
    found = {one.name: (one.status, one.round, one.method, one.accuracy) for one in list_runs(tmp_path)}
    assert found == {"bad": ("finished", 1, None, None), "good": ("killed", 1, "full", 0.5)}


@pytest.mark.parametrize("clients", ["[{}]", "[3]", "3", '[{"client": "x"}]'])
def test_a_round_with_damaged_clients_is_named(tmp_path, clients):
    folder = made(tmp_path / "mine", [played(0)])
    with (folder / "rounds.jsonl").open("a") as file:
        file.write(f'{{"round": 1, "failed": null, "clients": {clients}}}\n')
    assert of(folder)[:2] == ("killed", 2)
    with pytest.raises(RunFolderError, match=r"expected a round in the last line of .*rounds\.jsonl"):
        client_results(folder)


def test_a_run_that_is_removed_while_runs_are_listed_is_left_out(tmp_path, monkeypatch):
    made(tmp_path / "mine")
    monkeypatch.setattr(module, "_runs_in", lambda *_: [tmp_path / "gone", tmp_path / "mine"])
    assert [one.name for one in list_runs(tmp_path)] == ["mine"]


def test_long_lines_are_read_from_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TAIL", 64)
    assert of(made(tmp_path / "mine", [played(0), played(1, [trained(k) for k in range(50)])]))[:2] == ("killed", 2)


def test_runs_are_found_in_folders_of_folders_and_the_last_that_changed_comes_first(tmp_path):
    old, new = made(tmp_path / "old"), made(tmp_path / "comparison" / "seed0" / "full")
    made(tmp_path / ".hidden")
    made(old / "inner")  # a run holds no runs
    made(tmp_path / "1" / "2" / "3" / "4")
    for folder, age in ((old, 100), (new, 10)):
        os.utime(folder / "rounds.jsonl", (time.time() - age,) * 2)
    found = list_runs(tmp_path)
    assert [(one.name, round(one.age / 10)) for one in found] == [("full", 1), ("old", 10)]
    json.dumps([one.to_dict() for one in found])


def test_each_client_of_the_last_round_has_its_numbers_or_why_it_does_not_count(tmp_path):
    folder = made(tmp_path / "mine", [played(0), played(1, [trained(2), trained(0)], rejections=(lost(1, 1),))])
    found = client_results(folder)
    assert [(one["client"], one["name"], one["counts"]) for one in found] == [
        (0, "site-0", True), (1, "site-1", False), (2, "site-2", True),
    ]  # fmt: skip
    assert (found[0]["metrics"]["loss"], found[1]["reason"], found[2]["bytes_up"]) == (1.0, "late", 100)
