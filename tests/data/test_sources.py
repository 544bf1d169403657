import pytest

from fedhello.data.dataset import Columns
from fedhello.data.sources import load
from fedhello.errors import DataError


@pytest.fixture
def table(tmp_path):
    """Write a CSV file and return its name."""

    def write(content):
        path = tmp_path / "texts.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


# CSV


def test_texts_and_labels_are_read_in_order_and_classes_are_sorted_by_name(table):
    data = load(table('text,label\nred rose,plant\n"a cat, asleep",animal\ngreen fern,plant\n'))
    assert data.inputs == ("red rose", "a cat, asleep", "green fern")
    assert data.label_names == ("animal", "plant")
    assert data.labels.tolist() == [1, 0, 1]
    assert data.groups == ()
    assert data.notes == ()


def test_columns_can_be_named_and_others_are_left_alone(table):
    name = table("id,what,class,who\n1,one,x,ann\n2,two,y,bob\n")
    data = load(name, Columns("what", "class", group="who"))
    assert data.inputs == ("one", "two")
    assert data.label_names == ("x", "y")
    assert data.groups == ("ann", "bob")


def test_surrounding_spaces_are_dropped(table):
    data = load(table("text,label\n  one  ,x\ntwo, y \n"))
    assert data.inputs == ("one", "two")
    assert data.label_names == ("x", "y")


def test_a_text_may_run_over_lines(table):
    assert load(table('text,label\n"one\nline",x\ntwo,y\n')).inputs == ("one\nline", "two")


def test_blank_lines_are_skipped(table):
    assert load(table("text,label\n\none,x\n\ntwo,y\n\n")).inputs == ("one", "two")


def test_a_byte_order_mark_is_no_part_of_the_first_column(table):
    assert load(table(b"\xef\xbb\xbftext,label\none,x\ntwo,y\n")).inputs == ("one", "two")


def test_an_empty_file_is_refused(table):
    with pytest.raises(DataError, match=r"a header line, then samples, in .*; it is empty"):
        load(table(""))


def test_a_header_alone_is_refused(table):
    with pytest.raises(DataError, match=r"expected at least one sample in .*texts.csv \(data.name\); it has no row"):
        load(table("text,label\n"))


def test_one_class_is_refused_by_name(table):
    with pytest.raises(DataError, match=r"at least two classes in .*; every sample is labelled 'x'"):
        load(table("text,label\none,x\ntwo,x\n"))


@pytest.mark.parametrize(
    ("columns", "missing", "key"),
    [
        (Columns(text="body"), "body", "data.text"),
        (Columns(label="topic"), "topic", "data.label"),
        (Columns(group="user"), "user", "data.partition.column"),
    ],
)
def test_a_missing_column_is_named_with_its_key_and_the_columns_found(table, columns, missing, key):
    with pytest.raises(DataError, match=f"a column '{missing}' in .*{key}.*; its first line names 'text', 'label'"):
        load(table("text,label\none,x\ntwo,y\n"), columns)


@pytest.mark.parametrize("line", [",y", "two,", "two,  ", "two,\u200b", "two,nan", "two,NaN", "two,<NA>"])
def test_a_missing_value_is_named_by_its_line(table, line):
    with pytest.raises(DataError, match="line 3 lacks one"):
        load(table(f"text,label\none,x\n{line}\nthree,y\n"))


def test_a_missing_group_is_named_by_its_line(table):
    with pytest.raises(DataError, match="line 2 lacks one"):
        load(table("text,label,user\none,x,\ntwo,y,bob\n"), Columns(group="user"))


