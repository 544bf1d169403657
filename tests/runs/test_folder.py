"""A run's folder: how it gets there whole or not at all, and is read back, also where a file of it is damaged."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from handmade import begun, played, session

from fedhello.errors import ModelError, RunFolderError
from fedhello.report.run_page import write_report
from fedhello.results.finished import read_run
from fedhello.runs import folder as module
from fedhello.runs.answers import Answers
from fedhello.runs.client_columns import LEAST
from fedhello.runs.folder import ENDING, RunFolder, check_free, choose
from fedhello.runs.formats import write_clients
from fedhello.runs.summarise import summarise
from fedhello.session import ClientEntry
from fedhello.types import Adapter

GOLDEN = Path(__file__).parent.parent / "golden" / "run-0.1"


@pytest.fixture
def finished(tmp_path):
    shutil.copytree(GOLDEN / "finished", tmp_path / "run")
    return RunFolder(tmp_path / "run")


@pytest.mark.parametrize("line", ["[]", "{}", "null", "3", "{"])
def test_a_line_that_is_no_round_is_named(line, finished):
    file = finished.path / "rounds.jsonl"
    count = len(file.read_text().splitlines())
    assert len(finished.rounds()) == count > 0
    file.write_text(file.read_text() + line + "\n")
    for read in (finished.rounds, finished.records, lambda: read_run(finished), lambda: write_report(finished.path)):
        with pytest.raises(RunFolderError, match=rf"expected a round in .*rounds\.jsonl, line {count + 1}"):
            read()


def test_a_summary_that_is_no_object_is_refused(finished):
    (finished.path / "summary.json").write_text("[]")
    with pytest.raises(RunFolderError, match="expected the summary of a run, a JSON object; found a list"):
        finished.summary()


def test_damaged_tensors_of_clients_and_models_are_refused(finished):
    for name in ("heads", "models"):
        (finished.path / name).mkdir()
        (finished.path / name / "client-0.safetensors").write_bytes(b"")
    for read in (finished.personal_heads, finished.models):
        with pytest.raises(ModelError, match=r"expected tensors in .*client-0\.safetensors; the file is damaged"):
            read()


SESSION = session(config_yaml="run: {seed: 3}\n", roster=(ClientEntry(0, 1, 5, {"fruit": 5}), ClientEntry(1, 0, 2, {})))


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "out" / "mine")


@pytest.fixture
def begun_folder(folder):
    folder.begin(SESSION)
    return folder


def test_a_folder_appears_whole_and_holds_what_is_known_before_the_first_round(folder):
    folder.begin(SESSION)
    assert {file.name for file in folder.path.iterdir()} == {
        "config.yaml", "clients.json", "data.json", "rounds.jsonl", "log.txt"
    }  # fmt: skip
    assert [file.name for file in folder.path.parent.iterdir()] == ["mine"]
    assert (folder.path / "config.yaml").read_text() == SESSION.config_yaml
    assert folder.clients() == SESSION.roster
    assert folder.records() == folder.rounds() == []
    folder.check()


def test_many_clients_are_columns_and_are_listed_on_demand(folder, call, tmp_path):
    roster = tuple(ClientEntry(k, k % 2, k + 1, {"fruit": k + 1, "metal": 0}) for k in range(LEAST + 1))
    folder.begin(session(config_yaml="run: {seed: 3}\n", roster=roster))
    assert folder.clients_file.name == "clients.npz"
    assert not (folder.path / "clients.json").exists()
    assert folder.clients() == roster
    code, out, _ = call(tmp_path, "clients", folder.path, "--json")
    assert (code, json.loads(out)) == (0, write_clients(roster)["clients"])
    code, out, _ = call(tmp_path, "clients", folder.path)
    assert (code, out.splitlines()[1]) == (0, "tier 1: 500 clients with 2 to 1000 samples, 250500 in all")
    (folder.path / "clients.npz").write_bytes(b"PK")
    assert call(tmp_path, "clients", folder.path)[0] == 5


@pytest.mark.parametrize("step", ["config.yaml", "clients.json", "log.txt", "rename"])
def test_a_folder_that_cannot_be_made_whole_is_not_there_at_all(folder, monkeypatch, step):
    real = module.write_whole

    def write_whole(file, text):
        if file.name == step:
            raise RunFolderError("expected to write; the disk is full")
        real(file, text)

    monkeypatch.setattr(module, "write_whole", write_whole)
    if step == "rename":
        monkeypatch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(RunFolderError, match=r"the disk is full|No space left"):
        folder.begin(SESSION)
    assert list(folder.path.parent.iterdir()) == []


def test_a_folder_that_is_there_is_not_written_to_and_a_run_that_can_go_on_is_named(folder):
    folder.path.mkdir(parents=True)
    with pytest.raises(RunFolderError, match=r"expected a new folder .*mine exists\. Set another run\.name") as caught:
        check_free(folder)
    assert "resume" not in str(caught.value)
    (folder.path / "config.yaml").write_text("")
    with pytest.raises(RunFolderError, match=r"Or resume it: fedhello resume .*mine"):
        folder.begin(SESSION)
    (folder.path / "file").write_text("")
    with pytest.raises(RunFolderError, match="file is not a folder that can be written"):
        check_free(RunFolder(folder.path / "file" / "deep" / "er"))


def test_who_holds_the_lock_may_ask_again_and_nobody_else_writes_meanwhile(begun_folder):
    other = RunFolder(begun_folder.path)
    with begun_folder.locked():
        with begun_folder.locked():
            pass
        with pytest.raises(RunFolderError, match=rf"process {os.getpid()} on .* does\. Wait"), other.locked():
            pass
    with other.locked():
        assert (other.path / ".lock").read_text().startswith(f"process {os.getpid()} on ")
    assert (other.path / ".lock").read_text() == ""


def test_a_free_name_is_made_of_method_and_seed(tmp_path):
    assert choose(tmp_path, "mine", "gd-hla", 3).path == tmp_path / "mine"
    for expected in ("gd-hla-seed3", "gd-hla-seed3-2", "gd-hla-seed3-3"):
        found = choose(tmp_path, None, "gd-hla", 3)
        assert found.path.name == expected
        found.path.mkdir()


def test_rounds_come_back_without_a_torn_last_line_and_finished_ones_without_failed_attempts(begun_folder):
    attempts = [played(0), played(1, failed="too few"), played(1)]
    for one in attempts:
        begun_folder.add_round(one)
    with (begun_folder.path / "rounds.jsonl").open("a") as file:
        file.write('{"round": 2, "cli')
    assert begun_folder.records() == attempts
    assert [entry.report.round for entry in begun_folder.rounds()] == [0, 1]


def test_going_back_drops_later_rounds_and_all_that_an_ended_run_leaves(begun_folder):
    attempts = [played(0), played(1), played(2)]
    for one in attempts:
        begun_folder.add_round(one)
    for name in ENDING:
        file = begun_folder.path / name
        file.write_text("") if "." in name else (file / "inside").mkdir(parents=True)
    with pytest.raises(RunFolderError, match=r"expected the 4 lines of .*rounds\.jsonl .*; found 3"):
        begun_folder.rewind(4)
    assert len(list(begun_folder.path.iterdir())) == 5 + len(ENDING), "an error changes nothing"
    assert begun_folder.rewind(2) == begun_folder.records() == attempts[:2]
    assert not any((begun_folder.path / name).exists() for name in ENDING)


def test_what_a_run_leads_to_is_written_and_read_back(begun_folder, monkeypatch):
    monkeypatch.setattr(module, "save_adapter", lambda model, folder: folder.mkdir())
    one, two = ({"w": torch.full((2, 2), value)} for value in (1.0, 2.0))
    summary = summarise(SESSION, begun(), [], wall_seconds=1.0, status="finished")
    models = {"rank 10": Adapter(one, {}), "rank 2": Adapter(two, {})}
    answers = Answers(("p",), ("r",), ("b",), ("ä",))
    begun_folder.finish(SESSION, summary, models, {7: {"w": one["w"].T}}, answers)
    assert begun_folder.summary() == summary
    assert list(begun_folder.models()) == ["rank-2", "rank-10"], "shorter names first"
    assert torch.equal(begun_folder.models()["rank-10"]["w"], one["w"])
    assert torch.equal(begun_folder.personal_heads()[7]["w"], one["w"])
    assert '"after": "ä"' in (begun_folder.path / "answers.jsonl").read_text()
    begun_folder.rewind(0)
    begun_folder.finish(SESSION, summary, {"": Adapter(one, {})})
    assert begun_folder.models() == begun_folder.personal_heads() == {}
    assert not (begun_folder.path / "answers.jsonl").exists()


def test_what_is_no_run_or_has_not_ended_is_said(folder):
    with pytest.raises(RunFolderError, match=r"expected the folder of a run; .*mine has no config\.yaml"):
        folder.check()
    with pytest.raises(RunFolderError, match=r"expected a run that has ended; .*mine has no summary\.json"):
        folder.summary()
    with pytest.raises(RunFolderError, match=r"expected the list of clients in .*clients\.json; it cannot be read"):
        folder.clients()
    folder.begin(SESSION)
    (folder.path / "summary.json").write_text("{")
    with pytest.raises(RunFolderError, match=r"expected JSON in .*summary\.json"):
        folder.summary()
