"""The library as people use it: on a model of three blocks and 80 texts."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

import fedhello as fh


def test_importing_loads_nothing_heavy_and_gives_the_public_names_alone():
    code = "import sys, fedhello; print(sorted({'torch', 'transformers', 'numpy', 'rich'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
    for name in fh.__all__:
        found = getattr(fh, name)
        assert found.__doc__ or name == "METHODS", name
    with pytest.raises(AttributeError, match="no attribute 'torch'"):
        fh.torch  # noqa: B018
    assert dir(fh) == sorted(fh.__all__)


def test_callbacks_watch_and_stop(place):
    class Watching(fh.Callback):
        seen = ()

        def on_start(self, session, start):
            self.seen += (("start", start.state.round),)

        def on_round(self, state, record):
            self.seen += ((state.round, record.report.round),)

        def on_end(self, summary):
            self.seen += ((summary.status,),)

    watching = Watching()
    stop = fh.EarlyStopping(patience=2, metric="validation_accuracy", min_delta=1.0)  # nothing is ever so much better
    run = fh.run("tiny.yaml", {"run.name": "b", "train.rounds": 5}, callbacks=[watching, stop])
    assert watching.seen == (("start", 0), (1, 0), (2, 1), ("stopped",))
    assert run.summary.status == "stopped"
    assert "stopped after round 2 of 5 by EarlyStopping" in run.summary.notes

    # It goes on to what it would have been.
    done = fh.resume(run.path, callbacks=[watching])
    whole = fh.run("tiny.yaml", {"run.name": "c", "train.rounds": 5})
    assert (done.summary.status, done.summary.rounds) == ("finished", 5)
    assert done.summary.final == whole.summary.final
    assert adapter(done) == adapter(whole)
    assert fh.resume(run.path).summary == done.summary  # there is nothing left


def adapter(run):
    return (run.path / "adapter" / "adapter_model.safetensors").read_bytes()


def test_patience_outlives_a_process(place):
    class At(fh.Callback):
        def __init__(self, last):
            self.last = last

        def on_round(self, state, record):
            return state.round == self.last

    patient = {"patience": 3, "min_delta": 1.0}
    words = {"train.rounds": 6, "train.lr_schedule": "constant"}
    whole = fh.run("tiny.yaml", {**words, "run.name": "j"}, callbacks=[fh.EarlyStopping(**patient)])
    fh.run("tiny.yaml", {**words, "run.name": "k"}, callbacks=[fh.EarlyStopping(**patient), At(2)])
    assert fh.resume("runs/k", callbacks=[fh.EarlyStopping(**patient)]).summary.rounds == whole.summary.rounds == 3


def test_clients_own_heads_are_those_asked_for_whatever_was_asked_before(place):
    run = fh.run("tiny.yaml", {"run.name": "n", "model.head": "local", "train.clients_per_round": 4})
    texts, fresh = ["iron number 1"], fh.load_run(run.path)
    right = {k: fresh.predict(texts, client=k)[0].probability for k in (0, 3)}
    assert right[0] != right[3]
    for k in (0, 3, 0):
        assert run.predict(texts, client=k)[0].probability == right[k]
        run.evaluate()


def test_a_loop_by_hand_sees_updates_and_changes_the_learning_rate(place):
    session, seen = fh.prepare("tiny.yaml", {"train.rounds": 3, "train.lr_schedule": "constant"}), []
    start, records = fh.start(session), []
    for state, record in fh.rounds(session, start.state, watch=seen.append):
        records.append(record)
        came = [update.client for update in seen if update.round == record.report.round]
        assert came == [client.client for client in record.report.clients]
        if state.round == 2:
            break

    def steps(two):
        """Return how far each tensor of the third round's clients goes, the state after it, and its record."""
        seen.clear()
        ((after, record),) = fh.rounds(session, two, watch=seen.append)
        moved = [u.tensors[name] - two.adapter.tensors[name] for u in seen for name in sorted(u.tensors)]
        return torch.cat([step.flatten() for step in moved]), after, record

    slow = replace(state, lr=1e-3 * session.engine.settings.lr)
    (fast, _, usual), (little, after, record) = steps(state), steps(slow)
    assert float(little.norm()) == pytest.approx(1e-3 * float(fast.norm()), rel=0.2)
    assert usual.report.flags == ()
    (flag,) = record.report.flags
    assert flag.endswith(f"that of the state: {slow.lr:g}")

    # What is saved goes on with it.
    saved = fh.save(session, slow, "slow", start=start, records=records)
    going_on = fh.save(session, after, "whole", start=start, records=[*records, record])
    done = fh.resume(saved.path)
    assert adapter(done) == adapter(going_on)
    assert done.summary.flags == (flag,)
    for wrong in (0, -1.0, float("nan")):
        with pytest.raises(fh.ConfigError, match="expected the state's lr to be a finite number above 0"):
            next(fh.rounds(session, replace(state, lr=wrong)))


def test_callbacks_are_a_list_of_such_before_anything_is_loaded(place):
    class Own(fh.Callback):
        pass

    for wrong, found in ((Own(), "found a Own"), ([Own], "found Own"), ([print], "found a builtin")):
        for begin in (lambda wrong: fh.run("absent.yaml", callbacks=wrong), lambda w: fh.resume("absent", callbacks=w)):
            with pytest.raises(fh.ConfigError, match=found):
                begin(wrong)
