"""Commands on what runs left."""

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
    assert fh.write_comparison(found, tmp_path / "twice").read_text().count("<svg") == 5
    assert json.loads((tmp_path / "twice" / "comparison.json").read_text()) == json.loads(out)
