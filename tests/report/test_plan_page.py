from dataclasses import replace

import numpy as np
import pytest
from pages import check_page, chromium, shown, violations  # noqa: F401
from plans import PLAN

from fedhello.errors import ConfigError
from fedhello.report.html import page_html
from fedhello.report.labels import ClientPlan
from fedhello.report.plan import plan_page, plan_picture


def many_labels(clients, labels):
    counts = np.random.default_rng(0).multinomial(60, [1 / labels] * labels, size=clients)
    return replace(
        PLAN,
        labels=tuple(f"class_{i}" for i in range(labels)),
        clients=tuple(ClientPlan(k, 0, 60, tuple(row)) for k, row in enumerate(counts.tolist())),
    )


def test_the_page_says_what_each_tier_trains_and_what_limits_it():
    page = plan_page(PLAN)
    assert [section.id for section in page.sections] == ["tiers", "why", "labels", "notes"]
    table = page.sections[0].parts[0]
    first, second = ([text for text, _ in row] for row in table.cells())
    assert first == [
        "tier 0", "20 MB, 2 s at 3 GFLOP/s", "1", "1", "2", "10 MB", "50.0 %", "62.5 %", "1.5 s", "12 kB", "–",
    ]  # fmt: skip
    assert second[:5] == ["tier 1", "2 blocks", "2", "–", "–"]
    assert "Left out by fed-hello: tier 1." in page.sections[0].answer
    assert [figure.records()[1] for figure in page.sections[0].parts[1:]] == [
        {"tier": "tier 0", "block": 1, "share": 0.25}
    ]
    assert "The reason." in page.sections[1].parts[0].items
    assert page.sections[3].parts[0].items[-1] == "One [thing]."


def test_a_private_plan_has_no_labels():
    assert "labels" not in [section.id for section in plan_page(replace(PLAN, clients=())).sections]


def test_a_picture_shows_each_budget_that_is_more_than_a_count():
    drawn = plan_picture(PLAN)
    assert "tier 0: 20 MB, 2 s at 3 GFLOP/s" in drawn
    assert "tier 1" not in drawn
    with pytest.raises(ConfigError, match="all budgets count blocks"):
        plan_picture(replace(PLAN, tiers=PLAN.tiers[1:]))


@pytest.mark.parametrize(("clients", "labels"), [(100, 77), (1000, 100)])
@pytest.mark.parametrize(("width", "scheme"), [(1300, "light"), (390, "dark")])
def test_the_map_of_labels_is_drawn_in_a_browser(tmp_path, chromium, clients, labels, width, scheme):  # noqa: F811
    html = page_html(plan_page(many_labels(clients, labels)))
    check_page(html)
    assert len(html.encode()) < 4e6
    (tmp_path / "plan.html").write_text(html)
    with shown(chromium, tmp_path / "plan.html", width=width, scheme=scheme) as page:
        canvas = page.locator("#labels .plot canvas")
        colours = canvas.evaluate(
            "c => new Set(new Uint32Array(c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer)).size"
        )
        assert colours > 20
        assert violations(page) == []
