"""``comparison.json`` holds all that a comparison says, under names that stay; what of it is read comes back."""

import csv
import json
from dataclasses import fields

import pytest
from comparisons import compared

from fedhello.errors import RunFolderError
from fedhello.report.tables import csv_text
from fedhello.results.compared import (
    ComparedMethod,
    ComparedRun,
    ComparedTier,
    ComparisonSummary,
    CostToTarget,
    Terms,
    TunedRate,
    Tuning,
    read_terms,
)
from fedhello.results.statistics import PairedDifference, Spread
from fedhello.types import Budget

TUNING = Tuning(7, 3, (0.001, 0.002), {"full": TunedRate(0.002, True, (None, 0.625))})
SUMMARY = ComparisonSummary(
    labels=("full", "gd-hla"),
    seeds=(4,),
    reference="gd-hla",
    target=0.75,
    target_rule="given",
    start=0.5,
    confidence=0.95,
    model="some/model",
    data="some-data",
    metric="test accuracy",
    only_methods_differ=True,
    test_samples=40,
    equal_cost={"bytes_up": (5, 10), "flops": ()},
    tuning=TUNING,
    methods=(
        ComparedMethod(
            "full", (4,), 0.002, Spread(1, 0.1, None), Spread(1, 0.2, None), Spread(1, 0.3, None), Spread(1, 0.4, None),
            11.0, 12.0, 13.0, 14.0, 15.0, 1, CostToTarget(16.0, 17.0, 18.0, None),
            {"bytes_up": (Spread(0, None, None), Spread(1, 0.5, None)), "flops": ()}, {"south": Spread(1, 0.6, None)},
            (ComparedTier(Budget(memory=19, upload=20), 21.0),),
        ),
    ),
    differences={"full": PairedDifference(2, 0.01, 0.02, 0.03, 0.04, 0.05, "better")},
    runs=(
        ComparedRun(
            "full", 4, 0.002, 22, 0.11, 0.12, 0.13, 0.14, 31, 32, None, CostToTarget(33, 34, 35, 36.0), 37.0, 38.0,
            (39.0, None), {"bytes_up": (None, 0.15), "flops": ()},
        ),
    ),
    notes=("one thing",),
    versions={"python": "3.13"},
)  # fmt: skip
WRITTEN = {
    "format": 1, "labels": ["full", "gd-hla"], "seeds": [4], "reference": "gd-hla", "target": 0.75,
    "target_given": True, "target_rule": "given", "start": 0.5, "confidence": 0.95, "model": "some/model",
    "data": "some-data", "metric": "test accuracy", "only_methods_differ": True, "test_samples": 40,
    "equal_cost": {"bytes_up": [5, 10], "flops": []},
    "tuning": {
        "seed": 7, "rounds": 3, "rates": [0.001, 0.002],
        "methods": {"full": {"rate": 0.002, "at_edge": True, "validation": [None, 0.625]}},
    },
    "methods": [{
        "method": "full", "seeds": [4], "lr": 0.002,
        "start": {"n": 1, "mean": 0.1, "deviation": None}, "final": {"n": 1, "mean": 0.2, "deviation": None},
        "mean_last_5": {"n": 1, "mean": 0.3, "deviation": None},
        "best_on_validation": {"n": 1, "mean": 0.4, "deviation": None},
        "bytes_up": 11.0, "bytes_down": 12.0, "flops": 13.0, "wall_seconds": 14.0, "train_seconds": 15.0,
        "reached_target": 1, "rounds_to_target": 16.0, "bytes_up_to_target": 17.0, "bytes_down_to_target": 18.0,
        "flops_to_target": None,
        "at_equal_cost": {
            "bytes_up": [{"n": 0, "mean": None, "deviation": None}, {"n": 1, "mean": 0.5, "deviation": None}],
            "flops": [],
        },
        "domains": {"south": {"n": 1, "mean": 0.6, "deviation": None}},
        "tiers": [{"budget": {"memory": 19, "upload": 20}, "peak_bytes": 21.0}],
    }],
    "differences": [{
        "method": "full", "n": 2, "mean": 0.01, "low": 0.02, "high": 0.03, "p": 0.04, "p_adjusted": 0.05,
        "verdict": "better",
    }],
    "runs": [{
        "method": "full", "seed": 4, "lr": 0.002, "rounds": 22, "start": 0.11, "final": 0.12, "mean_last_5": 0.13,
        "best_on_validation": 0.14, "bytes_up": 31, "bytes_down": 32, "flops": None, "target": 0.75,
        "rounds_to_target": 33, "bytes_up_to_target": 34, "bytes_down_to_target": 35, "flops_to_target": 36.0,
        "wall_seconds": 37.0, "train_seconds": 38.0, "peak_bytes_tier_0": 39.0, "peak_bytes_tier_1": None,
        "accuracy_at_bytes_up_5": None, "accuracy_at_bytes_up_10": 0.15,
    }],
    "notes": ["one thing"], "versions": {"python": "3.13"},
}  # fmt: skip


def test_every_figure_has_its_name_in_the_file():
    assert SUMMARY.to_dict() == WRITTEN
    assert len(WRITTEN) == len(fields(SUMMARY)) + 2, (
        "a new field needs its place in the file, and here; two are the format and target_given"
    )
    (row,) = csv.DictReader(csv_text(SUMMARY).splitlines())
    assert row == {name: "" if value is None else str(value) for name, value in WRITTEN["runs"][0].items()}


def test_real_figures_are_plain_json(two_methods):
    found = compared(two_methods).to_dict()
    assert json.loads(json.dumps(found)) == found
    assert found.keys() == WRITTEN.keys()
    assert found["methods"][0].keys() == WRITTEN["methods"][0].keys()


@pytest.mark.parametrize(
    ("changed", "terms"),
    [
        ({}, Terms(("full", "gd-hla"), "gd-hla", 0.75, TUNING)),
        ({"target_given": False, "tuning": None}, Terms(("full", "gd-hla"), "gd-hla", None, None)),
        ({"format": None, "tuning": None, "later": 1}, Terms(("full", "gd-hla"), "gd-hla", 0.75, None)),
    ],
)
def test_what_holds_for_the_next_comparison_comes_back(changed, terms, tmp_path):
    found = WRITTEN | changed
    if found["format"] is None:  # as 0.1.0 wrote it
        del found["format"], found["tuning"]
    (tmp_path / "comparison.json").write_text(json.dumps(found))
    assert read_terms(tmp_path / "comparison.json") == terms


def test_where_there_is_no_file_there_are_no_terms(tmp_path):
    assert read_terms(tmp_path / "comparison.json") == Terms()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (json.dumps(WRITTEN | {"format": 2}), "it is of format 2; this version of fedhello reads 1 or earlier"),
        (json.dumps(WRITTEN | {"tuning": {"seed": 0}}), "tuning.rounds"),
        ("[]", "no attribute"),
        ("{", "Expecting property name"),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_sentence(text, sentence, tmp_path):
    (tmp_path / "comparison.json").write_text(text)
    with pytest.raises(RunFolderError, match=r"expected a comparison in .*Remove it to start") as refused:
        read_terms(tmp_path / "comparison.json")
    assert sentence in str(refused.value)
