"""Data that changed between start and resume or evaluate → noticed."""

import json
import re
import shutil
from pathlib import Path

import pytest

import fedhello as fh
from fedhello.runs.folder import RunFolder

DATA = 3
GOLDEN = Path(__file__).parents[1] / "golden" / "run-0.1"
TRAIN = "the clients' training data are not those that the run started with"


def rewrite(place, change, file="texts.csv"):
    """Change the rows of a file of texts and labels: pairs of both."""
    head, *lines = (place / file).read_text().splitlines()
    rows = [tuple(line.rsplit(",", 1)) for line in lines]
    (place / file).write_text("\n".join([head, *(",".join(row) for row in change(rows))]) + "\n")


CHANGES = {
    "all texts": lambda rows: [(text.replace("number", "no"), label) for text, label in rows],
    "one text": lambda rows: [("mango number 0", rows[0][1]), *rows[1:]],
    "the order": lambda rows: rows[::-1],
    "two labels": lambda rows: [(text, {"fruit": "metal", "metal": "fruit"}[label] if i in (0, 70) else label)
                                for i, (text, label) in enumerate(rows)],
    "one more": lambda rows: [*rows, ("mango number 0", "fruit")],
}  # fmt: skip


def test_a_run_does_not_go_on_with_other_data_unless_they_are_accepted(broken, place, call):
    text = (place / "texts.csv").read_text()
    for name, change in CHANGES.items():
        rewrite(place, change)
        code, _, err = call(place, "resume", "runs/r", "--quiet")
        assert code == DATA
        assert err.startswith("error: expected the data that runs/r started with; found other data in "), name
        assert err.count("\n") == 1
        assert bool(re.search(r"train \(\d+ samples, \d+ at the start\)", err)) == (name == "one more")
        assert not (place / "runs" / "r" / "summary.json").exists()
        (place / "texts.csv").write_text(text)
    rewrite(place, CHANGES["all texts"])
    code, out, err = call(place, "resume", "runs/r", "--changed-data", "--json")
    assert (code, f"note: {TRAIN}\n" in err) == (0, True)
    summary = json.loads(out)
    assert (summary["status"], summary["rounds"]) == ("finished", 3)
    for said in (TRAIN, "the server's validation or proxy data", "the server's test data"):
        assert any(note.startswith(said) for note in summary["notes"])
    assert json.loads((place / "runs" / "r" / "data.json").read_text())["changes"] == [3]
    assert call(place, "evaluate", "runs/r")[2] == ""  # from now on these are its data


def test_the_same_data_in_another_file_or_touched_are_the_same(broken, place, call):
    text = (place / "texts.csv").read_text()
    (place / "texts.csv").unlink()
    (place / "texts.csv").write_text(text.replace("\n", "\r\n"))
    code, _, err = call(place, "resume", "runs/r", "--quiet")
    assert (code, err) == (0, "")


def test_a_run_killed_before_its_first_checkpoint_knows_its_data(processes, place, call):
    words = ("run.name=r", "train.measure_memory=false")
    name = "checkpoint-000000.safetensors"
    assert processes.wait(processes.start(place, "run", "tiny.yaml", *words, dies_at=name)) == -9
    rewrite(place, CHANGES["one text"])
    assert call(place, "resume", "runs/r", "--quiet")[0] == DATA
    assert call(place, "resume", "runs/r", "--quiet", "--changed-data")[0] == 0


@pytest.fixture
def finished(place, call):
    code, out, _ = call(place, "run", "tiny.yaml", "run.name=r", "train.measure_memory=false", "--json")
    assert code == 0
    return json.loads(out)


RENAMED = {"fruit": "vegetable", "metal": "alloy"}


@pytest.mark.parametrize("old", RENAMED)
def test_a_renamed_label_is_refused_by_name(finished, place, call, old):
    """Each new name sorts to the other end, where the other class was."""
    rewrite(place, lambda rows: [(text, RENAMED[old] if label == old else label) for text, label in rows])
    for command in (["evaluate", "runs/r"], ["evaluate", "runs/r", "--data", "texts.csv"]):
        code, out, err = call(place, *command)
        assert (code, out) == (DATA, "")
        assert "expected the labels of the run, fruit, metal; " in err
        assert f"is labelled {RENAMED[old]!r}" in err
    (place / "runs" / "r" / "summary.json").unlink()
    for flag in ([], ["--changed-data"]):  # rows of the head cannot be given another name
        assert call(place, "resume", "runs/r", "--quiet", *flag)[0] == DATA


def test_labels_map_by_name_where_some_are_missing(finished, place, call):
    """Only the class that comes second is left, which would be the first by its position."""
    whole = json.loads(call(place, "evaluate", "runs/r", "--data", "texts.csv", "--json")[1])
    right = {}
    for label in ("fruit", "metal"):
        shutil.copy(place / "texts.csv", place / f"{label}.csv")
        rewrite(place, lambda rows, label=label: [row for row in rows[::-1] if row[1] == label], f"{label}.csv")
        found = json.loads(call(place, "evaluate", "runs/r", "--data", f"{label}.csv", "--json")[1])
        right[label] = found["data"]["accuracy"] * found["samples"]["data"]
    assert sum(right.values()) == pytest.approx(whole["data"]["accuracy"] * whole["samples"]["data"])
    predicted = json.loads(call(place, "predict", "runs/r", *texts(place), "--json")[1])
    assert sum(one["label"] == "metal" for one in predicted[40:]) == pytest.approx(right["metal"])
    # The same of the run's own data, from which a whole class has gone.
    rewrite(place, lambda rows: [row for row in rows if row[1] == "metal"])
    code, out, err = call(place, "evaluate", "runs/r", "--json")
    assert code == 0
    assert "the validation and test data are not those that runs/r was scored on" in err
    found = json.loads(out)
    assert found["test"]["accuracy"] == pytest.approx(right["metal"] / 40, abs=0.25)


