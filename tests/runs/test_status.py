"""What a run does right now, as a file that readers may find torn, foreign or old."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from handmade import STATUS

from fedhello.runs.status import FILE, read_status, write_status


def test_what_is_written_is_read(tmp_path):
    write_status(tmp_path, STATUS)
    assert read_status(tmp_path) == STATUS
    assert [file.name for file in tmp_path.iterdir()] == [FILE]
    assert json.loads((tmp_path / FILE).read_text())["clients"][0] == {
        "client": 3, "name": "berlin", "tier": 1, "phase": "training", "step": 20, "steps": 60, "since": 1101.0,
    }  # fmt: skip


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"format": 2}', b'{"pid": 1}', b"null"])
def test_what_is_no_status_is_none(tmp_path, content):
    assert read_status(tmp_path) is None
    (tmp_path / FILE).write_bytes(content)
    assert read_status(tmp_path) is None


def test_a_torn_file_and_a_folder_in_its_place_are_none_and_newer_keys_do_no_harm(tmp_path):
    whole = json.dumps(STATUS.to_dict())
    (tmp_path / FILE).write_text(whole[: len(whole) // 2])
    assert read_status(tmp_path) is None
    (tmp_path / FILE).write_text(json.dumps({**STATUS.to_dict(), "later": 1}))
    assert read_status(tmp_path) == STATUS
    (tmp_path / FILE).unlink()
    (tmp_path / FILE).mkdir()
    assert read_status(tmp_path) is None


def test_a_process_is_alive_until_it_has_ended_or_another_has_its_number():
    assert STATUS.is_alive is True
    assert replace(STATUS, host="elsewhere").is_alive is None
    assert replace(STATUS, updated=1000.0).is_alive is False  # this process began later
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    ended = replace(STATUS, pid=child.pid)
    assert ended.is_alive is False  # not yet waited for
    child.wait()
    assert ended.is_alive is False
