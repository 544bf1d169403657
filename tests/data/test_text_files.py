"""Files as bytes and as text: names, suffixes, encodings, and what is neither text nor there."""

import gzip
import os
from pathlib import Path

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


ROWS = "text,label\r\ncaf\u00e9 \u20ac,x\r\n"


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16-le", "gb18030", "iso2022_jp"])
def test_a_named_encoding_is_read_and_said(tmp_path, encoding):
    text = ROWS if encoding != "iso2022_jp" else "text\n\u65e5\u672c\n"
    (tmp_path / "x.csv").write_bytes(text.encode(encoding))
    assert read_text(tmp_path / "x.csv", encoding) == (text, [f"{tmp_path}/x.csv is read as {encoding.upper()}"])


@pytest.mark.parametrize(("content", "why"), [(ROWS.encode(), "UTF-8"), (ROWS.encode("utf-16"), "UTF-16")])
def test_text_that_is_unicode_is_not_misread_by_a_named_encoding(tmp_path, content, why):
    (tmp_path / "x.csv").write_bytes(content)
    text, (note,) = read_text(tmp_path / "x.csv", "cp1252")
    assert text == ROWS
    assert f"x.csv is read as {why}" in note


@pytest.mark.parametrize(
    ("file", "content", "named", "why"),
    [
        (
            "x.csv", ROWS.encode("cp1252"), None,
            "UTF-8 text; byte 15, on line 2, is not. If it is of Excel or Windows in a Western language, set "
            "data.encoding=cp1252 (init, client, evaluate, predict: --encoding cp1252), or convert it: iconv -f cp1252 "
            "-t utf8 x.csv > x-utf8.csv",
        ),
        ("x.csv", b"text,label\nodd \x81,x", "cp1252", "CP1252; byte 15, on line 2, is not. Set data.encoding"),
        (
            "a b.csv.gz", gzip.compress(b"\xe4", mtime=0), None,
            "or convert it: gunzip -c 'a b.csv.gz' | iconv -f cp1252 -t utf8 > 'a b-utf8.csv'",
        ),
        ("x.csv", "text\n".encode("utf-16-be"), None, "like UTF-16: set data.encoding=utf-16-be (init, "),
        ("x.csv", "text\n".encode("utf-16-le"), None, "like UTF-16: set data.encoding=utf-16-le (init, "),
        ("x.csv", "a\r\nb".encode("utf-16")[:-1], None, "UTF-16; byte 8, on line 2, is not. Save it as UTF-8."),
        ("x.csv", b"\xe4", "punycode", "PUNYCODE; byte 0, on line 1, is not. Set data.encoding"),
    ],
)  # fmt: skip
def test_what_is_in_another_encoding_is_refused_with_the_way_to_read_it(
    tmp_path, monkeypatch, file, content, named, why
):
    monkeypatch.chdir(tmp_path)
    Path(file).write_bytes(content)
    with pytest.raises(DataError) as error:
        read_text(Path(file), named)
    assert why in str(error.value)
    assert "\n" not in str(error.value)


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
