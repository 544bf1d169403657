"""Every module has a test file that mirrors its path."""

from pathlib import Path

TESTS = Path(__file__).parent
SOURCES = TESTS.parent / "src" / "fedhello"

NO_CODE = {"__init__", "__main__"}
"""Docstrings, names that others define, and a call of another module's ``main``."""


def has_its_file(module):
    return (TESTS / module).with_name(f"test_{Path(module).name}").is_file()


def test_every_module_has_a_test_file_that_mirrors_its_path():
    modules = [str(path.relative_to(SOURCES)) for path in SOURCES.rglob("*.py") if path.stem not in NO_CODE]
    assert len(modules) > 100
    missing = [module for module in modules if not has_its_file(module)]
    assert not missing, f"without a test file of their own: {', '.join(sorted(missing))}"
