"""``model.attention``: what a trial chose is part of the run, and is tried nowhere else."""

from pathlib import Path

import pytest
import yaml

import fedhello as fh
from fedhello.config.load import load_config
from fedhello.model.attention import attention_of
from fedhello.setup import training


@pytest.fixture
def tried(place, monkeypatch):
    found = []
    monkeypatch.setattr(training, "time_in_eager", lambda *given, **how: found.append(given) or 0.5)
    return found


def test_a_run_keeps_what_was_chosen_and_goes_on_with_it(place, tried, monkeypatch):
    run = fh.run("tiny.yaml", {"train.rounds": 1, "run.name": "attention"})
    assert len(tried) == 1
    kept = yaml.safe_load((run.path / "config.yaml").read_text())
    assert kept["model"]["attention"] == "eager"
    assert any("model.attention=default" in note for note in run.summary.notes)
    monkeypatch.setattr(training, "time_in_eager", lambda *_, **how: pytest.fail("tried again"))
    session = fh.prepare(run.path / "config.yaml")
    assert attention_of(session.model) == "eager"


@pytest.mark.parametrize(
    "stated",
    [
        "model.attention=default",
        "model.attention=sdpa",
        "clients.tiers=[{share: 1, memory: 1GB}]",
    ],
)
def test_nothing_is_tried_where_it_is_stated_or_memory_is_limited(stated, place, tried):
    session = fh.prepare(load_config(Path("tiny.yaml"), [stated]))
    assert not tried
    assert attention_of(session.model) == "sdpa"
    assert session.config["model"]["attention"] == ("sdpa" if "sdpa" in stated else "default")
