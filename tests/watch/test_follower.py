"""What is told of a run that is about to begin, goes on, dies or has ended."""

import json
import threading
from dataclasses import replace

import pytest
from handmade import STATUS

from fedhello.errors import RunFolderError
from fedhello.runs.status import write_status
from fedhello.watch import follower as module
from fedhello.watch.follower import Follower, problem


@pytest.fixture
def followed(tmp_path, monkeypatch):
    """A follower of a folder that is not there yet, and a function that returns its next event."""
    monkeypatch.setattr(module, "LOOK", 0.01)
    one = Follower(tmp_path / "mine")
    thread = threading.Thread(target=one.run)
    thread.start()
    events = one.events()

    def following():
        for event in events:
            if event.startswith("event: status"):
                return json.loads(event.split("data: ", 1)[1])
            if event.startswith("event: change"):
                return "change"

    yield one, following
    one.close()
    thread.join()


def begun(folder):
    folder.mkdir()
    (folder / "config.yaml").write_text("")


def test_a_run_is_followed_from_before_its_folder_to_its_end(followed):
    one, following = followed
    assert (following(), following()) == ("change", {"phase": "loading", "said": ""})
    one.say("loading the model …")
    assert following() == {"phase": "loading", "said": "loading the model …"}
    assert not one.exists
    begun(one.folder)
    assert (following(), following()["phase"]) == ("change", "no word of it")
    write_status(one.folder, STATUS)
    found = following()
    assert (found["round"], found["clients"][0]["step"], found["alive"]) == (2, 20, True)
    (one.folder / "rounds.jsonl").write_text("{}\n")
    assert following() == "change"
    write_status(one.folder, replace(STATUS, phase="ended"))
    assert following()["alive"] is False
    (one.folder / "summary.json").write_text("{}")
    (one.folder / ".status.json").unlink()
    assert {str(following()), str(following())} == {"change", str({"phase": "ended"})}


def test_a_run_that_was_killed_is_not_alive_and_one_elsewhere_is_thought_to_be(tmp_path):
    begun(tmp_path / "mine")
    for status, alive in ((replace(STATUS, updated=1000.0), False), (replace(STATUS, host="elsewhere"), True)):
        write_status(tmp_path / "mine", status)
        assert json.loads(Follower(tmp_path / "mine")._status)["alive"] is alive


def test_a_page_is_made_once_for_all_who_ask_while_nothing_changes(tmp_path, monkeypatch):
    made = []

    class Page:
        def __init__(self, folder):
            made.append(folder)

        def refresh(self):
            made.append("refreshed")

        def html(self, live):
            return f"whole {len(made)}"

        def main(self, live):
            return f"inner {len(made)}"

    monkeypatch.setattr("fedhello.report.run_page.RunPage", Page)
    one = Follower(tmp_path)
    assert [one.html(), one.html(), one.main(), one.main()] == ["whole 2", "whole 2", "inner 3", "inner 3"]
    one._version += 1
    assert one.html() == "whole 4"
    assert made.count(tmp_path) == 1


def test_readers_are_counted_and_a_quiet_run_is_pinged(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PING", 0.01)
    one = Follower(tmp_path)
    events = one.events()
    told = [next(events) for _ in range(4)]
    assert told[-1] == ": nothing new\n\n"
    assert one.followers == 1
    events.close()
    assert one.followers == 0
    one.close()
    assert list(one.events())[-1].startswith("event: status")


def test_a_problem_is_one_line():
    assert problem(RunFolderError("a\nb")) == "this run cannot be shown: a b"
    assert problem(KeyError("a")) == "this run cannot be shown: KeyError: 'a'"


def test_a_page_that_failed_is_read_anew(tmp_path, monkeypatch):
    class Page:
        def __init__(self, folder):
            pages.append(self)

        def refresh(self):
            if len(pages) == 1:
                raise KeyError("half")

        def html(self, live):
            return "whole"

    pages = []
    monkeypatch.setattr("fedhello.report.run_page.RunPage", Page)
    one = Follower(tmp_path)
    with pytest.raises(KeyError):
        one.html()
    assert (one.html(), len(pages)) == ("whole", 2)


def test_a_folder_that_cannot_be_looked_into_is_looked_into_again(followed, monkeypatch):
    _, following = followed
    assert (following(), following()["phase"]) == ("change", "loading")
    looks = []

    def look(self):
        looks.append(1)
        if len(looks) < 3:
            raise PermissionError
        return ("new",)

    monkeypatch.setattr(Follower, "_look", look)
    assert following() == "change"
