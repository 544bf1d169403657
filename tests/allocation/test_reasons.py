import itertools
from dataclasses import replace

from planning import costs

from fedhello.allocation.planner import plan
from fedhello.allocation.reasons import front, reasons
from fedhello.types import Allocation, Budget


def test_reasons_name_what_binds():
    c, wanted = costs(6), (6.0, 5.0, 4.0, 3.0, 2.0, 1.0)

    def said(budget, rule="auto", preference=wanted):
        return reasons(plan(budget, preference, c, rule), budget, preference, c, rule)

    assert said(Budget(memory=10**6)) == ["every block that the method wants is trained"]
    # 3 and 4 are trained. With 0: it holds 70, the frozen 1, 2 and 5 hold 80 each, 3 and 4 hold 100 each.
    kept = 5 + 70 + 3 * 80 + 2 * 100 + 15 + 2 * (3 * 2 + 1)
    sentence = f"block 0 as well, wanted next, would take at least {kept} B of memory"
    assert said(Budget(memory=300), "keep")[0] == sentence
    assert said(Budget(memory=10**6, upload=11))[0].endswith("would take at least 13 B of upload")
    assert "at least" in said(Budget(memory=10**6, seconds=100.0, speed=1.0))[0]
    assert said(Budget(blocks=2, memory=10**6))[0] == "the budget counts 2 blocks"
    recomputed = said(Budget(memory=300))
    assert any(s.startswith("recomputing block") and "more computation" in s for s in recomputed)
    ends = (2.0, 0.0, 0.0, 0.0, 0.0, 1.0)
    reach = said(Budget(memory=10**6), preference=ends)
    assert reach[1].startswith("block 0 costs ")
    assert reach[1].endswith("because back-propagation must reach it through blocks 1–4")


def test_the_front_has_no_point_that_another_beats():
    c, v = costs(6), (6.0, 5.0, 4.0, 3.0, 2.0, 1.0)
    points = front(v, c, "auto")
    assert {len(p.allocation.blocks) for p in points} >= {0, 6}
    for point in points:
        assert point.allocation.blocks == tuple(range(len(point.allocation.blocks)))
    alone = front(v, costs(6, head_shared=False), "auto")
    assert min(len(p.allocation.blocks) for p in alone) == 1
    assert all(p.allocation.blocks[0] == 0 for p in alone)
    keys = [(p.needs.peak_bytes, p.needs.flops, -len(p.allocation.blocks)) for p in points]
    assert len(set(keys)) == len(keys)
    for one, other in itertools.permutations(keys, 2):
        assert not all(a <= b for a, b in zip(one, other, strict=True))


def test_a_method_that_asks_for_fewer_blocks_than_a_count_allows_is_why_there_are_no_more():
    c = costs(3)
    measured = replace(
        c,
        saved={key: value for key, value in c.saved.items() if key[0] == "keep"},
        transient={key: value for key, value in c.transient.items() if key[0] == "keep"},
        flops={key: value for key, value in c.flops.items() if key[0] == "keep"},
    )
    kept = Allocation((2,), ("keep",) * 3)
    assert reasons(kept, Budget(blocks=2), (1.0,) * 3, measured, "auto")[0] == "the method asks for no more"
