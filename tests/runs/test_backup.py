"""Backups are consistent while a run goes on, resume to the very same result, and lead nowhere else when restored."""

import hashlib
import io
import json
import shutil
import tarfile
import threading

import pytest

import fedhello as fh
from fedhello.errors import RunFolderError
from fedhello.runs import backup as module
from fedhello.runs.callbacks import Callback

WORDS = {"run.name": "r", "train.rounds": 4, "train.measure_memory": False}


@pytest.fixture(scope="module")
def made(workplace, tmp_path_factory):
    """A backup of a run after two of four rounds, made between its writes, and the folder of the run in the end."""
    place = tmp_path_factory.mktemp("made")
    shutil.copytree(workplace, place, ignore=shutil.ignore_patterns("runs"), dirs_exist_ok=True)

    class Saved(Callback):
        def on_round(self, state, record):
            if state.round == 2:
                fh.backup("runs/r", "r.tar")
                shutil.copytree("runs/r", "half", ignore=shutil.ignore_patterns(".*"))

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        fh.run("tiny.yaml", WORDS, callbacks=[Saved()])
    return place


def without_seconds(value):
    if isinstance(value, dict):
        return {k: without_seconds(v) for k, v in value.items() if "second" not in k and k != "process_bytes"}
    return [without_seconds(one) for one in value] if isinstance(value, list) else value


def test_a_backup_made_while_the_run_goes_on_resumes_to_the_very_same_result(made, monkeypatch):
    monkeypatch.chdir(made)
    found = fh.restore("r.tar", "elsewhere/again")
    there = made / "elsewhere" / "again"
    assert (found.run, found.round, found.ended) == ("r", 2, False)
    assert len((there / "rounds.jsonl").read_text().splitlines()) == 2
    assert not list(there.rglob(".*")), "no lock and no status"
    assert not (there / "summary.json").exists()
    assert fh.resume(there).summary.rounds == 4
    for name in ("adapter/adapter_model.safetensors", "adapter/README.md", "data.json"):
        assert (there / name).read_bytes() == (made / "runs" / "r" / name).read_bytes(), name
    ours, theirs = ((place / "rounds.jsonl").read_text().splitlines() for place in (there, made / "runs" / "r"))
    assert [without_seconds(json.loads(line)) for line in ours] == [
        without_seconds(json.loads(line)) for line in theirs
    ]


def test_a_run_that_has_ended_comes_back_with_its_results(made, monkeypatch):
    monkeypatch.chdir(made)
    found = fh.backup("runs/r", "ended.tar")
    assert found.ended and {"summary.json", "adapter/adapter_model.safetensors"} <= found.files.keys()
    fh.restore("ended.tar", "ended")
    assert fh.load_run("ended").summary.final == fh.load_run("runs/r").summary.final


@pytest.fixture
def half(made, tmp_path):
    """The folder of a run that goes on, with three checkpoints."""
    shutil.copytree(made / "half", tmp_path / "half")
    return tmp_path / "half"


def test_a_line_without_its_checkpoint_and_a_torn_one_are_left_out(half, tmp_path):
    lines = (half / "rounds.jsonl").read_text().splitlines()
    newest = sorted((half / "checkpoints").iterdir())[-1]
    with (half / "rounds.jsonl").open("a") as file:
        file.write(lines[-1] + "\n" + lines[-1][:20])
    found = fh.backup(half, tmp_path / "a.tar")
    fh.restore(tmp_path / "a.tar", tmp_path / "back")
    assert (tmp_path / "back" / "rounds.jsonl").read_text().splitlines() == lines
    assert [file.name for file in (tmp_path / "back" / "checkpoints").iterdir()] == [newest.name]
    assert "rounds.jsonl" in found.files and not found.ended


def test_a_damaged_checkpoint_is_passed_over_and_without_a_whole_one_there_is_no_backup(half, tmp_path):
    older, newest = sorted((half / "checkpoints").iterdir())[-2:]
    newest.write_bytes(newest.read_bytes()[:-1] + b"?")
    fh.backup(half, tmp_path / "a.tar")
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert f"checkpoints/{older.name}" in tar.getnames()
    for file in (half / "checkpoints").iterdir():
        file.write_bytes(b"")
    with pytest.raises(RunFolderError, match=r"expected a whole checkpoint in .*damaged"):
        fh.backup(half, tmp_path / "b.tar")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.tar", "half"]


def test_a_folder_that_is_resumed_meanwhile_is_read_again(half, tmp_path, monkeypatch):
    read, times = module._newest, []

    def disturbed(folder):
        if not times:
            shutil.copy(half / "config.yaml", half / "new")
            (half / "new").rename(half / "config.yaml")
        times.append(1)
        return read(folder)

    monkeypatch.setattr(module, "_newest", disturbed)
    monkeypatch.setattr(module, "PAUSE", 0.0)
    fh.backup(half, tmp_path / "a.tar")
    assert len(times) == 2
    monkeypatch.setattr(module, "_marks", lambda folder: object())
    with pytest.raises(RunFolderError, match=r"expected .* to stay the same"):
        fh.backup(half, tmp_path / "b.tar")


def test_checkpoints_that_come_and_go_while_it_is_read_do_no_harm(half, tmp_path):
    """Another thread writes as a run does, without a pause."""
    lines = (half / "rounds.jsonl").read_text().splitlines()
    newest = sorted((half / "checkpoints").iterdir())[-1]
    ended = threading.Event()

    def turn():
        while not ended.is_set():
            newest.rename(newest.with_name("checkpoint-999999.safetensors"))
            newest.with_name("checkpoint-999999.safetensors").rename(newest)

    writer = threading.Thread(target=turn)
    writer.start()
    try:
        for i in range(20):
            fh.backup(half, tmp_path / f"{i}.tar")
    finally:
        ended.set()
        writer.join()
    for i in range(20):
        fh.restore(tmp_path / f"{i}.tar", tmp_path / f"back-{i}")
        assert (tmp_path / f"back-{i}" / "rounds.jsonl").read_text().splitlines() == lines


