"""A run that failed exits with another code than 0, one that went well with 0; ``--json`` says what the file says."""

import contextlib
import json

WORDS = ("run.name=r", "train.rounds=3", "train.measure_memory=false")


def test_a_run_that_goes_well(place, processes):
    code, out, _ = processes.call(place, "run", "tiny.yaml", *WORDS, "--json")
    assert code == 0
    assert json.loads(out) == json.loads((place / "runs" / "r" / "summary.json").read_text())
    assert json.loads(out)["status"] == "finished"


def test_a_run_that_fails(place, processes):
    words = [*WORDS, "train.lr=1e15", "train.optimizer=sgd", "train.selection=last"]
    code, out, err = processes.call(place, "run", "tiny.yaml", *words, "--json")
    assert code not in (0, 1, 130)
    assert out == ""
    assert err.startswith("error: expected ")
    assert err.count("\n") == 1
    summary = json.loads((place / "runs" / "r" / "summary.json").read_text())
    assert summary["status"] == "failed"
    assert summary["error"]
    assert processes.call(place, "resume", "runs/r", "--json")[0] == code  # the same again, since it repeats


def test_a_run_that_failed_by_accident_goes_on(place, call, monkeypatch, undisturbed, outcome):
    from fedhello.model import evaluation

    words = [*WORDS, "train.selection=last"]  # a model that stays selected would not be scored again
    scored = []

    def unlucky(*arguments):
        scored.append(1)
        if len(scored) == 5:  # before training and after each round: validation and test
            raise MemoryError("no more of it")
        return real(*arguments)

    real = evaluation.evaluate
    with monkeypatch.context() as patch:
        patch.setattr("fedhello.runs.loop.evaluate", unlucky)
        with contextlib.suppress(MemoryError):
            call(place, "run", "tiny.yaml", *words, "--quiet")
    summary = json.loads((place / "runs" / "r" / "summary.json").read_text())
    assert (summary["status"], summary["rounds"]) == ("failed", 1)
    assert call(place, "resume", "runs/r", "--quiet")[0] == 0
    assert outcome(place / "runs" / "r") == undisturbed(*words)


def test_a_run_whose_steps_all_do_harm_takes_none_and_keeps_the_model(place, call):
    words = [*WORDS, "train.lr=1e5", "train.optimizer=sgd", "train.server.name=search"]
    code, out, _ = call(place, "run", "tiny.yaml", *words, "--json")
    assert code == 0
    summary = json.loads(out)
    assert summary["final"] == summary["start"]
    assert summary["flags"] == []
