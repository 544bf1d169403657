"""Tables of separated values: separators, quotes, headers, line ends."""

import csv

import pytest

from fedhello.data.dataset import Columns
from fedhello.data.delimited import MOST_CHARACTERS
from fedhello.data.sources import load
from fedhello.errors import DataError


@pytest.fixture
def table(tmp_path):
    """Write a file and return its name."""

    def write(content, name="x.csv"):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(tmp_path / name)

    return write


ROWS = "".join(f"text {i},{'xy'[i % 2]}\n" for i in range(6))


@pytest.mark.parametrize(
    ("name", "content", "note"),
    [
        ("x.csv", "text;label\none, two;x\nthree, four;y\n", "semicolons"),
        ("x.csv", "text\tlabel\none, two\tx\nthree, four\ty\n", "tabs"),
        ("x.txt", "text|label\none, two|x\nthree, four|y\n", "vertical bars"),
        ("x.tsv", "text\tlabel\none, two\tx\nthree, four\ty\n", None),
        ("x.tsv", 'text,label\n"one, two",x\n"three, four",y\n', "commas"),
        ("x.csv", "sep=;\r\ntext;label\r\none, two;x\r\nthree, four;y\r\n", "semicolons"),
        ("x.csv", 'text,label\n"one, two",x\n"three, four",y\n', None),
        ("x.csv", 'text,label;,a|b\n"one, two",x,0\n"three, four",y,0\n', None),
    ],
)
def test_the_separator_is_found_and_noted(table, name, content, note):
    label = "label;" if "label;," in content else "label"
    data = load(table(content, name), Columns(label=label))
    assert (data.inputs, data.label_names) == (("one, two", "three, four"), ("x", "y"))
    assert [line.rpartition(" ")[2] for line in data.notes] == ([note.rpartition(" ")[2]] if note else [])
    assert all("read with values separated by" in line for line in data.notes)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_line_ends_and_encodings_change_nothing(table, end, encoding):
    content = end.join(["text,label", '"caf\u00e9, a', 'bar",x', "", "two,y", "three", ""])
    with pytest.raises(DataError, match=r"expected 2 values in each line of .*; line 6 has 1\. Put a value"):
        load(table(content.encode(encoding)))
    data = load(table(content.replace("three", "three,x").encode(encoding)))
    assert data.inputs == (f"caf\u00e9, a{end}bar", "two", "three")
    assert bool(data.notes) == (encoding in ("utf-16", "utf-32"))


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ('text,label\none,x\n"two,y\n' + ROWS, 3),  # never closed
        ('label,text\nx,one\ny,"two\n', 3),
        ('text,label\n"a\nb",x\nc,y\n"d"e,x\n', 5),  # closed too early, behind a value of two lines
        ('text,label\n"he said "no" to me",x\ntwo,y\n', 2),
        ('text,label\n"one,x\n"two",y\n', 2),
        ('text,label,n\n"a\nb",x,"1\n"c",y,2\n', 3),  # the quote opens on the second line of its row
        ("text,label\n" + ROWS + '"one,x\ntwo",y\n' + ROWS, 8),  # two stray quotes
        ("text,label\n" + ROWS + '"one,x\n' + ROWS + 'two",y\n' + ROWS, 8),
        ("text;label\n" + (ROWS + '"one,x\n' + ROWS + 'two",y\n').replace(",", ";"), 8),
        ("label,text\nx,a\ny,b\n" + 'x,"one\ny,two\nx,three"\n', 4),
        ('text,label\n"a cat",x\n"b",y\n"was, and,"",x\n""by cat; rose",y\n', 4),  # beside the quotes of two values
        ('label,text\nx,"text\n' + "".join(f"{'xy'[i % 2]},text {i}\n" for i in range(10)) + 'x,end"\n', 2),
    ],
)
def test_a_stray_quote_is_named_by_the_line_where_it_opens(table, content, line):
    with pytest.raises(DataError, match=rf"quote.* opens (a value )?on line {line}\b"):
        load(table(content))