def texts(place):
    return [line.rsplit(",", 1)[0] for line in (place / "texts.csv").read_text().splitlines()[1:]]


def test_predict_says_whose_labels_it_shows(finished, place, call):
    rewrite(place, lambda rows: [(text, label.upper()) for text, label in rows])
    code, out, err = call(place, "predict", "runs/r", "apple number 3")
    assert code == 0
    assert out.split("\t")[0] in ("fruit", "metal")
    assert err == "note: labels are those that runs/r was trained with: fruit, metal\n"


def test_data_in_memory_are_recognised(place, monkeypatch):
    monkeypatch.chdir(place)
    rows = [tuple(line.rsplit(",", 1)) for line in (place / "texts.csv").read_text().splitlines()[1:]]
    words = {"run.name": "r", "train.rounds": 2, "train.measure_memory": False, "train.lr_schedule": "constant"}
    assert fh.run("tiny.yaml", words, data=rows).summary.status == "finished"
    more = {"train.rounds": 3}
    other = [(text + "!", label) for text, label in rows]
    with pytest.raises(fh.DataError, match=r"found other data in train, validation, test, proxy.*changed_data=True"):
        fh.resume("runs/r", more, data=other)
    renamed = [(text, label.upper()) for text, label in rows]
    with pytest.raises(fh.DataError, match=r"expected the labels of the run, fruit, metal; .*'FRUIT'"):
        fh.load_run("runs/r", data=renamed).evaluate()
    assert fh.resume("runs/r", more, data=list(rows)).summary.rounds == 3
    again = fh.resume("runs/r", {"train.rounds": 4}, data=other, changed_data=True)
    assert TRAIN in again.summary.notes


def test_a_run_of_0_1_0_says_that_it_cannot_tell(tmp_path, call):
    place = Path(shutil.copytree(GOLDEN, tmp_path / "place"))
    code, _, err = call(place, "resume", "half", "--quiet")
    assert code == 0
    assert "note: whether the data are those of half is not checked: it has no digest of them (data.json)" in err
    rewrite(place, lambda rows: [(text, label.upper()) for text, label in rows])
    code, _, err = call(place, "evaluate", "finished")
    assert (code, "expected the labels of the run, fruit, metal; " in err) == (DATA, True)


def test_a_comparison_does_not_keep_runs_on_other_data(place, call):
    words = ["compare", "tiny.yaml", "--methods", "head-only", "--seeds", "0", "--no-baselines", "--out", "cmp"]
    assert call(place, *words)[0] == 0
    rewrite(place, CHANGES["one text"])
    code, _, err = call(place, *words)
    assert code == DATA
    assert "expected the data that cmp/runs/head-only-seed0 was made with; found other data in " in err


def test_private_runs_keep_no_digest_of_clients_data(place, call):
    words = ("run.name=r", "method.name=head-only", "privacy.epsilon=8", "clients.tiers=[{share: 1, blocks: 3}]")
    code, _, err = call(place, "run", "tiny.yaml", *words, "--quiet")
    assert code == 0, err
    assert sorted(RunFolder(place / "runs" / "r").data()[0].parts) == ["proxy", "test", "validation"]


def exchange(folder, one="apple", other="iron"):
    """Exchange two words of a model's tokenizer."""
    words = {f'"{one}"': f'"{other}"', f'"{other}"': f'"{one}"'}
    for file in folder.glob("*token*"):
        file.write_text(re.sub("|".join(words), lambda found: words[found[0]], file.read_text()))


TOKENIZER = "the tokenizer or image processor is not the one that the run started with"


def test_a_run_does_not_go_on_with_another_tokenizer_unless_it_is_accepted(broken, place, call):
    exchange(place / "tiny")
    code, _, err = call(place, "resume", "runs/r", "--quiet")
    assert (code, err.count("\n")) == (DATA, 1)
    assert "expected the data that runs/r started with; found another tokenizer of tiny. Restore" in err
    rewrite(place, CHANGES["the order"])
    assert re.search(r"found other data in train, .* and another tokenizer of", call(place, "resume", "runs/r")[2])
    code, out, err = call(place, "resume", "runs/r", "--changed-data", "--json")
    assert (code, f"note: {TOKENIZER}" in err) == (0, True)
    assert any(note.startswith(TOKENIZER) for note in json.loads(out)["notes"])
    assert "tokenizer" not in call(place, "evaluate", "runs/r")[2]  # from now on it is the run's


def test_what_uses_a_run_wants_its_tokenizer_unless_another_is_accepted(finished, place, call):
    uses = (["evaluate", "runs/r"], ["evaluate", "runs/r", "--data", "texts.csv"], ["predict", "runs/r", "apple"])
    assert not any("processor" in call(place, *words)[2] for words in uses)
    exchange(place / "tiny")
    said = "the tokenizer or image processor of tiny is not the one that runs/r was trained with"
    for words in (*uses, ["export", "runs/r", "--merge"]):
        code, out, err = call(place, *words)
        assert (code, out, err.count("\n")) == (DATA, "", 1), words
        assert "expected what runs/r was trained with; found another tokenizer of tiny" in err
        assert "go on with this one: --changed-data (from Python changed_data=True)" in err
        code, _, err = call(place, *words, "--changed-data")
        assert (code, err.count(said)) == (0, 1), words
    code, _, err = call(place, "export", "runs/r", "--out", "adapter")  # writes no tokenizer
    assert (code, err.count(said)) == (0, 1)
