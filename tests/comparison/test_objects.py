"""Comparisons of a model and data in memory."""

import csv
import sys
from pathlib import Path

import pytest
import torch
import transformers

import fedhello as fh


@pytest.fixture
def place(workplace, tmp_path, monkeypatch):
    for name in ("tiny", "tiny.yaml", "texts.csv"):  # and not what other tests have left there
        (tmp_path / name).symlink_to(workplace / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def classifier(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # the head of a loaded classifier is drawn anew each time
        model = transformers.AutoModelForSequenceClassification.from_pretrained("tiny", num_labels=2)
    return model, transformers.AutoTokenizer.from_pretrained("tiny")


def adapters(out):
    return {file.parts[-3]: file.read_bytes() for file in Path(out).rglob("adapter_model.safetensors")}


def test_each_run_starts_from_what_was_handed_over(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "vl_convert", None)  # pictures take the most time here
    with Path("texts.csv").open() as file:
        rows = list(csv.DictReader(file))
    words = {"overrides": {"data.proxy": 0, "train.rounds": 1}, "baselines": False, "seeds": [0, 1]}
    # Tiers that state blocks are translated for methods of ranks, by the number of the model's blocks.
    methods = ["rgd-hla", "flexlora"]
    fh.compare("tiny.yaml", methods=methods, out="named", **words)
    model, tokenizer = classifier()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    own = fh.Method("mine", "the same", "-", fh.METHODS["rgd-hla"].allocate)
    objects = {"processor": tokenizer, "data": rows}
    try:
        found = fh.compare("tiny.yaml", methods=[*methods, own], model=model, out="held", **objects, **words)
    finally:
        fh.METHODS.pop("mine")
    assert list(found.runs) == ["rgd-hla", "flexlora", "mine"]
    named, held = adapters("named"), adapters("held")
    assert len(named) == 4
    assert all(held[name] == adapter for name, adapter in named.items())
    assert held["mine-seed0"] == held["rgd-hla-seed0"]
    after = model.state_dict()  # and it holds no adapter
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())

    dora = {"model.lora.dora": True, "data.proxy": 0}  # which no byte is predicted for
    assert fh.prepare("tiny.yaml", {**dora, "method.name": "rgd-hla"}, data=rows).model.has_magnitudes

    # Finished runs are kept where the objects are the same, and refused where they are not.
    when = {file: file.stat().st_mtime_ns for file in Path("held/runs").rglob("summary.json")}
    fh.compare("tiny.yaml", methods=methods, model=classifier(seed=1)[0], out="held", **objects, **words)
    assert when == {file: file.stat().st_mtime_ns for file in Path("held/runs").rglob("summary.json")}
    with pytest.raises(fh.RunFolderError, match="expected the data in memory that held was made with"):
        fh.compare("tiny.yaml", methods=methods, model=model, processor=tokenizer, data=rows[:-1], out="held", **words)
    with torch.no_grad():
        model.bert.encoder.layer[0].output.dense.weight[0] += 1
    with pytest.raises(fh.RunFolderError, match="expected the model in memory that held was made with"):
        fh.compare("tiny.yaml", methods=methods, model=model, out="held", **objects, **words)
