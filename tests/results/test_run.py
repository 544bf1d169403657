"""A run that has ended, as a program looks at it and uses it."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import fedhello as fh

HEADER = ("text", "label")
TEST = [
    ("plum number 70", "fruit"),
    ("zinc number 71", "metal"),
    ("iron number 72", "metal"),
    ("pear number 73", "fruit"),
]


@pytest.fixture(scope="module")
def tested(workplace, call, tmp_path_factory):
    """A run with a test set in a file of its own, in a folder with both."""
    here = tmp_path_factory.mktemp("tested") / "place"
    shutil.copytree(workplace, here, ignore=shutil.ignore_patterns("runs"))
    with (here / "test.csv").open("w", newline="") as file:
        csv.writer(file).writerows([HEADER, *TEST])
    code, _, err = call(here, "run", "tiny.yaml", "data.test=test.csv", "run.name=it", "--quiet")
    assert code == 0, err
    return here


@pytest.fixture
def run(tested, monkeypatch):
    """The same, read back."""
    monkeypatch.chdir(tested)
    return fh.load_run("runs/it")


class Torchlike:
    """What ``torch.utils.data.Dataset`` asks for: a length, and items."""

    def __len__(self):
        return len(TEST)

    def __getitem__(self, i):
        return TEST[i]


def as_pandas():
    return pytest.importorskip("pandas").DataFrame(TEST, columns=HEADER)


def as_hugging_face():
    """With numbers of classes, in another order than the run's."""
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["metal", "fruit"])}
    )
    return datasets.Dataset.from_dict(dict(zip(HEADER, zip(*TEST, strict=True), strict=True)), features=features)


FORMS = {
    "file": lambda: "test.csv",
    "rows": lambda: [dict(zip(HEADER, row, strict=True)) for row in TEST],
    "pairs": lambda: list(TEST),
    "columns": lambda: dict(zip(HEADER, zip(*TEST, strict=True), strict=True)),
    "torch": Torchlike,
    "pandas": as_pandas,
    "datasets": as_hugging_face,
}


@pytest.mark.parametrize("form", FORMS)
def test_other_data_are_scored_as_the_runs_own_whatever_their_form(run, form):
    own, found = run.evaluate(), run.evaluate(FORMS[form]())
    assert found == own.test
    assert (found.samples, found.accuracy) == (4, run.summary.final)


def test_labels_are_told_by_name_and_every_sample_counts(run):
    right = {
        "text": [text for text, _ in TEST],
        "label": [one.label for one in run.predict([text for text, _ in TEST])],
    }
    assert run.evaluate(right).accuracy == 1
    wrong = right | {"label": [{"fruit": "metal", "metal": "fruit"}[label] for label in right["label"]]}
    assert run.evaluate(wrong).accuracy == 0
    thrice = {name: [*right[name], *right[name], *wrong[name]] for name in HEADER}
    assert run.evaluate(thrice).accuracy == pytest.approx(2 / 3)
    assert run.evaluate({"text": ["tin"], "label": ["metal"]}).samples == 1  # of one class alone
    with pytest.raises(fh.DataError, match=r"fruit, metal; row 1 of the data is labelled 'wood'"):
        run.evaluate({"text": ["oak"], "label": ["wood"]})
    with pytest.raises(fh.DataError, match=r"row 2 of the data is labelled '0'"):
        run.evaluate([("tin", "metal"), ("plum", 0)])


def test_columns_and_splits_of_other_data_may_be_named(run, tested):
    named = {"body": [text for text, _ in TEST], "kind": [label for _, label in TEST]}
    assert run.evaluate(named, columns={"text": "body", "label": "kind"}) == run.evaluate("test.csv")
    (tested / "splits").mkdir(exist_ok=True)
    for split in ("one", "two"):
        shutil.copy("test.csv", f"splits/{split}.csv")
    assert run.evaluate("splits", split="two") == run.evaluate("test.csv")
    for wrong, sentence in [
        ({}, "expected split to be one of those of splits, 'one', 'two'"), ({"split": "six"}, "found 'six'"),
    ]:  # fmt: skip
        with pytest.raises(fh.DataError, match=sentence):
            run.evaluate("splits", **wrong)
    with pytest.raises(fh.ConfigError, match=r"expected columns for text, label, .*; found 'txet'"):
        run.evaluate("test.csv", columns={"txet": "body"})
    with pytest.raises(fh.DataError, match="expected texts, as in the run; the data holds pairs"):
        run.evaluate({"a": ["x"], "b": ["y"], "label": ["metal"]}, columns={"text": ("a", "b")})
    with pytest.raises(fh.ConfigError, match="expected data with split and client; found none"):
        run.evaluate(split="one", client=0)


def test_other_data_may_be_in_an_encoding_of_their_own(run):
    Path("latin.csv").write_bytes("text,label\nnickel früh,metal\n".encode("latin-1"))
    with pytest.raises(fh.DataError, match="--encoding cp1252"):
        run.evaluate("latin.csv")
    with pytest.raises(fh.ConfigError, match=r"encoding: .*found 'ansi'"):
        run.evaluate("latin.csv", encoding="ansi")
    assert run.evaluate("latin.csv", encoding="latin-1") == run.evaluate({"text": ["nickel früh"], "label": ["metal"]})


