"""The command line as a whole: its commands, its errors and its exit codes."""

import ast
import importlib.metadata
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import fedhello as fh
from fedhello.cli import main

CONFIG = 2
FOLDER = 5
SOURCES = Path(main.__file__).parent

SAID = {
    "fedhello.api": {"checked_folder", "say_loading"},
    "fedhello.comparison.asked": {"asked_seeds"},
    "fedhello.comparison.tuning": {"RATES", "asked_rates"},
    "fedhello.formatting": {"human_bytes", "human_seconds"},
    "fedhello.model.sources": {"IMAGES"},
    "fedhello.network.consent": {"read_consent"},
    "fedhello.network.federation": {"served_folder"},
    "fedhello.network.keys": {"client_steps", "server_steps"},
    "fedhello.network.metrics": {"monitored"},
    "fedhello.network.options": {"default_name"},
    "fedhello.notes": {"always", "be_quiet", "is_json", "show_notes", "tell"},
    "fedhello.report.plan": {"show"},
    "fedhello.report.scores": {"class_tables", "client_lines", "client_table"},
    "fedhello.report.tables": {"show"},
    "fedhello.results.comparison": {"is_comparison"},
    "fedhello.results.overview": {"client_results"},
    "fedhello.results.trained": {"scores_listed"},
    "fedhello.runs.events": {"Events"},
    "fedhello.runs.confusion": {"NO_MATRIX"},
    "fedhello.streams": {"keep_going"},
    "fedhello.watch.serving": {"page_beside", "serve_beside", "serving"},
    "fedhello.watch.teller": {"PageTeller"},
}
"""What the command line takes of fedhello beside its public names: words to read, and words to say."""


def imports(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("fedhello"):
            yield from ((node.module, alias.name) for alias in node.names)


def test_commands_call_the_public_names_and_nothing_else():
    taken = {(module, name) for file in SOURCES.glob("*.py") for module, name in imports(file)}
    others = {
        (module, name) for module, name in taken if not module.startswith("fedhello.cli") and module != "fedhello"
    }
    assert others == {(module, name) for module, names in SAID.items() for name in names}


def test_help_names_every_command_and_loads_nothing_heavy():
    code = (
        "import sys; from fedhello.cli import main; sys.argv = ['fedhello', '--help']\n"
        "try: main.main()\n"
        "finally: print(sorted({'torch', 'transformers', 'numpy', 'pydantic', 'fedhello.api'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.endswith("[]\n")
    assert all(name in out for name in ("keys", *(command.__name__ for command in main.COMMANDS)))


def test_errors_of_every_kind_are_one_sentence_and_their_code(call, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise fh.QuorumError("expected enough; found few")

    monkeypatch.setattr(fh, "load_run", refuse)
    assert call(tmp_path, "evaluate", "runs/x") == (9, "", "error: expected enough; found few\n")

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(fh, "load_run", interrupt)
    assert call(tmp_path, "evaluate", "runs/x")[:2] == (130, "")


@pytest.mark.parametrize("words", [("jog",), ("run", "--fast"), ("predict",)])
def test_a_wrong_command_line(call, tmp_path, words):
    code, out, err = call(tmp_path, *words)
    assert (code, out) == (CONFIG, "")
    assert err.startswith("error: ")
    assert err.endswith("See fedhello --help.\n")
    assert err.count("\n") == 1


def test_the_command_alone_shows_its_help(call, tmp_path):
    code, out, _ = call(tmp_path)
    assert code == 0
    assert "Usage" in out


def test_the_package_runs_as_a_module(monkeypatch):
    ran = []
    monkeypatch.setattr(main, "main", lambda: ran.append("main"))
    runpy.run_module("fedhello", run_name="__main__")
    assert ran == ["main"]


@pytest.mark.parametrize("words", [("evaluate",), ("resume",), ("export",), ("init", "--out")])
def test_a_path_that_no_file_can_have_is_one_sentence(call, tmp_path, words):
    (tmp_path / "x.csv").write_text("text,label\na,b\nc,d\n")
    code, out, err = call(tmp_path, *words[:1], *(["x.csv"] if words[1:] else []), *words[1:], "n" * 300)
    assert (code, out) == (FOLDER, "")
    assert err.startswith("error: expected a path that a file can have; file name too long: nnn")
    assert err.count("\n") == 1


@pytest.mark.parametrize(("name", "odd"), [("a\0b", "U+0000"), ("\ud800", "U+D800"), ("o\udcff", "U+DCFF")], ids=ascii)
@pytest.mark.parametrize(
    "words",
    [
        ("evaluate",), ("resume",), ("predict",), ("report",), ("export",), ("init", "x.csv", "--out"), ("run",),
        ("compare", "--methods", "full", "--out"), ("client", "--dry-run", "--data"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_word_that_is_no_text_is_one_sentence_and_writes_nothing(call, tmp_path, words, name, odd):
    code, out, err = call(tmp_path, *words, name)
    assert (code, out) == (CONFIG, "")
    assert err.startswith(f"error: expected the words of a command to be UTF-8 text without NUL; found {odd}")
    assert err.count("\n") == 1
    assert not any(tmp_path.iterdir())


def test_the_version_is_that_of_the_package(call, tmp_path):
    version = importlib.metadata.version("fedhello")
    assert call(tmp_path, "--version") == (0, f"fedhello {version}\n", "")


@pytest.mark.parametrize("words", [(), ("predict",), ("keys",), ("keys", "server")])
def test_help_is_short_and_long(words, call, tmp_path):
    assert call(tmp_path, *words, "-h") == call(tmp_path, *words, "--help")
    assert "Usage:" in call(tmp_path, *words, "-h")[1]
