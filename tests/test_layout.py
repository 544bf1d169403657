"""Every module has a test file that mirrors its path."""

from pathlib import Path

TESTS = Path(__file__).parent
SOURCES = TESTS.parent / "src" / "fedhello"

NO_CODE = {"__init__", "__main__"}
"""Docstrings, names that others define, and a call of another module's ``main``."""


def test_every_module_has_a_test_file_that_mirrors_its_path():
    modules = [path.relative_to(SOURCES) for path in SOURCES.rglob("*.py") if path.stem not in NO_CODE]
    assert len(modules) > 100
    missing = [str(path) for path in modules if not (TESTS / path.parent / f"test_{path.name}").is_file()]
    assert not missing, f"without a test file of their own: {', '.join(sorted(missing))}"
