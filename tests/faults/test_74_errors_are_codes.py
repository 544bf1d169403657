"""Case 74: no error that leaves a client holds a value, a column's name, a path or an exception's text."""

import logging
import math

import pytest
import torch
from hostile import LABELS, client_of, told_at, work_for

from fedhello.engine.local import LocalEngine
from fedhello.network.refusals import SENTENCES


@pytest.fixture(autouse=True)
def here(place, monkeypatch):
    monkeypatch.chdir(place)


MARK = "canary"
GOOD = "".join(
    f"{word} {MARK}-text number {i},{kind}\n" for i in range(8) for word, kind in zip("ab", LABELS, strict=True)
)
FILES = {
    "a label that the federation does not know": f"text,label\none {MARK}-text two,{MARK}-label\n",
    "no column that fits": f"{MARK}-one,{MARK}-two\n1.5,2.5\n",
    "several that fit": f"{MARK}-one,{MARK}-two,label\n"
    + "".join(f"a {i} b,c {i} d,{LABELS[i % 2]}\n" for i in range(9)),
    "an empty cell": f"text,label\n{GOOD},fruit\n",
    "a row too long": f"text,label\n{GOOD}{MARK}-cell,{MARK}-cell,{MARK}-cell\n",
    "an unknown encoding": b"text,label\n\xff\xfe" + f"{MARK}-text,fruit\n".encode(),
    "nothing": "",
}


def clean(reply):
    """Assert that a reply is a code alone, and holds no mark."""
    assert reply.keys() == {"error"}
    assert reply["error"] in SENTENCES
    assert MARK not in repr(reply)
    return True


@pytest.fixture
def marked(place):
    (place / f"{MARK}-folder").mkdir()
    return place / f"{MARK}-folder"


@pytest.mark.parametrize("what", FILES)
def test_why_data_cannot_be_used_stays_here(place, marked, what, capfd):
    file = marked / f"{MARK}.csv"
    content = FILES[what]
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    worker, _ = client_of(str(file))
    assert clean(worker.answer("join", told_at(place)))
    assert MARK in str(worker.failure) or "Name it as" in str(worker.failure)  # and its owner is told


@pytest.mark.parametrize(
    "consent",
    [{"columns": {"text": f"{MARK}-column"}}, {"columns": {"image": f"{MARK}-column"}}, {"labels": [f"{MARK}-label"]}],
)
def test_why_columns_or_labels_cannot_be_used_stays_here(place, consent):
    worker, _ = client_of("texts.csv", **consent)
    assert clean(worker.answer("join", told_at(place)))


def test_a_file_or_a_model_that_is_not_there_stays_here(place):
    for client in (client_of(f"/{MARK}/none.csv"), client_of("texts.csv", model=f"/{MARK}/none")):
        assert clean(client[0].answer("join", told_at(place)))


def test_what_goes_wrong_later_is_a_code_and_the_text_is_in_the_log(place, marked, monkeypatch, caplog):
    (marked / "mine.csv").write_text("text,label\n" + GOOD)
    worker, ready = client_of(str(marked / "mine.csv"))
    joined = worker.answer("join", told_at(place))
    assert MARK not in repr(joined)

    def fails(*_, **__):
        raise RuntimeError(f"{MARK}-exception of {marked}")

    work = work_for(ready.client)
    asked = {"sums": {"client": 0, "run": "r"}, "train": work, "scores": {**work, "samples": 4, "batch_size": 2}}
    monkeypatch.setattr("fedhello.engine.local.local_training", fails)
    monkeypatch.setattr(LocalEngine, "head_sums", fails)
    monkeypatch.setattr(LocalEngine, "score", fails)
    with caplog.at_level(logging.WARNING, logger="fedhello"):
        for kind, fields in asked.items():
            assert clean(worker.answer(kind, fields))
            assert f"{MARK}-exception" in caplog.messages[-1]
    for kind, fields in asked.items():
        for odd in (b"", b"{}", b"x" * 99, work["task"][:-9]):
            name = "adapter" if kind == "sums" else "task"
            assert clean(worker.answer(kind, fields | {name: odd or b"y"}))


def test_a_loss_that_is_not_finite_is_a_code(place):
    worker, ready = client_of()
    worker.answer("join", told_at(place))
    adapter = ready.client.model.snapshot(share_head=True).tensors
    broken = {name: torch.full_like(value, math.nan) for name, value in adapter.items()}
    assert clean(worker.answer("train", work_for(ready.client, tensors=broken)))
