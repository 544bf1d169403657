"""What is written for the rows of a file; more is in tests/cli/test_results.py."""

import io
import json
from pathlib import Path

import pytest

import fedhello as fh
from fedhello.data.tables import Table
from fedhello.results.inference import added_up
from fedhello.results.prediction import _writer


@pytest.fixture
def run(place):
    return fh.run("tiny.yaml", {"run.name": "r", "train.rounds": 1})


def test_inputs_in_parts_are_predicted_as_one_by_one(run, monkeypatch, caplog):
    texts = [f"{word} number {i}" for i, word in enumerate(["iron", "plum", "zinc"] * 3)] + ["number " * 50] * 2
    whole = run.predict(texts, probabilities=True)
    assert caplog.messages == ["2 of 11 texts were cut to data.max_length, 16 tokens"]
    monkeypatch.setattr("fedhello.results.inference.MOST_AT_ONCE", 2)
    caplog.clear()
    parts = run.predict(texts, probabilities=True)
    assert caplog.messages == ["2 of 11 texts were cut to data.max_length, 16 tokens"]
    assert [one.label for one in parts] == [one.label for one in whole]
    for one, other in zip(parts, whole, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=0.05)  # logits of 10^5 in float32
    with pytest.raises(fh.ConfigError, match="expected top to be 1 or more; found 0"):
        run.predict(["iron"], top=0)


def test_a_file_is_told_of_part_by_part(run, tmp_path, monkeypatch):
    monkeypatch.setattr("fedhello.results.prediction.MOST_AT_ONCE", 2)
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"body": f"iron {i}", "n": i}) + "\n" for i in range(5)))
    told = []
    count = run.predict_file(
        tmp_path / "in.jsonl", tmp_path / "out.jsonl", columns={"text": "body"}, told=lambda *a: told.append(a)
    )
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert (count, [row["n"] for row in rows]) == (5, [0, 1, 2, 3, 4])
    assert list(rows[0]) == ["body", "n", "predicted", "probability"]
    assert ([rows for rows, _ in told], told[-1][1]) == ([2, 4, 5], 1.0)
    with pytest.raises(fh.ConfigError, match=r"expected no column 'predicted' in .*out\.jsonl"):
        run.predict_file(tmp_path / "out.jsonl", tmp_path / "again.jsonl", columns={"text": "body"})
    with pytest.raises(fh.DataError, match="expected rows to predict in the input; found none"):
        run.predict_file(io.StringIO("\n"), io.StringIO())
    with pytest.raises(fh.DataError, match="standard input; line 2 has half of a character"):
        run.predict_file(io.StringIO("a\nb\udcff\n"), io.StringIO())
    with pytest.raises(fh.ConfigError, match="found columns for text"):
        run.predict_file(io.StringIO("a\n"), io.StringIO(), columns={"text": "body"})


def test_notes_on_parts_are_added_up():
    notes = ["1 of 3 were cut", "so", "2 of 4 were cut", "so", "7 of 7 are"]
    assert added_up(notes, 12) == ["3 of 12 were cut", "so", "7 of 12 are"]
    assert added_up(added_up(notes, 12), 12) == added_up(notes, 12)


def test_cells_that_a_table_of_values_lacks(tmp_path):
    table = Table.of("t", {"x": [None, b"png", {"a": 1}, [1, "ö"]]})
    for lines, expected in ((True, [None, None, {"a": 1}, [1, "ö"]]), (False, ["", "", '{"a": 1}', '[1, "ö"]'])):
        out = io.StringIO()
        _writer(out, out, lines).write(table, [{"predicted": "p"}] * 4)
        if lines:
            assert [json.loads(line)["x"] for line in out.getvalue().splitlines()] == expected
        else:
            assert out.getvalue() == 'x,predicted\n,p\n,p\n"{""a"": 1}",p\n"[1, ""ö""]",p\n'
    out = io.StringIO()
    writer = _writer(out, out, False)
    writer.write(Table.of("t", {"x": [1]}), [{"answer": "a"}])
    with pytest.raises(fh.ConfigError, match="row 1 of t has 'y', too"):
        writer.write(Table.of("t", {"x": [1], "y": [2]}), [{"answer": "a"}])


@pytest.mark.parametrize("separator", [",", "\t"])
def test_no_cell_of_a_file_becomes_a_formula(separator):
    table = Table.of("t", {"=id": ["=1+1", "-0.5"], "n": ["+1e3", -2]})
    out = io.StringIO()
    _writer(out, Path("x.csv" if separator == "," else "x.tsv"), False).write(
        table, [{"predicted": "@a", "p(=b)": 0.5}, {"predicted": "-a", "p(=b)": -0.5}]
    )
    assert [line.split(separator) for line in out.getvalue().splitlines()] == [
        ["'=id", "n", "predicted", "p(=b)"],
        ["'=1+1", "+1e3", "'@a", "0.5"],
        ["-0.5", "-2", "'-a", "-0.5"],
    ]


@pytest.mark.parametrize("size", [1024, 1])
def test_rows_without_an_input_are_written_without_a_prediction(run, tmp_path, monkeypatch, caplog, size):
    monkeypatch.setattr("fedhello.results.prediction.MOST_AT_ONCE", size)
    (tmp_path / "in.csv").write_text('text,n\n" ",0\napple,1\n,2\niron,3\n')
    caplog.clear()
    how = {"probabilities": True, "top": 2}
    assert run.predict_file(tmp_path / "in.csv", tmp_path / "out.csv", **how) == 4
    assert caplog.messages == ["2 of 4 rows lack an input, and are written without a prediction"]
    header, *rows = [line.split(",") for line in (tmp_path / "out.csv").read_text().splitlines()]
    assert header[2:] == ["predicted", "probability", "predicted_2", "probability_2", "p(fruit)", "p(metal)"]
    assert [row[2:] for row in rows[::2]] == [[""] * 6] * 2
    assert [row[1] for row in rows] == ["0", "1", "2", "3"]
    assert [row[2] for row in rows[1::2]] == [one.label for one in run.predict(["apple", "iron"])]
    run.predict_file(tmp_path / "in.csv", tmp_path / "out.jsonl")
    first = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])
    assert (first["predicted"], first["probability"]) == (None, None)
    (tmp_path / "in.csv").write_text("text,n\n,1\n,2\n")
    with pytest.raises(fh.DataError, match=r"in\.csv; found 2 without an input alone"):
        run.predict_file(tmp_path / "in.csv", tmp_path / "no.csv")
