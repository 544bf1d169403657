from types import SimpleNamespace

from fedhello.report.plan_reasons import planned
from fedhello.report.run_plan import why


def test_the_reasons_are_those_of_the_runs_plan():
    plan = {"blocks": 6, "tiers": []}
    assert why(SimpleNamespace(plan=plan)) == planned(plan, "Why was it not more?")


def test_a_run_without_a_plan_says_what_shows_one():
    assert "fedhello plan" in why(SimpleNamespace(plan=None)).answer[0]
