"""Commands on what runs left."""

import csv
import io
import json

import pytest

import fedhello as fh


@pytest.fixture(scope="module")
def finished(workplace, call):
    """A finished run; its folder."""
    code, _, err = call(workplace, "run", "tiny.yaml", "--quiet", "run.name=used")
    assert code == 0, err
    return workplace / "runs" / "used"


def test_other_data_are_scored_as_the_library_does(finished, workplace, call, tmp_path):
    (tmp_path / "more.csv").write_text("body,kind\napple number 3,fruit\niron number 70,metal\nplum number 8,fruit\n")
    words = ("--data", tmp_path / "more.csv", "--text", "body", "--label", "kind")
    code, out, err = call(workplace, "evaluate", finished, *words, "--json")
    assert (code, err) == (0, "")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workplace)
        columns = {"text": "body", "label": "kind"}
        found = fh.load_run(finished).evaluate(tmp_path / "more.csv", columns=columns)
    scores = {"accuracy": found.accuracy, "loss": found.loss, **found.more}
    assert json.loads(out) == {"data": scores, "samples": {"data": 3}}
    said = call(workplace, "evaluate", finished, *words)[1]
    assert said.startswith(f"data accuracy {json.loads(out)['data']['accuracy']:.4f}, loss ")
    assert said.endswith("on 3 samples\n")
    code, _, err = call(workplace, "evaluate", finished, "--label", "kind")
    assert (code, err) == (2, "error: expected data with columns; found none. Pass the data.\n")


def test_probabilities_of_all_classes_are_there_when_asked_for(finished, workplace, call):
    words = ("predict", finished, "apple number 3", "--probabilities")
    (row,) = json.loads(call(workplace, *words, "--json")[1])
    assert row["probability"] == max(row["probabilities"].values())
    listed = "\t".join(f"{label} {p:.3f}" for label, p in row["probabilities"].items())
    assert call(workplace, *words)[1] == f"{row['label']}\t{row['probability']:.3f}\tapple number 3\t{listed}\n"
    (plain,) = json.loads(call(workplace, *words[:-1], "--json")[1])
    assert list(plain) == ["input", "label", "probability"]


def test_export_says_where_and_writes_over_nothing(finished, workplace, call, tmp_path):
    assert call(workplace, "export", finished, "--out", tmp_path / "out") == (0, f"{tmp_path / 'out'}\n", "")
    code, _, err = call(workplace, "export", finished, "--out", tmp_path / "out", "--merge")
    assert (code, "expected a new folder to export to" in err) == (5, True)
    code, _, err = call(workplace, "export", finished, "--merge", "--format", "adapter")
    assert (code, "found merge and the form adapter" in err) == (2, True)


def test_runs_side_by_side_are_what_the_library_says(made_up, call, tmp_path):
    runs = [made_up("full-seed0", "full", 0, [0.6, 0.7]), made_up("legend-seed0", "legend", 0, [0.8, 0.9])]
    code, out, err = call(
        tmp_path, "report", *runs, "--out", "both", "--reference", "legend", "--target", "0.7", "--json"
    )
    assert (code, err) == (0, "")
    found = fh.load_comparison(runs, reference="legend", target=0.7)
    assert json.loads(out) == json.loads(json.dumps(found.to_dict()))
    assert (found.reference, found.folder) == ("legend", None)
    with pytest.raises(fh.ConfigError, match="expected a folder"):
        fh.write_comparison(found)
    assert fh.write_comparison(found, tmp_path / "twice").read_text().count("<figure id=") == 9
    assert json.loads((tmp_path / "twice" / "comparison.json").read_text()) == json.loads(out)


def test_scores_by_class_and_by_client_are_those_of_the_library(finished, workplace, call):
    words = ("evaluate", finished, "--per-class", "--per-client")
    found = json.loads(call(workplace, *words, "--json")[1])
    run = fh.load_run(finished)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workplace)
        matrix = run.evaluate().test.confusion
    assert found["confusion"] == [list(cell) for cell in matrix.cells]
    assert [row["recall"] for row in found["per_class"]] == [one.recall for one in matrix.per_class]
    assert found["per_client"] == run.client_scores().to_dict()
    out = call(workplace, *words)[1]
    assert out.splitlines()[0].startswith("test accuracy ")
    for title in ("scores by class on 16 samples", "confusion: rows are true classes", "worst decile"):
        assert title in out
    assert "per_class" not in json.loads(call(workplace, "evaluate", finished, "--json")[1])


