import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer

from fedhello.cli.output import console_for, file_and_overrides, list_files, refuse, say_notes, say_result, try_out
from fedhello.errors import ConfigError, MissingExtraError, OutOfReachError


def test_words_with_an_equals_sign_are_overrides_and_the_one_other_is_the_file():
    assert file_and_overrides(None) == (None, [])
    assert file_and_overrides(["a.b=c", "my.yaml", "d=e=f"]) == (Path("my.yaml"), ["a.b=c", "d=e=f"])
    with pytest.raises(ConfigError, match=r"one configuration file; found 2: a\.yaml, b\.yaml"):
        file_and_overrides(["a.yaml", "b.yaml"])


def test_what_is_not_the_result_goes_to_standard_error_where_json_is_asked_for(capsys):
    console, hidden = console_for(as_json=True, quiet=False)
    console.print("a round")
    assert hidden
    assert not console_for(as_json=False, quiet=False)[1]
    say_notes(["one", "two"])
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "a round\nnote: one\nnote: two\n"


def test_files_are_listed_with_what_to_do_next(capsys):
    list_files([Path("keys/a"), Path("keys/b")], ["keep a", "give b away"])
    assert capsys.readouterr().out == "wrote keys/a, keys/b\nkeep a\ngive b away\n"


def test_options_without_a_meaning_are_named():
    refuse(set(), "elsewhere")
    with pytest.raises(ConfigError, match="expected no --out or --target here; that is for several runs"):
        refuse({"--target", "--out"}, "for several runs")


@pytest.fixture
def ended(tmp_path, monkeypatch):
    """A run that has ended, with nothing in it but a summary, and what becomes of its report."""

    def build(status, report=None):
        (tmp_path / "summary.json").write_text(json.dumps({"status": status, "rounds": 1}))

        def write(folder):
            if report is None:
                raise MissingExtraError("run: pip install 'fedhello[report]'")
            return report

        monkeypatch.setattr("fedhello.report.page.write_report", write)
        return SimpleNamespace(path=tmp_path, summary=SimpleNamespace(status=status, rounds=1))

    return build


def test_a_result_is_its_summary_alone_where_json_is_asked_for(ended, capsys):
    say_result(ended("finished", Path("report.html")), as_json=True, quiet=False, go_on="resume")
    out, err = capsys.readouterr()
    assert (json.loads(out), err) == ({"status": "finished", "rounds": 1}, "")
    say_result(ended("finished", Path("report.html")), as_json=False, quiet=False, go_on="resume")
    assert capsys.readouterr().out == "report: report.html\n"


def test_a_report_that_cannot_be_drawn_is_a_note_and_no_failure(ended, capsys):
    say_result(ended("finished"), as_json=False, quiet=False, go_on="resume")
    assert capsys.readouterr() == ("", "note: no report.html, run: pip install 'fedhello[report]'\n")


def test_an_interrupted_run_ends_with_130_and_says_how_to_go_on(ended, capsys):
    with pytest.raises(typer.Exit) as caught:
        say_result(ended("interrupted", Path("x")), as_json=False, quiet=True, go_on="fedhello resume RUN")
    assert caught.value.exit_code == 130
    assert capsys.readouterr() == ("", "interrupted; go on with: fedhello resume RUN\n")


def test_what_must_be_downloaded_first_is_said_not_to_have_been_looked_at(monkeypatch, capsys):
    def out_of_reach(config):
        raise OutOfReachError("some/model is on the hub")

    monkeypatch.setattr("fedhello.setup.prepare.prepare", out_of_reach)
    config = SimpleNamespace(method=SimpleNamespace(name="gd-hla"), train=SimpleNamespace(rounds=3))
    try_out(config, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"checked": "configuration", "unchecked": "some/model is on the hub"}
    try_out(config, as_json=False)
    assert capsys.readouterr().out.splitlines()[0] == "the configuration is in order: gd-hla, 3 rounds"
