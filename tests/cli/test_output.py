"""What commands print, and where."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import typer

from fedhello.cli import output
from fedhello.cli.output import console_for, draw_report, file_and_overrides, named, refuse, say_result
from fedhello.errors import ConfigError, MissingExtraError

CONFIG = 2


def test_the_file_is_told_from_the_overrides_whatever_their_order():
    assert file_and_overrides(["train.rounds=2", "my.yaml", "run.name=a=b"]) == (
        Path("my.yaml"), ["train.rounds=2", "run.name=a=b"],
    )  # fmt: skip
    assert file_and_overrides(None) == (None, [])


def test_what_is_not_given_is_not_passed_on_and_what_has_no_meaning_is_refused():
    assert named(a=None, b=0, c=False) == {"b": 0, "c": False}
    refuse(named(out=None), "elsewhere")
    with pytest.raises(ConfigError, match=r"^expected no --out or --target here; that is elsewhere$"):
        refuse(named(target=0.5, out="x"), "elsewhere")


def test_progress_and_a_result_do_not_share_standard_output():
    assert console_for(as_json=True, quiet=False) is None
    assert console_for(as_json=False, quiet=True) is None
    assert console_for(as_json=False, quiet=False) is not None


def test_an_interrupted_run_says_how_it_goes_on_and_ends_with_130(capsys):
    summary = SimpleNamespace(rounds=0, status="interrupted", to_dict=lambda: {"status": "interrupted"})
    with pytest.raises(typer.Exit) as ended:
        say_result(SimpleNamespace(summary=summary), None, True, "fedhello resume x")
    assert ended.value.exit_code == 130
    assert capsys.readouterr() == ('{"status": "interrupted"}\n', "interrupted; resume with: fedhello resume x\n")


def test_a_report_that_cannot_be_drawn_is_a_note(monkeypatch, capsys):
    def lacking(_):
        raise MissingExtraError("needs vl-convert-python")

    monkeypatch.setattr(output.fh, "write_report", lacking)
    assert draw_report(None) is None
    assert capsys.readouterr().err == "note: no report.html, needs vl-convert-python\n"


def test_two_configuration_files(call, tmp_path):
    code, _, err = call(tmp_path, "run", "a.yaml", "b.yaml")
    assert (code, "expected one configuration file; found 2: a.yaml, b.yaml" in err) == (CONFIG, True)
