"""Data sets that a program has in memory."""

from pathlib import Path

import numpy as np
import pytest
import torch

import fedhello as fh
from fedhello.data.dataset import Columns
from fedhello.data.memory import is_per_client, memory_source
from fedhello.data.sources import load


def rows_of(file="texts.csv"):
    header, *lines_ = Path(file).read_text().splitlines()
    return [dict(zip(header.split(","), line.split(","), strict=True)) for line in lines_]


class Torchlike:
    """What ``torch.utils.data.Dataset`` asks for: a length, and items."""

    def __init__(self, rows):
        self.rows = [(row["text"], row["label"]) for row in rows]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return self.rows[i]


def as_columns(rows):
    return {name: [row[name] for row in rows] for name in ("text", "label")}


def as_pandas(rows):
    return pytest.importorskip("pandas").DataFrame(rows)


def as_hugging_face(rows):
    return pytest.importorskip("datasets").Dataset.from_list(rows)


@pytest.mark.parametrize("form", [list, as_columns, Torchlike, as_pandas, as_hugging_face])
def test_data_in_memory_is_the_data_of_a_file(place, form):
    named = fh.prepare("tiny.yaml")
    held = fh.prepare("tiny.yaml", data=form(rows_of()))
    assert held.config["data"]["name"] == "memory"
    assert (held.histogram == named.histogram).all()
    for part in ("validation", "test", "proxy"):
        mine, its = getattr(held.server, part), getattr(named.server, part)
        assert [list(row) for row in mine.tokens] == [list(row) for row in its.tokens]
        assert (mine.labels == its.labels).all()


def test_each_clients_data_may_be_an_object_of_its_own(place):
    rows = rows_of()
    clients, test = [rows[0:60:3], Torchlike(rows[1:60:3]), as_columns(rows[2:60:3])], rows[60:]
    run = fh.run(
        "tiny.yaml",
        {"run.name": "own", "data.proxy": 0, "method.scores": "clients", "train.lr_schedule": "constant"},
        data=clients,
        test=test,
    )
    session = run.session
    assert session.histogram.sum(axis=1).tolist() == [
        sum(row["text"] not in held for row in part) for part in (rows[0:60:3], rows[1:60:3], rows[2:60:3])
        for held in [texts_of_the_server(session, rows)]
    ]  # fmt: skip
    assert len(session.server.test) == 20
    assert run.predict(["copper number 2"])[0].label in ("fruit", "metal")
    with pytest.raises(fh.DataError, match="which were passed as objects"):
        fh.resume(run.path, {"train.rounds": 3})
    longer = fh.resume(run.path, {"train.rounds": 3}, data=clients, test=test)
    assert (longer.summary.status, longer.summary.rounds) == ("finished", 3)
    with pytest.raises(fh.DataError, match=r"2 data sets in memory .* only client-0 have"):
        words = {"data.proxy": 0, "method.scores": "clients", "train.clients_per_round": 1}
        fh.prepare("tiny.yaml", words, data=[rows, rows[:20]])
    with pytest.raises(fh.ConfigError, match="expected no data"):
        fh.resume(fh.run("tiny.yaml", {"run.name": "named"}).path, data=rows)


def texts_of_the_server(session, rows):
    """The texts that were drawn from the clients' for validation: those that no client has."""
    held = {tuple(row) for part in ("validation", "proxy") for row in getattr(session.server, part).tokens}
    tokens = {row["text"]: tuple(session.model.tokenizer(row["text"])["input_ids"]) for row in rows}
    return {text for text, row in tokens.items() if row in held}


ROW = {"text": "a plum", "label": "fruit"}
COLUMNS = Columns(text="text", label="label")
IMAGES = Columns(image="image", label="label")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ([ROW, ROW], False),
        ([("a plum", "fruit")], False),
        ({"text": ["a plum"], "label": ["fruit"]}, False),
        ([{"text": ["a plum"], "label": ["fruit"]}] * 2, True),
        ([[ROW], [ROW]], True),
        ([Torchlike([ROW])], True),
        ([({"text": "a"}, {"text": "b"})], True),
        ([{"image": np.zeros((2, 2), np.uint8), "label": 0}], False),
        (Torchlike([ROW]), False),
        ([], False),
    ],
)
def test_a_list_of_data_sets_is_told_from_a_list_of_rows(data, expected):
    assert is_per_client(data) == expected


def table_of(data, columns=COLUMNS, held_out=(), name=""):
    return memory_source(data, columns, dict(held_out)).splits[name]()


def test_clients_are_named_so_that_their_order_is_that_of_the_names():
    source = memory_source([[ROW]] * 11, COLUMNS, {"test": [ROW]})
    assert list(source.splits) == [*(f"client-{k:02}" for k in range(11)), "test"]
    assert source.files and not memory_source([ROW], COLUMNS, {}).files