@pytest.fixture
def rows(tmp_path):
    """A table of 2,500 rows, in more than one part, with a column that the model does not read."""
    lines = [f"{i},{'apple' if i % 3 else 'iron'} number {i}" for i in range(2500)]
    (tmp_path / "in.csv").write_text("id,text\n" + "\n".join(lines) + "\n")
    return tmp_path / "in.csv"


def test_the_rows_of_a_file_are_predicted(finished, workplace, call, rows, tmp_path, monkeypatch):
    words = ("predict", finished, "--file", rows, "--probabilities", "--top", 2)
    code, out, err = call(workplace, *words, "--out", tmp_path / "out.csv")
    assert (code, out, err) == (0, "", f"wrote {tmp_path / 'out.csv'}: 2500 rows\n")
    with (tmp_path / "out.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    with rows.open(newline="") as file:
        assert [{key: row[key] for key in ("id", "text")} for row in written] == list(csv.DictReader(file))
    monkeypatch.chdir(workplace)
    expected = fh.load_run(finished).predict([row["text"] for row in written], probabilities=True, top=2)
    for row, one in zip(written, expected, strict=True):
        assert row["predicted"] == one.label == next(iter(one.top))
        assert float(row["probability"]) == pytest.approx(one.probability, abs=1e-6)
        assert (row["predicted_2"], float(row["probability_2"])) == pytest.approx(list(one.top.items())[1], abs=1e-6)
        assert {k: float(row[f"p({k})"]) for k in one.probabilities} == pytest.approx(one.probabilities, abs=1e-6)
    assert call(workplace, *words)[1] == (tmp_path / "out.csv").read_text()
    as_lines = call(workplace, *words, "--json")[1].splitlines()
    assert [{key: str(value) for key, value in json.loads(line).items()} for line in as_lines] == written
    code, _, err = call(workplace, *words, "--out", tmp_path / "out.csv")
    assert (code, "expected a new file to write" in err) == (5, True)


def test_a_file_appears_whole_or_not_at_all(finished, workplace, call, rows, tmp_path):
    with rows.open("a") as file:
        file.write("2500,iron,more\n")
    code, _, err = call(workplace, "predict", finished, "--file", rows, "--out", tmp_path / "out.csv")
    assert (code, "line 2502" in err) == (3, True)
    code, _, err = call(workplace, "predict", finished, "--file", rows, "--out", tmp_path / "out.xls")
    assert (code, "expected a file to write that ends in .csv, .tsv, .jsonl" in err) == (2, True)
    code, _, err = call(workplace, "predict", finished, "--file", tmp_path / "no.csv", "--out", tmp_path / "out.csv")
    assert (code, "expected the file to be a file" in err) == (3, True)
    code, _, err = call(workplace, "predict", finished, "--file", rows, "--text", "body", "--out", tmp_path / "out.csv")
    assert (code, "'body'" in err) == (3, True)
    assert [file.name for file in tmp_path.iterdir()] == ["in.csv"]


def test_a_file_is_no_text(finished, workplace, call, rows):
    code, _, err = call(workplace, "predict", finished, rows)
    assert (code, f"{rows} is a file, whose name would be classified. Predict its rows: --file {rows}" in err) == (
        2,
        True,
    )
    code, _, err = call(workplace, "predict", finished, "iron", "--file", rows)
    assert (code, "found both, 'iron' and" in err) == (2, True)
    code, _, err = call(workplace, "predict", finished, "iron", "--out", "x.csv")
    assert (code, err) == (2, "error: expected no --out here; that is for --file\n")


@pytest.mark.parametrize("words", [(), ("-",), ("--file", "-")])
def test_lines_of_standard_input_are_predicted(words, finished, workplace, call, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("iron number 1\n\napple, number 2\n"))
    code, out, _ = call(workplace, "predict", finished, *words)
    assert code == 0
    monkeypatch.chdir(workplace)
    one, two = fh.load_run(finished).predict(["iron number 1", "apple, number 2"])
    assert out.splitlines()[0] == "text,predicted,probability"
    assert out.splitlines()[1].startswith(f"iron number 1,{one.label},")
    assert out.splitlines()[2].startswith(f'"apple, number 2",{two.label},')


def test_the_likeliest_classes_are_listed(finished, workplace, call):
    (one,) = json.loads(call(workplace, "predict", finished, "iron number 1", "--top", "2", "--json")[1])
    (first, second) = one["top"]
    line = call(workplace, "predict", finished, "iron number 1", "--top", "2")[1]
    assert line == f"{first}\t{one['top'][first]:.3f}\tiron number 1\t{second} {one['top'][second]:.3f}\n"
    assert call(workplace, "predict", finished, "iron", "--top", "0")[0] == 2
