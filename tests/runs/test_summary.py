"""What ``summary.json`` holds is read and written as it is, also that of 0.1.0 and what a later fedhello adds."""

import json
import math
from pathlib import Path

import pytest

from fedhello.errors import RunFolderError
from fedhello.model.evaluation import Evaluation
from fedhello.runs.summary import FORMAT, Summary

GOLDEN = Path(__file__).parent.parent / "golden" / "run-0.1"
RUNS = ["finished", "half", "heads"]


def golden(run):
    return json.loads((GOLDEN / run / "summary.json").read_text())


@pytest.mark.parametrize("run", RUNS)
def test_a_summary_of_0_1_0_comes_back_as_it_was(run):
    before = golden(run)
    after = json.loads(json.dumps(Summary.read(before).to_dict()))
    newer = {key: after.pop(key) for key in ("format", "changes", "energy_joules", "stopped")}
    assert newer == {"format": 1, "changes": [], "energy_joules": None, "stopped": None}
    assert after == before


def test_what_is_typed_can_be_used():
    found = Summary.read(golden("finished"))
    assert found.final_scores.samples == found.start_scores.samples > 0
    assert found.head.changes[0].clients == 4
    assert sum(tier.clients for tier in found.tiers) == 4
    assert found.but(error="broken").error == "broken"
    assert found.error is None


def test_scores_that_are_not_finite_are_null_in_the_file_and_come_back():
    diverged = Evaluation(0.5, math.nan, 4, {"perplexity": math.inf})
    written = Summary.read(golden("finished")).but(final_scores=diverged).to_dict()
    assert written["final_scores"] == {"accuracy": 0.5, "loss": None, "samples": 4, "more": {"perplexity": None}}
    again = Summary.read(json.loads(json.dumps(written, allow_nan=False)))
    assert math.isnan(again.final_scores.loss)


def test_what_a_later_fedhello_adds_stays():
    found = Summary.read(golden("finished") | {"added": {"later": [1, 2]}})
    assert found.to_dict()["added"] == {"later": [1, 2]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": FORMAT + 1}, "expected a summary of format 1 or earlier; found 2"),
        ({"rounds": "many"}, "expected the summary of a run"),
        ({"status": "asleep"}, "expected the summary of a run"),
    ],
)
def test_another_format_and_wrong_values_are_refused(change, said):
    with pytest.raises(RunFolderError, match=said):
        Summary.read(golden("finished") | change)
