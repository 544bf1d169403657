import io
import json
import logging
import os
import subprocess
import sys
from datetime import datetime, timedelta

import pytest

from fedhello import notes


@pytest.fixture
def logger(monkeypatch):
    monkeypatch.setattr(notes.logger, "handlers", [])
    return notes.logger


def test_a_library_says_nothing_by_itself_and_a_program_each_note_once_on_one_line(logger, capsys):
    logging.getLogger("fedhello").addHandler(logging.NullHandler())
    logger.warning("1 of %d texts were cut", 3)
    assert capsys.readouterr().err == ""
    notes.show_notes()
    notes.show_notes()  # who asks twice hears once
    logger.warning("1 of %d texts were cut", 3)
    logger.info("a detail")
    out, err = capsys.readouterr()
    assert (out, err) == ("", "note: 1 of 3 texts were cut\n")


def test_lines_go_where_standard_error_is_at_that_moment(logger, capsys, monkeypatch):
    notes.show_notes()
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    logger.warning("later")
    assert sys.stderr.getvalue() == "note: later\n"


@pytest.fixture
def in_json(logger, monkeypatch):
    """Let standard error be JSON, and return what goes there; everything is as before afterwards."""
    level = logger.level

    def speak():
        stream = io.StringIO()
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setattr(sys, "excepthook", sys.excepthook)
        monkeypatch.setenv(notes.FORMAT, "json")
        notes.show_notes()
        return stream

    yield speak
    logger.setLevel(level)


def objects(stream):
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_as_json_whatever_is_written_is_one_object_a_line(in_json, logger):
    stream = in_json()
    print("note: a column is missing", file=sys.stderr)
    print("error: expected a file\nloading …", end="", file=sys.stderr)
    print("\r 10 %\r 20 %", file=sys.stderr)
    logger.info(notes.Line("berlin has joined: 1 of 3", event="joined", name="berlin"))
    logger.warning("1 of %d texts were cut", 3)
    found = objects(stream)
    assert [(entry["level"], entry["message"]) for entry in found] == [
        ("warning", "a column is missing"),
        ("error", "expected a file"),
        ("info", "20 %"),
        ("info", "berlin has joined: 1 of 3"),
        ("warning", "1 of 3 texts were cut"),
    ]
    assert found[3]["event"] == "joined" and found[3]["name"] == "berlin"
    assert all(datetime.fromisoformat(entry["time"]).utcoffset() == timedelta(0) for entry in found)
    assert all(entry["time"].endswith("Z") for entry in found)


def test_fields_of_a_process_stand_in_every_object_and_an_unforeseen_error_is_one(in_json):
    stream = in_json()
    notes.always(name="madrid")
    notes.tell("expected a server", "error", exit_code=10)
    try:
        raise ZeroDivisionError("by nothing")
    except ZeroDivisionError as error:
        sys.excepthook(type(error), error, error.__traceback__)
    first, second = objects(stream)
    assert (first["name"], first["level"], first["exit_code"]) == ("madrid", "error", 10)
    assert (second["name"], second["error"], second["exit_code"]) == ("madrid", "ZeroDivisionError", 1)
    assert "test_notes.py" in second["traceback"]


def test_in_words_fields_are_not_shown_and_levels_are(logger, capsys):
    notes.tell(notes.Line("berlin has joined", name="berlin"))
    notes.tell("it waits", "warning", round=3)
    notes.tell("expected a file", "error")
    assert capsys.readouterr().err == "berlin has joined\nnote: it waits\nerror: expected a file\n"


def test_what_is_asked_for_holds_for_processes_that_it_starts(in_json):
    stream = in_json()
    notes.show_notes("text")
    assert sys.stderr is stream and os.environ[notes.FORMAT] == "text"
    notes.show_notes("json")
    code = "from fedhello import notes; notes.show_notes(); notes.logger.warning('hello')"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(child.stderr)["message"] == "hello"
