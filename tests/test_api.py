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
    def seen_of(rate=None):
        session, seen = fh.prepare("tiny.yaml", {"train.rounds": 3, "train.lr_schedule": "constant"}), []
        for _, record in fh.rounds(session, watch=seen.append):
            came = [update.client for update in seen if update.round == record.report.round]
            assert came == [client.client for client in record.report.clients]
            if record.report.round == 1 and rate is not None:
                session.engine.settings = replace(session.engine.settings, lr=rate)
        return seen

    def values(seen, t):
        return [u.tensors[name] for u in seen if u.round == t for name in sorted(u.tensors)]

    same, slower = seen_of(), seen_of(1e-9)
    equal = [all(map(torch.equal, values(same, t), values(slower, t))) for t in range(3)]
    assert equal == [True, True, False]


def test_callbacks_are_a_list_of_such_before_anything_is_loaded(place):
    class Own(fh.Callback):
        pass

    for wrong, found in ((Own(), "found a Own"), ([Own], "found Own"), ([print], "found a builtin")):
        for begin in (lambda wrong: fh.run("absent.yaml", callbacks=wrong), lambda w: fh.resume("absent", callbacks=w)):
            with pytest.raises(fh.ConfigError, match=found):
                begin(wrong)