def test_a_file_in_another_encoding_is_refused_naming_the_byte(table):
    with pytest.raises(DataError, match="to be UTF-8 text; byte 11, on line 2, is not"):
        load(table("text,label\närger,x\ntwo,y\n".encode("latin-1")))


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("trian.csv", r"data\.name to be a file, .*; there is no 'trian\.csv'\. Did you mean train\.csv\?"),
        ("zzz", r"there is no 'zzz'\. Its folder has held\.csv, train\.csv\."),
        ("elsewhere/train.csv", r"there is no 'elsewhere/train\.csv', and no folder 'elsewhere'"),
        ("a\0b.csv", r"there is no 'a\\x00b\.csv'"),
        ("a" * 300 + ".csv", r"there is no 'a+…'"),
        ("a" * 5000 + ".csv", r"there is no 'a+…'\.$"),
        ("train.xlsx", r"there is no 'train\.xlsx'\. Did you mean train\.csv\?"),
    ],
)
def test_a_training_file_that_is_not_there_is_named_with_what_its_folder_has(tables, name, complaint):
    for more in ({}, {"test": "test"}, {"test": "held.csv"}):
        with pytest.raises(DataError, match=complaint):
            load(name, **more)


# duplicates


def test_repeated_texts_are_left_out_and_counted(table):
    data = load(table("text,label\none,x\ntwo,y\none,x\none,x\n"))
    assert data.inputs == ("one", "two")
    assert data.notes == ("2 of 4 samples repeat an earlier text and were left out",)


def test_repeated_texts_with_another_label_are_counted_apart_and_the_first_wins(table):
    data = load(table("text,label\none,x\ntwo,y\none,y\none,x\n"))
    assert data.inputs == ("one", "two")
    assert data.labels.tolist() == [0, 1]
    assert len(data.notes) == 1
    assert data.notes[0].startswith("2 of 4 samples repeat")
    assert data.notes[0].endswith("1 of them carry another label than the first")


def test_repeated_texts_stay_if_asked_for(table):
    data = load(table("text,label\none,x\ntwo,y\none,x\n"), deduplicate=False)
    assert data.inputs == ("one", "two", "one")
    assert data.notes == ()


def test_groups_follow_their_samples_when_repeated_texts_are_left_out(table):
    data = load(table("text,label,user\none,x,ann\none,x,bob\ntwo,y,cleo\n"), Columns(group="user"))
    assert data.groups == ("ann", "cleo")


# splits


def test_a_file_may_be_given_for_testing(tables):
    data = load("train.csv", test="held.csv", deduplicate=False)
    assert data.inputs[6:] == ("new", "text 1", "new too")
    assert data.parts["test"].tolist() == [6, 7, 8]
    assert data.pool.tolist() == [0, 1, 2, 3, 4, 5]


def test_what_is_tested_is_not_trained_on(tables):
    data = load("train.csv", test="held.csv")
    assert [data.inputs[i] for i in data.pool] == ["text 0", "text 2", "text 3", "text 4", "text 5"]
    assert [data.inputs[i] for i in data.parts["test"]] == ["new", "text 1", "new too"]
    assert data.notes == (
        "1 of 9 samples repeat an earlier text and were left out; 1 of them stay only in the test or validation data, "
        "where they are as well",
    )


def test_a_label_that_only_the_test_data_has_is_refused_by_its_line(tables):
    (tables / "held.csv").write_text("text,label\nnew,x\nnewer,yy\n")
    with pytest.raises(DataError, match=r"in data\.test; line 3 of held\.csv is labelled 'yy'\. Did you mean y\?"):
        load("train.csv", test="held.csv")


def test_a_held_out_file_needs_no_group(tables):
    (tables / "train.csv").write_text("text,label,who\na,x,ann\nb,y,bob\n")
    data = load("train.csv", Columns(group="who"), validation="held.csv")
    assert data.groups == ("ann", "bob", "", "", "")
    assert not data.notes


def test_the_group_of_a_held_out_sample_is_kept(tables):
    (tables / "train.csv").write_text("text,label,who\na,x,ann\nb,y,bob\n")
    (tables / "test.csv").write_text("text,label,who\nc,x,bob\nd,y,ann\n")
    data = load("train.csv", Columns(group="who"), validation="held.csv", test="test.csv")
    assert data.groups == ("ann", "bob", "", "", "", "bob", "ann")


