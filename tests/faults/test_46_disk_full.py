"""A disk that is full or read-only during a save: the old checkpoint is intact, the error clear, and the run stops."""

import errno
import os

import pytest

from fedhello.runs.checkpoint import Checkpoints, decode
from fedhello.runs.files import write_whole

WORDS = ("run.name=r", "train.rounds=3", "train.measure_memory=false")
FOLDER = 5


@pytest.fixture
def full_from(monkeypatch):
    """Let every write fail from the save after so many rounds on."""

    def arrange(lines, error):
        save = Checkpoints.save

        def failing(self, checkpoint):
            if checkpoint.lines == lines:
                monkeypatch.setattr(os, "fsync", fail)
            save(self, checkpoint)

        def fail(descriptor):
            raise OSError(error, os.strerror(error))

        monkeypatch.setattr(Checkpoints, "save", failing)

    return arrange


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS])
def test_the_run_stops_and_goes_on_when_there_is_room(
    full_from, place, call, processes, undisturbed, outcome, monkeypatch, error
):
    run = place / "runs" / "r"
    with monkeypatch.context():
        full_from(2, error)
        code, _, err = call(place, "run", "tiny.yaml", *WORDS, "--quiet")
        monkeypatch.undo()
    assert code == FOLDER
    said = f"error: expected to write runs/r/checkpoints/checkpoint-000002.safetensors; {os.strerror(error)}\n"
    assert err == said
    assert [decode(file.read_bytes()).lines for file in sorted((run / "checkpoints").iterdir())] == [0, 1]
    assert not (run / "summary.json").exists()
    assert processes.call(place, "resume", "runs/r")[0] == 0
    assert outcome(run) == undisturbed(*WORDS)


def test_only_the_checkpoint_does_not_fit(place, call, processes, undisturbed, outcome, monkeypatch):
    """The failed run still says what it came to."""
    run = place / "runs" / "r"
    save = Checkpoints.save

    def failing(self, checkpoint):
        if checkpoint.lines == 2:
            (self.folder / ".checkpoint-000002.safetensors.tmp").symlink_to("/dev/full")
        save(self, checkpoint)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", failing)
        code, _, err = call(place, "run", "tiny.yaml", *WORDS, "--quiet")
    assert code == FOLDER
    assert err.endswith("No space left on device\n")
    assert '"status": "failed"' in (run / "summary.json").read_text()
    assert processes.call(place, "resume", "runs/r")[0] == 0
    assert outcome(run) == undisturbed(*WORDS)


def test_a_file_that_cannot_be_written_is_as_it_was(tmp_path, monkeypatch):
    file = tmp_path / "file"
    write_whole(file, "before")
    (tmp_path / ".file.tmp").symlink_to("/dev/full")
    with pytest.raises(Exception, match="No space left"):
        write_whole(file, "after")
    assert list(tmp_path.iterdir()) == [file]  # no half of a file is left
    assert file.read_text() == "before"
