"""A run's folder as it is read back, also where a file of it is damaged."""

import shutil
from pathlib import Path

import pytest

from fedhello.errors import ModelError, RunFolderError
from fedhello.report.page import write_report
from fedhello.results.finished import read_run
from fedhello.runs.folder import RunFolder

GOLDEN = Path(__file__).parent.parent / "golden" / "run-0.1"


@pytest.fixture
def finished(tmp_path):
    shutil.copytree(GOLDEN / "finished", tmp_path / "run")
    return RunFolder(tmp_path / "run")


@pytest.mark.parametrize("line", ["[]", "{}", "null", "3", "{"])
def test_a_line_that_is_no_round_is_named(line, finished):
    file = finished.path / "rounds.jsonl"
    count = len(file.read_text().splitlines())
    assert len(finished.rounds()) == count > 0
    file.write_text(file.read_text() + line + "\n")
    for read in (finished.rounds, finished.records, lambda: read_run(finished), lambda: write_report(finished.path)):
        with pytest.raises(RunFolderError, match=rf"expected a round in .*rounds\.jsonl, line {count + 1}"):
            read()


def test_a_summary_that_is_no_object_is_refused(finished):
    (finished.path / "summary.json").write_text("[]")
    with pytest.raises(RunFolderError, match="expected the summary of a run, a JSON object; found a list"):
        finished.summary()


def test_damaged_tensors_of_clients_and_models_are_refused(finished):
    for name in ("heads", "models"):
        (finished.path / name).mkdir()
        (finished.path / name / "client-0.safetensors").write_bytes(b"")
    for read in (finished.personal_heads, finished.models):
        with pytest.raises(ModelError, match=r"expected tensors in .*client-0\.safetensors; it is damaged"):
            read()
