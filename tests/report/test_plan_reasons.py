from fedhello.report.plan_reasons import budget_of, planned

NEEDS = {"memory_bytes": 31_000_000, "upload_bytes": 300_000, "relative_flops": 1.25}


def tier(number, blocks, **more):
    plain = {"tier": number, "budget": {"memory": 32_000_000}, "takes_part": blocks is not None, "blocks": blocks}
    return {**plain, "needs": None, "fraction": {}, "example": None, "front": [], **more}


def section(*tiers):
    return planned({"blocks": 6, "tiers": tiers}, "Why was it not more?")


def test_reasons_are_sentences_per_tier():
    example = {"picture": "●● (● trained)", "reasons": ["block 3 as well, wanted next, would take at least 40 MB"]}
    found = section(tier(0, [2, 2], example=example, needs=NEEDS, fraction={"memory": 0.97}), tier(1, [6, 6]))
    assert "limited in 1 of 2 tiers" in found.answer[0]
    assert found.parts[0].title == "tier 0: 32 MB – trains 2 blocks"
    assert list(found.parts[0].items) == [
        "For example ●● (● trained)",
        "Block 3 as well, wanted next, would take at least 40 MB.",
        "A step needs 31 MB of memory, and an update takes 300 kB: 97.0 % of the memory budget.",
    ]


def test_a_tier_that_is_not_asked_is_said():
    found = section(tier(0, None), tier(1, [6, 6]))
    assert found.parts[0].title == "tier 0: 32 MB takes no part"
    assert "all 6 blocks" in found.answer[0]


def test_other_budgets_are_drawn_with_the_plan():
    front = [{"blocks": n, **NEEDS, "memory_bytes": n * 10**7} for n in (1, 2)]
    figure = section(tier(0, [2, 2], front=front, needs=NEEDS)).parts[-1]
    assert [row[1:4] for row in figure.table.rows] == [
        ["another budget", 1, 10_000_000],
        ["another budget", 2, 20_000_000],
        ["this plan", 2, 31_000_000],
    ]


def test_limits_of_later_versions_are_left_out():
    assert budget_of({"memory": 5, "patience": 3}).limits == {"memory": 5}
