import pytest

from fedhello.data import delimited
from fedhello.data.dataset import Columns
from fedhello.errors import ConfigError, DataError
from fedhello.network.own_data import own_source
from fedhello.setup.data import load_data


def columns_of(file, rows, header, **named):
    file.write_text("\n".join([header, *rows]) + "\n")
    return own_source(str(file), named)[1]


TWO = [f"a text {i},{'ab'[i % 2]}" for i in range(12)]


def test_columns_are_named_or_the_only_ones_that_fit(tmp_path):
    file = tmp_path / "a.csv"
    assert columns_of(file, TWO, "body,topic") == Columns(text="body", label="topic")
    assert columns_of(file, [f"{row},{row}" for row in TWO], "p,x,q,y", text=("p", "q"), label="x").text == ("p", "q")
    with pytest.raises(ConfigError, match="several that fit"):
        columns_of(file, [f"{row},{row}" for row in TWO], "p,x,q,y")
    with pytest.raises(DataError, match="expected a column 'none'"):
        columns_of(file, TWO, "body,topic", label="none")
    with pytest.raises(ConfigError, match="found 3"):
        columns_of(file, TWO, "body,topic", text=("a", "b", "c"))


def test_the_usual_names_serve_where_values_show_nothing(tmp_path):
    rows = ["one,fruit", "two,fruit"]  # single words of one class
    assert columns_of(tmp_path / "a.csv", rows, "text,label") == Columns()
    assert columns_of(tmp_path / "a.csv", rows, "body,label", text="body") == Columns(text="body")
    with pytest.raises(ConfigError):
        columns_of(tmp_path / "a.csv", rows, "body,topic")


def test_a_data_set_that_defines_its_columns_keeps_them():
    source, columns = own_source("embedded:bbc-headlines", {})
    assert source.columns is not None
    assert columns.kind == "texts"


def test_a_file_is_read_once(tmp_path, monkeypatch):
    read, count = delimited.read_text, []
    monkeypatch.setattr(delimited, "read_text", lambda path, *more: count.append(path) or read(path, *more))
    (tmp_path / "a.csv").write_text("\n".join(["text,label", *TWO]) + "\n")
    from fedhello.config.schema import DataConfig
    from fedhello.config.settings import data_settings

    source, _ = own_source(str(tmp_path / "a.csv"), {})
    found = load_data(data_settings(DataConfig(name="a")), ["a", "b"], source, only=["b"])
    assert (len(count), len(found), set(found.labels.tolist())) == (1, 6, {1})
    assert "6 of 12 samples have other labels than b" in found.notes[0]
