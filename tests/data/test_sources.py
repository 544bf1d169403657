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
    with pytest.raises(DataError, match="its first line is empty"):
        load(table(""))


def test_a_header_alone_is_refused(table):
    with pytest.raises(DataError, match="expected at least one sample"):
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
    with pytest.raises(DataError, match=f"a column '{missing}' in .*{key}.*; it has 'text', 'label'"):
        load(table("text,label\none,x\ntwo,y\n"), columns)


@pytest.mark.parametrize("line", [",y", "two,", "two,  ", "two"])
def test_a_missing_value_is_named_by_its_line(table, line):
    with pytest.raises(DataError, match="line 3 lacks one"):
        load(table(f"text,label\none,x\n{line}\nthree,y\n"))


def test_a_missing_group_is_named_by_its_line(table):
    with pytest.raises(DataError, match="line 2 lacks one"):
        load(table("text,label,user\none,x,\ntwo,y,bob\n"), Columns(group="user"))


def test_a_file_in_another_encoding_is_refused_naming_the_byte(table):
    with pytest.raises(DataError, match="to be UTF-8 text; byte 11 is not"):
        load(table("text,label\närger,x\ntwo,y\n".encode("latin-1")))


def test_a_field_that_csv_cannot_hold_is_refused(table):
    with pytest.raises(DataError, match="to be a CSV file; field larger than field limit"):
        load(table("text,label\n" + "a" * 200_000 + ",x\ntwo,y\n"))


def test_a_name_that_is_no_file_is_refused(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        load(str(tmp_path / "absent.csv"))


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