def test_nothing_is_overwritten(half, tmp_path):
    fh.backup(half, tmp_path / "a.tar")
    with pytest.raises(RunFolderError, match=r"expected a new file for the backup"):
        fh.backup(half, tmp_path / "a.tar")
    with pytest.raises(RunFolderError, match="exists"):
        fh.restore(tmp_path / "a.tar", half)
    with pytest.raises(RunFolderError, match=r"has no config\.yaml"):
        fh.backup(tmp_path, tmp_path / "c.tar")


def rewritten(source, target, change):
    """Write a backup anew; ``change`` gets its members, name → (TarInfo, content), and may change them."""
    with tarfile.open(source) as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar]
    with tarfile.open(target, "w") as tar:
        for member, content in change(members):
            member.size = len(content) if member.isreg() else 0
            tar.addfile(member, io.BytesIO(content))


def named(name, kind=tarfile.REGTYPE, link=""):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


def vouched(members, name, content):
    """Add a file that the manifest names, too."""
    (first, text), *rest = members
    manifest = json.loads(text)
    manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return [(first, json.dumps(manifest).encode()), *rest, (named(name), content)]


TRICKS = {
    "up": lambda m: vouched(m, "../out", b"x"),
    "absolute": lambda m: vouched(m, "/tmp/out", b"x"),
    "inside, and up": lambda m: vouched(m, "adapter/../../out", b"x"),
    "hidden": lambda m: vouched(m, ".lock", b"x"),
    "not in the manifest": lambda m: [*m, (named("more"), b"x")],
    "twice": lambda m: [*m, (named("rounds.jsonl"), b"x")],
    "a link": lambda m: [*m[:-1], (named(m[-1][0].name, tarfile.SYMTYPE, "/etc/passwd"), b"")],
    "a hard link": lambda m: [*m[:-1], (named(m[-1][0].name, tarfile.LNKTYPE, "config.yaml"), b"")],
    "a device": lambda m: [*m[:-1], (named(m[-1][0].name, tarfile.CHRTYPE), b"")],
    "another content": lambda m: [*m[:-1], (m[-1][0], m[-1][1][:-1] + b"?")],
    "one missing": lambda m: m[:-1],
    "no manifest": lambda m: m[1:],
    "a later format": lambda m: [(m[0][0], m[0][1].replace(b'"format": 1', b'"format": 9')), *m[1:]],
}


@pytest.mark.parametrize("trick", TRICKS)
def test_what_is_no_backup_is_refused_and_leaves_nothing(trick, half, tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    fh.backup(half, tmp_path / "good.tar")
    rewritten(tmp_path / "good.tar", tmp_path / "bad.tar", TRICKS[trick])
    with pytest.raises(RunFolderError, match=r"expected a backup made by fedhello backup .* Nothing was restored"):
        fh.restore(tmp_path / "bad.tar", place / "back")
    assert list(place.iterdir()) == []
    assert sorted(file.name for file in tmp_path.iterdir()) == ["bad.tar", "good.tar", "half", "place"]


def hole(name, size):
    """A file that is nothing but a hole, and takes a few bytes in an archive."""
    member = named(name)
    member.pax_headers = {"GNU.sparse.map": "0,0", "GNU.sparse.size": str(size)}
    return member


BOMBS = {
    "longer than said": lambda m: [*m[:-1], (m[-1][0], m[-1][1] + b"?")],
    "a hole, of another size": lambda m: [*m[:-1], (hole(m[-1][0].name, 2**40), b"")],
    "a hole, of the size said": lambda m: [*m[:-1], (hole(m[-1][0].name, len(m[-1][1])), b"")],
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_file_that_is_not_as_long_as_the_manifest_says_is_never_written(bomb, half, tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(module, "_copy", lambda content, place, entry, file: written.append(place.name))
    fh.backup(half, tmp_path / "good.tar")
    rewritten(tmp_path / "good.tar", tmp_path / "bad.tar", BOMBS[bomb])
    with tarfile.open(tmp_path / "good.tar") as tar:
        *others, last = [name.rsplit("/")[-1] for name in tar.getnames()][1:]
    with pytest.raises(RunFolderError, match=f"{last} is not of the size that its manifest says.*Nothing was restored"):
        fh.restore(tmp_path / "bad.tar", tmp_path / "back")
    assert written == others and not (tmp_path / "back").exists()


@pytest.mark.parametrize("content", [b"", b"no tar at all" * 100, None])
def test_a_file_that_is_no_tar_or_torn_is_refused(content, half, tmp_path):
    fh.backup(half, tmp_path / "good.tar")
    whole = (tmp_path / "good.tar").read_bytes()
    (tmp_path / "bad.tar").write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(RunFolderError, match=r"expected a backup"):
        fh.restore(tmp_path / "bad.tar", tmp_path / "back")
    with pytest.raises(RunFolderError, match=r"expected a backup"):
        fh.restore(tmp_path / "missing.tar", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_a_full_disk_leaves_no_half_of_a_backup(half, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(RunFolderError, match="No space left on device"):
        fh.backup(half, tmp_path / "a.tar")
    assert [file.name for file in tmp_path.iterdir()] == ["half"]
