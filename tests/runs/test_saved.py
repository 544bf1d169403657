"""A loop by hand is saved as a run's folder, which can be used and gone on with."""

from pathlib import Path

import pytest

import fedhello as fh
from fedhello.runs.confusion import read_confusion


def adapter(run):
    return (run.path / "adapter" / "adapter_model.safetensors").read_bytes()


def test_the_loop_by_hand_leads_to_what_the_run_does(place):
    session = fh.prepare("tiny.yaml")
    assert "tier" in str(fh.plan(session))
    start, records = fh.start(session), []
    for state, record in fh.rounds(session, start.state):
        records.append(record)
        if state.round == 1:
            break
    half = fh.save(session, state, "half", start=start, records=records)
    assert half.summary.status == "saved"
    assert half.summary.rounds == len(half.rounds) == 1
    texts = ["iron number 1", "plum number 2"]
    before = half.predict(texts)
    assert before == fh.load_run("half").predict(texts)
    *_, (last, _) = fh.rounds(session, state)
    by_hand = fh.save(session, last, "by-hand")
    whole = fh.run("tiny.yaml", {"run.name": "f"})
    kept, ended, alone = (read_confusion(run.path) for run in (half, whole, by_hand))
    assert kept.before == ended.before is not None
    assert (alone.before, alone.after) == (None, ended.after)
    assert adapter(by_hand) == adapter(whole)
    assert by_hand.summary.final == whole.summary.final
    assert half.predict(texts) == before  # the model in memory has gone on; what was saved has not
    done = fh.resume("half")
    assert adapter(done) == adapter(whole)
    differ = {"wall_seconds", "train_seconds", "evaluation_seconds", "samples_per_second", "tiers"}
    mine, its = (run.summary.model_dump(exclude=differ) for run in (done, whole))
    assert mine == its
    assert by_hand.summary.start is None
    with pytest.raises(fh.RunFolderError, match="without its start and records"):
        fh.resume("by-hand")
    for wrong in ({"records": records}, {"start": start}, {"start": start, "records": records * 2}):
        with pytest.raises(fh.ConfigError, match=r"records|start"):
            fh.save(session, last, "never", **wrong)
    assert not Path("never").exists()
    with pytest.raises(fh.RunFolderError):
        fh.save(session, last, "half")


def test_a_loop_by_hand_keeps_the_clients_own_heads_and_goes_on_with_them(place):
    words = {"run.name": "whole", "model.head": "local", "train.clients_per_round": 4, "train.rounds": 2}
    whole = fh.run("tiny.yaml", words)
    session = fh.prepare("tiny.yaml", words | {"run.name": "half"})
    begun = fh.start(session)
    state, record = next(fh.rounds(session, begun.state))
    assert begun.state.personal_heads == {}
    assert sorted(state.personal_heads) == [0, 1, 2, 3]
    half = fh.save(session, state, "runs/half", start=begun, records=[record])
    assert half.predict(["iron number 1"], client=0)
    again = fh.resume("runs/half")
    assert [again.summary.start, again.summary.final] == [whole.summary.start, whole.summary.final]
    for file in sorted((whole.path / "heads").iterdir()):
        assert file.read_bytes() == (again.path / "heads" / file.name).read_bytes()
