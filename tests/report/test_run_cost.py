import pytest
from big_runs import big_run
from handmade import played, trained

from fedhello.report.run_cost import cost, cost_cards, totals
from fedhello.report.run_facts import RunFacts
from fedhello.runs.heads import HeadChange


@pytest.fixture
def facts(tmp_path):
    found = RunFacts(big_run(tmp_path / "run", clients=4, rounds=0, a_round=2, classes=3, blocks=3))
    found.refresh()
    peaks = {"peak_bytes": 30e6, "predicted_peak_bytes": 32e6, "predicted_memory_bytes": 48e6}
    found._add(played(0, [trained(0, up=100, down=300, **peaks)], head=HeadChange(4, 280, 50, 60)))
    found._add(played(1, [trained(1, 1, up=200, down=300, seconds=1.5)], over_budget=(1,)))
    return found


def part(section, title):
    return next(one for one in section.parts if one.title == title)


def test_bytes_are_cumulated_with_those_of_heads(facts):
    rows = part(cost(facts), "Bytes").table.rows
    assert rows == [[0, 0, 0, 0, 0], [1, 150, 360, 150, 360], [2, 350, 660, 200, 300]]
    facts.summary = None
    assert totals(facts) == (350, 660)


def test_memory_is_compared_with_its_prediction_and_the_budget(facts):
    section = cost(facts)
    said = " ".join(section.answer)
    assert "The measured peaks of memory were up to 6.2 % below those predicted." in said
    assert "Clients were over their memory budget once," in said
    assert part(section, "Memory of a client").table.rows == [
        ["tier 0: 32 MB", "predicted", 32e6],
        ["tier 0: 32 MB", "measured", 30e6],
        ["tier 0: 32 MB", "planned, with reserve", 48e6],
        ["tier 0: 32 MB", "budget", 32e6],
        ["tier 1: 60 MB", "budget", 60e6],
    ]


def test_tiers_have_means_per_client_and_round(facts):
    assert part(cost(facts), "Tiers").rows[1] == ["tier 1: 60 MB", 2, 1, None, 60e6, 1, 1.5, 200, 300, 0]


def test_energy_is_said_where_it_was_measured(facts):
    assert "energy" not in " ".join(cost(facts).answer)
    facts.summary = facts.summary.but(energy_joules=7.2e6)
    assert "Meanwhile the machine took 2 kWh of energy for all its programs" in " ".join(cost(facts).answer)


def test_key_figures_have_units(facts):
    assert [card.value for card in cost_cards(facts)] == ["60 GB", "30 MB", "46 min 40 s"]