@pytest.mark.parametrize(
    "text",
    [
        "two\nlines",
        "Dear Sir,\nI came, I saw\nand won, at last",
        'he said ""no"", twice',
        "a,1\nb,2\nc,3",
        "one\n\nthree",
        "\nx",
    ],
)
@pytest.mark.parametrize("header", ["text,label", "label,text"])
def test_what_is_rightly_quoted_is_read(table, text, header):
    rows = [(f'"{text}"', "x"), ("one", "y"), ("other", "x")]
    ordered = [row if header == "text,label" else row[::-1] for row in rows]
    data = load(table("\n".join([header, *map(",".join, ordered)]) + "\n"))
    assert data.inputs == (text.replace('""', '"').strip(), "one", "other")


def test_a_quote_within_a_value_is_a_character(table):
    assert load(table('text,label\n5" disk,x\nthe "end",y\nan inch",x\n')).inputs == (
        '5" disk',
        'the "end"',
        'an inch"',
    )


def test_spaces_before_quotes_are_skipped_where_they_quote(table):
    data = load(table('text, label\n"a, b", "x"\nc, "y"\n'))
    assert (data.inputs, data.label_names) == (("a, b", "c"), ("x", "y"))
    assert data.notes[0].endswith("has spaces before quotes, which are skipped")
    data = load(table('label,text\nx, "no" he said\ny,b\n'))
    assert (data.inputs, data.notes) == (('"no" he said', "b"), ())


def test_lines_of_separators_alone_are_left_out_and_counted(table):
    data = load(table("\n\ntext,label\none,x\n,\n  \ntwo,y\n , \n"))
    assert data.inputs == ("one", "two")
    assert data.notes[0].startswith("2 lines of")
    assert data.notes[0].endswith("hold only separators and are left out, such as line 5")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("text,label,text\na,x,b\n", "the header of .*x.csv, line 1; 'text' is given twice"),
        ("\ntext, text\na,x\n", "line 2; 'text' is given twice"),
        ("text,label\none,x\ntwo, three,y\n", r"line 3 has 3\. Put a value that holds commas into quotes"),
        ("one,x\ntwo,y\n", r"a column 'text' in .*; its first line names 'one', 'x'\."),
        ("text,label\none,x\nt\0wo,y\n", "line 3 has a NUL byte. It is damaged"),
        ("text,label\none,x\n".encode("utf-16-le"), "line 1 has a NUL byte. It looks like UTF-16"),
        ("text,label\none,x\n\u00e4,y\n".encode("latin-1"), "UTF-8 text; byte 17, on line 3, is not"),
        ('{"text": "a", "label": "x"}\n', r"it holds JSON\. Rename it to end in \.jsonl"),
        (",,\n1,2,3\n", r"its first line names \."),
        ("", "a header line, then samples, in .*; it is empty"),
    ],
)
def test_what_is_no_table_is_refused_by_its_line(table, content, complaint):
    with pytest.raises(DataError, match=complaint):
        load(table(content))


def test_columns_without_a_name_are_left_alone(table):
    assert load(table(",text,label,\n0,one,x,\n1,two,y,\n")).inputs == ("one", "two")


def test_the_nearest_column_is_suggested(table):
    with pytest.raises(DataError, match=r"its first line names 'text', 'label'\. Did you mean label\?"):
        load(table("text,label\none,x\n"), Columns(label="lable"))


def test_long_values_are_read_up_to_a_limit_that_is_no_other_programs(table):
    before = csv.field_size_limit()
    data = load(table("text,label\n" + "a" * (MOST_CHARACTERS - 1) + ",x\ntwo,y\n"))
    assert len(data.inputs[0]) == MOST_CHARACTERS - 1
    with pytest.raises(DataError, match=r"at most 10000000 characters in .*; one in the row that begins on line 3"):
        load(table("text,label\none,x\n" + "a" * (MOST_CHARACTERS + 1) + ",x\n"))
    assert csv.field_size_limit() == before


@pytest.mark.parametrize("header", ['"text,label', 'text,"label'])
def test_a_quote_that_opens_in_the_header_and_swallows_rows_is_named(table, header):
    with pytest.raises(DataError, match="the one that opens on line 1 and closes on line 5 swallows lines"):
        load(table(header + "\n" + ROWS.replace("text 3,y", 'text 3",y' if header[0] == '"' else 'text 3,y"')))
    data = load(table('"text\n(English, raw)",label\n' + ROWS), Columns(text="text\n(English, raw)"))
    assert len(data.inputs) == 6


def test_a_table_of_separators_alone_says_so(table):
    with pytest.raises(DataError, match="lines that hold nothing but separators, 2 of them"):
        load(table("text,label\n,\n , \n"))
