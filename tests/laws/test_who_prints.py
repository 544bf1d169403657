"""The library logs under one name, and nothing but an entry point prints."""

import ast
from pathlib import Path

import fedhello

SOURCES = Path(fedhello.__file__).parent

ENTRY_POINTS = {
    "notes.py",  # what entry points call to show what is logged
    "network/preparation.py",  # what a client says to its owner while it joins
    "network/flower_app.py",  # what Flower starts
    "network/flower_main.py",  # a process of Flower, with a log of its own
    "network/local_clients.py",  # the clients of ``fedhello server --local``
    "engine/workers.py",  # what code of a user prints in another process, which has no terminal
}


def printed(tree):
    """Yield what a module prints with, a name and its line: not a console that is quiet or writes into a string."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id == "print":
            yield "print", node.lineno
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in ("sys.stdout", "sys.stderr"):
            yield ast.unparse(node), node.lineno
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "Console":
            harmless = {keyword.arg for keyword in node.keywords} & {"quiet", "file"}
            yield from () if harmless else [("Console", node.lineno)]


def test_nothing_but_an_entry_point_prints():
    found = {
        f"{file.relative_to(SOURCES)}:{line} {what}"
        for file in SOURCES.rglob("*.py")
        if file.relative_to(SOURCES).parts[0] != "cli" and str(file.relative_to(SOURCES)) not in ENTRY_POINTS
        for what, line in printed(ast.parse(file.read_text(encoding="utf-8")))
    }
    assert found == set()


def test_the_scan_sees_every_way_to_print():
    code = "print(1); f(print); sys.stdout.write(''); rich.console.Console().print(); Console(quiet=True)"
    assert sorted(what for what, _ in printed(ast.parse(code))) == ["Console", "print", "print", "sys.stdout"]


def test_there_is_one_logger():
    named = {
        ast.literal_eval(node.args[0])
        for file in SOURCES.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and getattr(node.func, "attr", "") == "getLogger"
        # What other processes log is logged under the names that they used.
        and node.args
        and str(file.relative_to(SOURCES)) != "engine/workers.py"
    }
    assert "fedhello" in named
    assert not {name for name in named if name.startswith("fedhello.")}
