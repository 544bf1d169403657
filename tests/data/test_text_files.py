"""Files as bytes and as text: names, suffixes, encodings, and what is neither text nor there."""

import gzip
import os

import pytest

from fedhello.data.text_files import absent, exists, line_at, name_of, read_bytes, read_text, suffix_of
from fedhello.errors import DataError


@pytest.mark.parametrize(
    ("file", "suffix", "name"),
    [("a/x.csv", ".csv", "x"), ("x.JSONL", ".jsonl", "x"), ("x.v2.csv.gz", ".csv", "x.v2"), ("x", "", "x")],
)
def test_the_suffix_before_gz_tells_the_format(tmp_path, file, suffix, name):
    assert (suffix_of(tmp_path / file), name_of(tmp_path / file)) == (suffix, name)


@pytest.mark.parametrize("name", ["absent", "a" * 300, "a" * 5000, "a\0b", "x" * 90 + "/" + "y" * 300])
def test_a_name_that_no_file_has_does_not_exist(tmp_path, name):
    assert not exists(tmp_path / name)
    assert str(absent(name, "data.name")).startswith("expected data.name to be a file")
    with pytest.raises(DataError, match="expected to read the data in"):
        read_bytes(tmp_path / name)


def test_a_pipe_is_refused_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / "x.csv")
    with pytest.raises(DataError, match="it is a folder, a pipe or a device"):
        read_bytes(tmp_path / "x.csv")


def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "x.csv").touch()

    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    with pytest.raises(DataError, match=r"read the data in .*x\.csv; Permission denied"):
        read_bytes(tmp_path / "x.csv")


def test_gzip_is_unpacked_and_a_part_of_it_refused(tmp_path):
    packed = gzip.compress(b"one\ntwo")
    (tmp_path / "x").write_bytes(packed)
    assert read_text(tmp_path / "x") == ("one\ntwo", [])
    for broken in (packed[:-4], packed[:3], packed[:12] + b"\xff" * 9 + packed[21:]):
        (tmp_path / "x").write_bytes(broken)
        with pytest.raises(DataError, match="x to be a whole gzip file"):
            read_text(tmp_path / "x")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "utf-16-be"])
def test_a_mark_tells_the_encoding(tmp_path, encoding):
    content = "\ufeffcaf\u00e9" if encoding == "utf-16-be" else "caf\u00e9"
    (tmp_path / "x").write_bytes(content.encode(encoding))
    text, notes = read_text(tmp_path / "x")
    assert text == "caf\u00e9"
    assert bool(notes) == (encoding != "utf-8-sig")
    (tmp_path / "x").write_bytes(content.encode(encoding)[:-1])
    with pytest.raises(DataError, match=r"on line 1, is not\. Save it as UTF-8"):
        read_text(tmp_path / "x")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"PK\x03\x04", "Excel .* Save the table as CSV in UTF-8"),
        (b"\xd0\xcf\x11\xe0", "old Excel workbook"),
        (b"PAR1", r"Parquet file. Rename it to end in \.parquet"),
        (b"\x80\x04\x95", "a pickle, which can run code"),
        (b"BZh9", "compressed by bzip2"),
    ],
)
def test_other_formats_are_known_by_their_first_bytes(tmp_path, content, what):
    (tmp_path / "x.csv").write_bytes(content + b"more")
    with pytest.raises(DataError, match=rf"x\.csv to be a table as text; it is .*{what}"):
        read_text(tmp_path / "x.csv")


def test_lines_end_as_on_any_system():
    assert [line_at(text) for text in ("", "a", "a\n", "a\r\nb\rc\n\n")] == [1, 1, 2, 5]
