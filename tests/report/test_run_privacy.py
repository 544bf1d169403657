import pytest
from big_runs import big_run

from fedhello.privacy.ledger import Ledger, write_ledger
from fedhello.report.run_facts import RunFacts
from fedhello.report.run_privacy import privacy, privacy_cards
from fedhello.state import Release


@pytest.fixture
def facts(tmp_path):
    found = RunFacts(big_run(tmp_path / "run", clients=4, rounds=1, a_round=2, classes=3, blocks=3))
    found.refresh()
    return found


def test_nothing_is_claimed_of_a_plain_run_and_what_left_is_listed(facts):
    section = privacy(facts)
    said = " ".join(section.answer)
    assert "no differential privacy" in said and "no secure sums" in said
    assert privacy_cards(facts) == []
    (table,) = section.parts
    assert table.title == "What left the clients: 60 GB"
    assert [(row[0], row[2], row[3]) for row in table.rows] == [
        ("updates", 2, 600_000),
        ("sums for Fisher scores", None, 60_000_000_000 - 600_000),
    ]


def test_a_ledger_is_quoted_and_summed(facts):
    pytest.importorskip("dp_accounting")
    ledger = Ledger(8.0, 1e-5).spent(Release("head", 1.0))
    facts.summary = facts.summary.but(privacy=write_ledger(ledger))
    facts.config = {"privacy": {"secure": True, "epsilon": 8.0}}
    section = privacy(facts)
    said = " ".join(section.answer)
    assert "What left the clients is differentially private for clients with ε=4.38" in said
    assert "the server learnt sums over clients alone" in said
    assert (privacy_cards(facts)[0].value, section.parts[0].rows[0][:2]) == ("ε = 4.38", ["head", 1.0])


def test_a_run_that_goes_on_says_what_it_is_to_be(facts):
    facts.summary, facts.config = None, {"privacy": {"epsilon": 3.0}}
    assert "is to be differentially private within ε = 3" in privacy(facts).answer[0]
