import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import fedhello as fh
from fedhello.config.load import load_config
from fedhello.setup.prepare import prepare


def test_preparing_trains_and_writes_nothing_and_is_the_same_each_time(workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    before = {path: path.stat().st_mtime_ns for path in workplace.rglob("*")}
    one, same, other = (prepare(load_config(workplace / "tiny.yaml", [f"run.seed={seed}"])) for seed in (0, 0, 1))
    assert {path: path.stat().st_mtime_ns for path in workplace.rglob("*")} == before
    a, b, c = (session.model.snapshot(share_head=True).tensors for session in (one, same, other))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not all(torch.equal(a[name], c[name]) for name in a)
    assert one.federation == same.federation


def test_every_sample_belongs_to_one_client_or_one_part_of_the_server(workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    session = prepare(load_config(workplace / "tiny.yaml"))
    _, positions = session.engine.together
    clients = np.concatenate(list(positions.values()))
    assert len(set(clients.tolist())) == len(clients)
    held = sum(len(part) for part in (session.server.validation, session.server.test, session.server.proxy))
    assert len(clients) + held == 80
    assert [client.samples for client in session.federation.clients] == [len(part) for part in positions.values()]


def test_a_classifier_in_memory_is_as_it_was_after_preparing_has_failed(place):
    model = AutoModelForSequenceClassification.from_pretrained("tiny", num_labels=2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    configuration = model.config.to_dict()
    with pytest.raises(fh.DataError, match="each of 5000 clients"):
        fh.prepare("tiny.yaml", {"data.clients": 5000}, model=model, processor=AutoTokenizer.from_pretrained("tiny"))
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert model.config.to_dict() == configuration


def test_what_is_loaded_is_told_in_order(workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    told = []
    prepare(load_config(workplace / "tiny.yaml", ["model.pooling=mean"]), tell=told.append)
    assert told == ["the data", "the model", "the samples as the model reads them", "what each client can train"]
