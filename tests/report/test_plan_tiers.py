from plans import PLAN

from fedhello.report.plan_tiers import write_tier


def test_a_tier_is_written_with_its_number_budget_and_front():
    tier = PLAN.tiers[0]
    found = write_tier(tier)
    assert (found["tier"], found["budget"], len(found["front"])) == (tier.tier, tier.budget.limits, len(tier.front))
    assert found == PLAN.to_dict()["tiers"][0]