def test_other_data_may_be_in_the_encoding_of_the_runs_data(run):
    shutil.copytree("runs/it", "runs/odd")
    file = Path("runs/odd/config.yaml")
    file.write_text(file.read_text().replace("encoding: null", "encoding: cp1252"))
    Path("odd.csv").write_bytes("text,label\nzinc \u20ac,metal\n".encode("cp1252"))
    assert fh.load_run("runs/odd").evaluate("odd.csv").samples == 1
    with pytest.raises(fh.DataError, match=r"odd\.csv to be UTF-8 text"):
        run.evaluate("odd.csv")


def test_one_model_of_several_is_scored_on_other_data(place):
    run = fh.run("tiny.yaml", {"run.name": "several", "method": {"name": "local-only"}, "train.clients_per_round": 4})
    with pytest.raises(fh.ConfigError, match="expected a model, since this run has several; choose one of: client-0"):
        run.evaluate(TEST)
    for name in ("client-0", "client-3"):
        said = [one.label for one in run.predict([text for text, _ in TEST], model=name)]
        right = np.mean([label == its for label, (_, its) in zip(said, TEST, strict=True)])
        assert run.evaluate(TEST, model=name).accuracy == right


def test_what_is_read_follows_the_folder(place):
    class Once(fh.Callback):
        def on_round(self, state, record):
            return True

    fh.run(
        "tiny.yaml", {"run.name": "on", "train.lr_schedule": "constant", "train.selection": "last"}, callbacks=[Once()]
    )
    read = fh.load_run("runs/on")
    assert (read.summary.status, len(read.rounds), read.config.train.rounds) == ("stopped", 1, 2)
    assert read.rounds is read.rounds  # nothing is read twice
    before = read.predict(["iron number 1"])
    after = fh.resume("runs/on", {"train.rounds": 3})
    assert (read.summary.status, len(read.rounds), read.config.train.rounds) == ("finished", 3, 3)
    assert read.predict(["iron number 1"]) == after.predict(["iron number 1"]) != before


def test_clients_of_a_run_of_objects_can_be_forgotten(place):
    with (place / "texts.csv").open() as file:
        rows = list(csv.DictReader(file))
    run = fh.run("tiny.yaml", {"run.name": "gone", "method": {"name": "head-only"}}, data=rows)
    with pytest.raises(fh.DataError, match="which were passed as objects"):
        fh.load_run("runs/gone").forget([1])
    read = fh.load_run("runs/gone", data=rows)
    summary = read.forget([1])
    assert summary.forgotten == (1,)
    assert summary == read.summary == run.summary
    assert read.evaluate().test.accuracy == summary.final
    assert run.forget([0]).forgotten == (0, 1)  # with what is in memory already
    with pytest.raises(fh.ConfigError, match="not forgotten yet; client 1 is"):
        read.forget([1])


def test_what_is_exported_leaves_the_run_as_it_was(run, tmp_path):
    before = run.predict(["iron number 1"], probabilities=True)
    for form in ("merged", "adapter", "sentence-transformers"):
        if form == "sentence-transformers":
            with pytest.raises(fh.ModelError, match="as sentence-transformers supports"):
                run.export(tmp_path / form, form=form)
        else:
            assert any(run.export(tmp_path / form, form=form).glob("*.safetensors"))
        assert run.predict(["iron number 1"], probabilities=True) == before


def test_a_result_and_a_run_that_is_read_back_are_one():
    assert fh.RunResult is fh.TrainedRun


def test_a_run_is_looked_at_and_used(place):
    run = fh.run("tiny.yaml", {"run.name": "a"})
    assert run.summary.status == "finished"
    assert [record.report.round for record in run.rounds] == [0, 1]
    assert run.rounds[-1].test.accuracy == json.loads((run.path / "summary.json").read_text())["final"]
    assert list(run.rounds.to_pandas()["round"]) == [1, 2]
    (one,) = run.predict(["apple number 3"], probabilities=True)
    assert one.probability == pytest.approx(max(one.probabilities.values()))
    assert set(one.probabilities) == {"fruit", "metal"}
    assert sum(one.probabilities.values()) == pytest.approx(1)
    assert run.evaluate().test.accuracy == run.summary.final
    assert type(run.peft_model()).__name__.startswith("Peft")
    assert (run.export("out", merge=True) / "model.safetensors").is_file()
    assert run.predict(["apple number 3"], probabilities=True) == [one]  # what was merged was a copy
    assert run.evaluate().test.accuracy == run.summary.final
    assert run.predict([]) == []
    with pytest.raises(fh.ConfigError, match="expected a list of texts"):
        run.predict("apple number 3")
    with pytest.raises(fh.RunFolderError, match="expected a new folder"):
        run.export("out")
    assert fh.load_run(run.path).summary == run.summary
    with pytest.raises(fh.RunFolderError):
        fh.load_run(place)
