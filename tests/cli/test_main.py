import os
import re
import signal

import pytest
import typer

from fedhello.cli import main
from fedhello.errors import FedhelloError, QuorumError


@pytest.fixture
def fails(monkeypatch):
    """Let the command ``methods`` raise something."""

    def build(error):
        def command():
            raise error

        app = typer.Typer(pretty_exceptions_enable=False)
        app.command()(command)
        app.callback()(lambda: None)
        monkeypatch.setattr(main, "app", app)

    return build


def test_the_command_alone_shows_its_help(call, tmp_path):
    code, out, err = call(tmp_path)
    assert (code, err) == (0, "")
    assert all(re.search(rf"\b{command.__name__}\b", out) for command in main.COMMANDS if command.__name__ != "client")


@pytest.mark.parametrize("error", [QuorumError("expected two, found one"), FedhelloError("expected two, found one")])
def test_an_error_is_one_sentence_and_the_code_of_its_kind(error, fails, call, tmp_path):
    fails(error)
    assert call(tmp_path, "command") == (error.exit_code, "", "error: expected two, found one\n")


def test_an_interrupted_command_ends_with_130(fails, call, tmp_path):
    for error in (KeyboardInterrupt(), typer.Abort()):
        fails(error)
        code, out, err = call(tmp_path, "command")
        assert (code, out) == (130, "")
        assert err in ("", "interrupted\n")


def test_being_asked_to_end_is_being_interrupted(monkeypatch, call, tmp_path):
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(lambda: os.kill(os.getpid(), signal.SIGTERM))
    monkeypatch.setattr(main, "app", app)
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert call(tmp_path)[0] == 130
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("words", [["no-such-command"], ["methods", "--no-such-option"], ["resume"]])
def test_a_wrong_command_line_is_one_sentence_and_says_where_help_is(words, call, tmp_path):
    code, out, err = call(tmp_path, *words)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and err.endswith("See fedhello --help.\n")


def test_what_nobody_foresaw_is_not_hidden(fails, call, tmp_path):
    fails(ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError, match="a bug"):
        call(tmp_path, "command")