def test_a_test_file_without_the_group_is_noted(tables):
    (tables / "train.csv").write_text("text,label,who\na,x,ann\nb,y,bob\n")
    data = load("train.csv", Columns(group="who"), test="held.csv")
    assert data.notes == ("held.csv has no column 'who', so there is no test accuracy for each of its values",)


def test_a_split_that_a_file_does_not_have(tables):
    with pytest.raises(DataError, match=r"data\.test to be a file, or .*found 'test'\. train\.csv has no splits\."):
        load("train.csv", test="test")
    with pytest.raises(DataError, match=r"data\.split to be a split .*found 'tran'"):
        load("train.csv", split="tran")


def test_splits_cannot_be_used_twice(tables):
    with pytest.raises(DataError, match="both are the split 'held'"):
        load(".", validation="held", test="held")
    with pytest.raises(DataError, match="found 'held' in both"):
        load(".", split="held", test="held")


# labels


def test_labels_that_look_the_same_are_one_class_and_noted(table):
    rows = "one,caf\u00e9\ntwo,cafe\u0301\nthree,x\u00a0\nfour,x\nfive,\u200bx\n"
    data = load(table(f"text,label\n{rows}"))
    assert data.label_names == ("caf\u00e9", "x")
    assert data.labels.tolist() == [0, 0, 1, 1, 1]
    assert data.notes[0].startswith("3 of 5 values of 'label' in ")
    assert all(
        written in data.notes[0] for written in (r"'cafe\u0301' as 'caf", r"'x\xa0' as 'x'", r"'\u200bx' as 'x'")
    )


def test_labels_of_held_out_data_and_of_a_dictionary_are_the_same_classes(tables):
    (tables / "train.csv").write_text("text,label\na,caf\u00e9\nb,1\nc,2\n")
    (tables / "held.csv").write_text("text,label\nd,cafe\u0301\ne,1 \n")
    data = load("train.csv", test="held.csv", validation=None)
    assert (data.label_names, data.labels.tolist()) == (("1", "2", "caf\u00e9"), [2, 0, 1, 2, 0])
    known = load("held.csv", classes=["cafe\u0301", "1", "z"])  # of a run before names were brought to one form
    assert (known.label_names, known.labels.tolist()) == (("cafe\u0301", "1", "z"), [0, 1])
    only = load("train.csv", classes=["caf\u00e9", "1", "2"], only=["cafe\u0301"])
    assert only.inputs == ("a",)


@pytest.mark.parametrize(
    ("labels", "names", "noted"),
    [
        (["1", "1.0", "2"], ("1", "2"), True),
        (["1.0", "2.0", "1.0"], ("1", "2"), True),
        (["1.0", "2.1", "1.0"], ("1.0", "2.1"), False),
        (["01", "1", "1"], ("01", "1"), False),
        (["true", "false", "true"], ("false", "true"), False),
    ],
)
def test_whole_numbers_are_one_class_however_they_are_written(table, labels, names, noted):
    data = load(table("text,label\n" + "".join(f"text {i},{label}\n" for i, label in enumerate(labels))))
    assert data.label_names == names
    assert any("whole numbers with a fraction" in note for note in data.notes) == noted


def test_whole_numbers_are_the_classes_of_a_dictionary_however_they_are_written(table):
    name = table("text,label\na,1.0\nb,2\n")
    assert load(name, classes=["1", "2"]).labels.tolist() == [0, 1]
    assert load(name, classes=["1.0", "2.0"]).labels.tolist() == [0, 1]
    with pytest.raises(DataError, match=r"labels of the run, 1\.0, x; line 3 of .* is labelled '2'"):
        load(name, classes=["1.0", "x"])


