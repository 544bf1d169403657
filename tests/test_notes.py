import logging

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
    import io
    import sys

    notes.show_notes()
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    logger.warning("later")
    assert sys.stderr.getvalue() == "note: later\n"
