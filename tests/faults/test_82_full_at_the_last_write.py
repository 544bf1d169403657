"""A disk that is full at the last write → exit 5, status `failed`, weights kept, resumable."""

import errno
import json
import os
import subprocess
from pathlib import Path

import pytest

import fedhello as fh
from fedhello.errors import RunFolderError
from fedhello.model.adapter import LoraModel
from fedhello.runs import folder as folders

FOLDER = 5
WORDS = {"run.name": "r", "train.measure_memory": False}


@pytest.fixture
def disk(tmp_path):
    """A small file system of its own, and a function that fills it up to some free bytes."""
    where = tmp_path / "disk"
    where.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", where], capture_output=True).returncode:
        pytest.skip("mounting needs to be root")

    def fill(free):
        filler = where / "filler"
        filler.unlink(missing_ok=True)
        system = os.statvfs(where)
        filler.write_bytes(b"\0" * max(0, system.f_bavail * system.f_frsize - free))

    yield where, fill
    subprocess.run(["umount", where], check=True)


class Filling(fh.Callback):
    def __init__(self, fill, free):
        self.fill, self.free = fill, free

    def on_round(self, state, record):
        if state.round == 2:
            self.fill(self.free)


@pytest.mark.parametrize("free", [0, 8192, 16_384])
def test_on_a_full_file_system_the_weights_are_kept_and_the_run_finishes_without_training(
    disk, place, monkeypatch, free
):
    monkeypatch.chdir(place)
    where, fill = disk
    with pytest.raises(RunFolderError, match=r"expected to write .*No space left on device"):
        fh.run("tiny.yaml", {**WORDS, "run.out": str(where)}, callbacks=[Filling(fill, free)])
    run = where / "r"
    if (run / "summary.json").exists():
        assert json.loads((run / "summary.json").read_text())["status"] == "failed"
    left = {file.name for file in run.rglob(".*")} - {".lock", ".lock.held", ".status.json"}
    assert not left, "nothing half-written"
    (where / "filler").unlink()
    done = fh.resume(run, callbacks=[Untrained()])
    assert (done.summary.status, done.summary.rounds) == ("finished", 2)
    assert done.evaluate().test.accuracy == done.summary.final


class Untrained(fh.Callback):
    def on_round(self, state, record):
        raise AssertionError("no round is left to train")


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("last", ["adapter_model.safetensors", "README.md", "summary.json", "report.html"])
def test_each_of_the_last_writes_may_fail(place, call, monkeypatch, last):
    """The summary says so where it can be written; ``resume`` writes what is missing, and trains nothing."""
    run = place / "runs" / "r"
    with monkeypatch.context() as patch:
        if last == "adapter_model.safetensors":
            patch.setattr("safetensors.torch.serialize_file", full)
            patch.setattr("peft.peft_model.safe_save_file", full)
        elif last == "README.md":
            patch.setattr(LoraModel, "card", full)
        else:
            replace = Path.replace
            patch.setattr(Path, "replace", lambda file, to: full() if to.name == last else replace(file, to))
        code, out, err = call(place, "run", "tiny.yaml", "run.name=r", "train.measure_memory=false", "--json")
    assert (code, out) == (FOLDER, "")
    assert err.startswith("error: expected to write runs/r/")
    assert ("fedhello report runs/r" if last == "report.html" else "fedhello resume runs/r") in err
    assert err.count("\n") == 1
    status = {"summary.json": None, "report.html": "finished"}.get(last, "failed")
    found = json.loads((run / "summary.json").read_text()) if (run / "summary.json").exists() else {"status": None}
    assert found["status"] == status
    rounds = (run / "rounds.jsonl").read_text()
    code, _, err = call(place, "resume", "runs/r")
    assert (code, err) == (0, "")
    assert (run / "rounds.jsonl").read_text() == rounds
    assert json.loads((run / "summary.json").read_text())["status"] == "finished"
    assert {"adapter", "report.html"} <= {file.name for file in run.iterdir()}


@pytest.mark.parametrize("form", ["adapter", "merged"])
def test_an_export_that_does_not_fit_leaves_nothing(disk, place, monkeypatch, form):
    monkeypatch.chdir(place)
    where, fill = disk
    run = fh.run("tiny.yaml", WORDS)
    fill(16_384)
    with pytest.raises(RunFolderError, match=r"expected to write .*No space left on device"):
        run.export(where / "out", form=form)
    assert [file.name for file in where.iterdir()] == ["filler"]


def test_too_little_room_is_said_before_training(disk, place, monkeypatch):
    monkeypatch.chdir(place)
    where, fill = disk
    fill(100_000)
    with pytest.raises(RunFolderError, match=r"expected 2\d\d kB of room for .*; \d+.* kB are free\. Make room"):
        fh.run("tiny.yaml", {**WORDS, "run.out": str(where)})
    assert [file.name for file in where.iterdir()] == ["filler"]


@pytest.mark.parametrize("name", ["n" * 245, "ü" * 125, "a\0b", "a\ud800b"])
def test_names_that_leave_no_room_for_what_is_put_around_them_are_refused(place, monkeypatch, name):
    monkeypatch.chdir(place)
    monkeypatch.setattr("fedhello.setup.prepare.load", full)  # it is said before anything is loaded
    for key in ("run.name", "run.out"):
        with pytest.raises((RunFolderError, fh.ConfigError), match=r"expected (names|a path|run\.\w+ to be a text)"):
            fh.run("tiny.yaml", {**WORDS, key: name})
    assert not (place / "runs").exists()
    folders.check_path(Path("n" * 240))
