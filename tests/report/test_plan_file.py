import json

import pytest
from handmade import begun, session

from fedhello.errors import RunFolderError
from fedhello.report.plan_file import PlanFile, read_plan
from fedhello.runs.folder import RunFolder


def test_a_run_writes_its_plan_and_its_start_before_the_first_round(place, call):
    words = ("--quiet", "train.rounds=1", "run.name=planned", "model.pooling=mean", "model.head=solved")
    assert call(place, "run", "tiny.yaml", *words)[0] == 0
    folder = RunFolder(place / "runs" / "planned")
    plan, summary = read_plan(folder), folder.summary()
    assert (plan["format"], plan["metric"], "clients" in plan) == (1, "test accuracy", False)
    assert plan["start"]["test"]["accuracy"] == summary.start
    assert plan["start"]["head"]["clients"] == 4
    assert [tier["example"]["reasons"][0] for tier in plan["tiers"]] == [
        "the budget counts 1 blocks",
        "every block that the method wants is trained",
    ]


def plan(validation, tiers=()):
    """The text of a plan with these scores on the validation data before training; None leaves them out."""
    start = {"test": {"accuracy": 0.5, "loss": 1.0, "samples": 4}} | (
        {} if validation is None else {"validation": validation}
    )
    return json.dumps({"format": 1, "blocks": 3, "tiers": list(tiers), "start": start})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "expected the plan of a run"),
        ('{"format": 1}', "expected the plan of a run"),
        (plan({"accuracy": 0.5}), "loss"),
        (plan(None), "validation"),
        (plan({"accuracy": 0.5, "loss": 1.0, "samples": 4}, tiers=[{"tier": 0}]), "budget"),
        ('{"format": 2, "tiers": [], "start": {"test": {}}}', "format 1 or earlier"),
    ],
)
def test_a_damaged_or_later_file_is_named(tmp_path, text, said):
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(RunFolderError, match=said):
        read_plan(RunFolder(tmp_path))


def test_a_run_of_an_earlier_version_has_none(tmp_path):
    assert read_plan(RunFolder(tmp_path)) is None


def test_a_plan_that_cannot_be_made_is_said_and_the_run_goes_on(tmp_path, caplog):
    PlanFile(RunFolder(tmp_path)).on_start(session(), begun())  # this session is made by hand and cannot be planned
    assert "the plan cannot be made" in caplog.text
    assert json.dumps([]) and not list(tmp_path.iterdir())
