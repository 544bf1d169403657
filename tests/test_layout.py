"""Every module has a test file that mirrors its path."""

from pathlib import Path

TESTS = Path(__file__).parent
SOURCES = TESTS.parent / "src" / "fedhello"

NO_CODE = {"__init__", "__main__"}
"""Docstrings, names that others define, and a call of another module's ``main``."""

ELSEWHERE = {
    "config/partitions.py": "config/test_schema.py",
    "data/memory.py": "test_api.py",
    "data/settings.py": "config/test_settings.py",
    "flower.py": "e2e/test_flower_app.py",
    "model/in_memory.py": "test_api.py",
    "model/settings.py": "config/test_settings.py",
    "network/flower_nodes.py": "network/test_strategy.py",
    "network/flower_planning.py": "network/test_strategy.py",
    "network/flower_records.py": "network/test_flower_client.py",
    "plugins.py": "test_registry.py",
    "runs/answers.py": "runs/test_language.py",
    "runs/console.py": "e2e/test_demo.py",
    "runs/folder.py": "faults/test_45_damaged_checkpoint.py",
    "runs/progress.py": "faults/test_44_kill_server.py",
    "runs/recorders.py": "test_api.py",
    "runs/runner.py": "e2e/test_demo.py",
    "runs/saved.py": "test_api.py",
    "runs/selection.py": "runs/test_heads.py",
    "runs/summarise.py": "e2e/test_demo.py",
    "session.py": "test_api.py",
    "setup/inventory.py": "cli/test_inventory.py",
    "setup/objects.py": "comparison/test_objects.py",
    "setup/training.py": "runs/test_train_options.py",
}
"""Modules whose promises only whole runs show, and the tests that do."""


def has_its_file(module):
    return (TESTS / module).with_name(f"test_{Path(module).name}").is_file()


def test_every_module_has_a_test_file_that_mirrors_its_path():
    modules = [str(path.relative_to(SOURCES)) for path in SOURCES.rglob("*.py") if path.stem not in NO_CODE]
    assert len(modules) > 100
    missing = [module for module in modules if not has_its_file(module) and module not in ELSEWHERE]
    assert not missing, f"without a test file of their own: {', '.join(sorted(missing))}"


def test_what_is_tested_elsewhere_is_tested_there():
    absent = [file for file in ELSEWHERE.values() if not (TESTS / file).is_file()]
    assert not absent
