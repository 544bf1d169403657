import errno
import os
from pathlib import Path

import pytest

from fedhello.errors import RunFolderError
from fedhello.runs.files import append_line, check_path, whole_lines, write_whole


def test_a_file_is_replaced_whole_and_leaves_nothing_beside_it(tmp_path):
    file = tmp_path / "a.json"
    write_whole(file, "one")
    write_whole(file, b"\x00two")
    assert file.read_bytes() == b"\x00two"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_where_a_write_fails_what_was_there_is_there_still(step, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    file = tmp_path / "a.json"
    write_whole(file, "before")
    with monkeypatch.context() as patch:
        patch.setattr(os if step == "fsync" else Path, step, full)
        with pytest.raises(RunFolderError, match=r"expected to write .*a\.json; No space left on device"):
            write_whole(file, "after")
    assert file.read_text() == "before"
    assert list(tmp_path.iterdir()) == [file]


def test_lines_are_added_and_a_torn_last_one_is_left_out(tmp_path):
    file = tmp_path / "lines"
    assert whole_lines(file) == []
    append_line(file, "one ü")
    append_line(file, "two")
    assert whole_lines(file) == ["one ü", "two"]
    with file.open("ab") as opened:
        opened.write("three ü".encode()[:-1])  # killed within a character
    assert whole_lines(file) == ["one ü", "two"]


def test_bytes_that_are_no_text_are_refused_by_the_files_name(tmp_path):
    (tmp_path / "lines").write_bytes(b'{"a": "\xff"}\n')
    with pytest.raises(RunFolderError, match=r"expected lines of text in .*lines; the file cannot be read: .*utf-8"):
        whole_lines(tmp_path / "lines")


@pytest.mark.parametrize("name", ["o\udcff", "o\ud800", "a\0b"], ids=ascii)
def test_a_path_that_no_page_can_name_is_refused(tmp_path, name):
    with pytest.raises(RunFolderError, match=r"expected a path (in UTF-8|without NUL)"):
        check_path(tmp_path / name)