def test_values_become_what_tables_hold():
    rows = [{"text": "a", "label": np.int64(3)}, {"text": "b", "label": torch.tensor(4)}, {"text": "c"}]
    assert [list(values) for values in columns_of(table_of(rows)).values()] == [["a", "b", "c"], [3, 4, None]]
    pictures = [(np.zeros((2, 3, 3), np.uint8), 0), (np.zeros((2, 3), np.uint8), 1)]
    found = columns_of(table_of(pictures, IMAGES))
    assert [picture.content.shape for picture in found["image"]] == [(2, 3, 3), (2, 3)]


def columns_of(table):
    return {name: table.values(name) for name in table.columns}


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ([[1, 2, 3], [4]], "pair of input and label, in row 1 of the data of client-0; found a int"),
        ([[ROW], []], "expected at least one sample in the data of client-1; it is empty"),
        ({"text": [], "label": []}, "expected at least one sample in the data; it is empty"),
        ({"text": ["a"], "label": ["b", "c"]}, "expected columns of one length in the data; found text 1, label 2"),
        (iter([ROW]), "expected the data to have a length and items"),
        ("texts.csv", "expected the data to have a length and items.*; found a str"),
        ([ROW, 5], "in row 2 of the data; found a int"),
    ],
)
def test_what_is_no_data_set_is_said_with_its_place(data, sentence):
    with pytest.raises(fh.DataError, match=sentence):
        for table in memory_source(data, COLUMNS, {}).splits.values():
            table()


@pytest.mark.parametrize("pixels", [np.zeros((2, 2), np.float32), np.zeros((3, 2, 2), np.uint8), torch.zeros(3, 2, 2)])
def test_images_that_are_normalised_or_have_channels_first_are_refused(pixels):
    with pytest.raises(
        fh.DataError, match=r"expected an image of uint8 values, shape \(H, W\) or \(H, W, 3\), in row 2"
    ):
        table_of([(np.zeros((2, 2), np.uint8), 0), (pixels, 0)], IMAGES)


def test_a_table_of_pyarrow_is_read_by_its_columns():
    pyarrow = pytest.importorskip("pyarrow")
    table = table_of(pyarrow.table({"text": ["a", "b"], "label": ["x", "y"]}))
    assert columns_of(table) == {"text": ["a", "b"], "label": ["x", "y"]}


def missing_in_pandas():
    pandas = pytest.importorskip("pandas")
    return pandas.DataFrame({"text": ["a", "b"], "label": pandas.array([1, None], dtype="Int64")})


class Failing(Torchlike):
    """A data set whose own code fails."""

    def __getitem__(self, i):
        raise RuntimeError("the disk is gone")


DEEP: list = []
for _ in range(100_000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (missing_in_pandas, "value of 'label' in each row of the data; row 2 lacks one"),
        (lambda: [("a", 1.0), ("b", float("nan"))], "row 2 lacks one"),
        (lambda: [("a", torch.tensor(float("nan"))), ("b", 1)], "row 1 lacks one"),
        (lambda: Failing([ROW]), "row 1 of the data, which has 1; reading it raises RuntimeError: the disk is gone"),
        (lambda: {1, 2}, "row 1 of the data, which has 2; reading it raises TypeError"),
        (lambda: {"text": "abc", "label": "xyz"}, "values for each column of the data; that of 'text' is a str"),
        (lambda: [("a\ud83d", 1), ("b", 2)], r"row 1 has half of a character, U\+D83D, at 2"),
        (lambda: [("a", "x\udc00"), ("b", "y")], r"column 'label' of the data; row 1 has half of a character"),
        (lambda: [("a", 10**5000), ("b", 2)], r"row 1 has a value that cannot be shown \(int\)"),
        (lambda: [("a", DEEP), ("b", 2)], r"row 1 has a value that cannot be shown \(list\)"),
        (lambda: [(b"a", 1), ("b", 2)], r"row 1 has b'a' \(bytes\)"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_sample_is_said_with_its_row(make, sentence):
    with pytest.raises(fh.DataError, match=sentence):
        source_of(make())


def source_of(data):
    source = memory_source(data, COLUMNS, {})
    return load("memory", COLUMNS, source=source)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([1, "1", 1.0, np.int8(2)], ("1", "2")),
        ([np.bool_(True), True, "True", False], ("False", "True")),
        (["cafe\u0301", "caf\u00e9", " x", "x\u00a0"], ("caf\u00e9", "x")),
    ],
)
def test_labels_in_memory_are_the_classes_of_files(labels, names):
    data = source_of([(f"text {i}", label) for i, label in enumerate(labels)])
    assert data.label_names == names
