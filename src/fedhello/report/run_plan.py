"""The fourth section of a run's page: why was it not more?"""

from fedhello.report.figures import Section
from fedhello.report.plan_reasons import planned
from fedhello.report.run_facts import RunFacts


def why(facts: RunFacts) -> Section:
    """Return the section."""
    if facts.plan is None:
        said = "This run has no plan.json, so the planner's reasons are not known. fedhello plan CONFIG shows them."
        return Section("why", "Why was it not more?", [said])
    return planned(facts.plan, "Why was it not more?")