def test_classes_that_look_alike_stay_apart_with_a_note(table):
    data = load(table("text,label\na,Sport\nb,sport\nc,new\u00a0york\nd,new york\n"))
    assert len(data.label_names) == 4
    assert [note.partition(" look")[0] for note in data.notes] == [
        r"the classes 'new york' and 'new\xa0york'", r"the classes 'Sport' and 'sport'"
    ]  # fmt: skip


def test_texts_are_not_changed_but_compared_in_one_form(tables):
    (tables / "train.csv").write_text("text,label\ncafe\u0301,x\nb,x\nc,y\n")
    (tables / "held.csv").write_text("text,label\ncaf\u00e9,x\n")
    data = load("train.csv", test="held.csv")
    assert data.inputs == ("b", "c", "caf\u00e9")
    assert load("train.csv").inputs[0] == "cafe\u0301"


# parts


@pytest.mark.parametrize(
    ("held", "parts", "complaint"),
    [
        ("text,label\n", {"test": "held.csv"}, r"at least one sample in held\.csv \(data\.test\); it has no row"),
        ("text,label\n", {"validation": "held.csv"}, r"in held\.csv \(data\.validation\); it has no row"),
        (
            None,
            {"test": "held.csv"},
            r"in train\.csv \(data\.name\); all 6 of its samples are in other parts .*: 6 of held\.csv \(data\.test\)",
        ),
        (
            None,
            {"validation": "train.csv"},
            r"data\.name and data\.validation to be different files; both are train\.csv",
        ),
        (None, {"test": "./train.csv", "deduplicate": False}, r"data\.name and data\.test to be different files"),
        (
            None,
            {"validation": "held.csv", "test": "held.csv"},
            r"data\.validation and data\.test to be different files",
        ),
        (
            None,
            {"validation": "held.csv", "test": "other.csv"},
            r"in train\.csv .* all 6 .*: 6 of other\.csv \(data\.test\)",
        ),
        (
            "text,label\ntext 0,x\ntext 2,x\ntext 4,x\n",
            {"test": "held.csv"},
            "all that are labelled 'x' repeat samples of",
        ),
        (
            "text,label\nnew,x\n",
            {"test": "hled.csv"},
            r"data\.test to be a file.* no 'hled\.csv'\. Did you mean held\.csv",
        ),
        (None, {"test": "a" * 5000}, r"data\.test to be a file, or a split of the data set; found 'a+…'\. train"),
    ],
)
def test_a_part_without_a_sample_is_named_with_where_they_are(tables, held, parts, complaint):
    content = (tables / "train.csv").read_text() if held is None else held
    (tables / "held.csv").write_text(content)
    (tables / "other.csv").write_text(content)
    with pytest.raises(DataError, match=complaint):
        load("train.csv", **parts)


def test_validation_data_that_are_all_test_data_are_named(tables):
    (tables / "other.csv").write_text((tables / "held.csv").read_text())
    with pytest.raises(DataError, match=r"in held\.csv \(data\.validation\); all 3 .*: 3 of other\.csv \(data\.test\)"):
        load("train.csv", validation="held.csv", test="other.csv")


def test_a_label_that_nobody_may_use_empties_the_data(tables):
    with pytest.raises(DataError, match=r"in train\.csv \(data\.name\); none is labelled z, w"):
        load("train.csv", classes=["x", "y"], only=["z", "w"])


def test_a_column_that_names_parts_is_noted(table):
    data = load(table("text,label,split\na,x,train\nb,y,test\n"))
    assert len(data.pool) == 2
    assert "has a column 'split' with test, train; all rows are used alike" in data.notes[0]
    assert not load(table("text,label,split\na,x,one\nb,y,two\n")).notes


def test_a_sample_is_named_by_its_row_and_file(tables):
    data = load("train.csv", test="held.csv")  # of the training data, line 3 is in the test data as well
    assert [data.place(i) for i in (1, 5, 7)] == ["line 4 of train.csv", "line 2 of held.csv", "line 4 of held.csv"]
