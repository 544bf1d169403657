"""A run that has ended, as a program looks at it and uses it."""

import json

import pytest

import fedhello as fh


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
    assert run.evaluate()["test"]["accuracy"] == run.summary.final
    assert type(run.peft_model()).__name__.startswith("Peft")
    assert (run.export("out", merge=True) / "model.safetensors").is_file()
    assert run.predict(["apple number 3"], probabilities=True) == [one]  # what was merged was a copy
    assert run.evaluate()["test"]["accuracy"] == run.summary.final
    assert run.predict([]) == []
    with pytest.raises(fh.ConfigError, match="expected a list of texts"):
        run.predict("apple number 3")
    with pytest.raises(fh.RunFolderError, match="expected a new folder"):
        run.export("out")
    assert fh.load_run(run.path).summary == run.summary
    with pytest.raises(fh.RunFolderError):
        fh.load_run(place)
