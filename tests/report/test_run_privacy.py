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
    facts.config = {"privacy": {"epsilon": 8.0}}
    said = " ".join(privacy(facts).answer)
    assert "The model, and all that the server released on the way to it, is differentially private for clients" in said
    assert "with ε=4.38" in said and "The server adds the noise" in said and "what left a client had none" in said
    assert "saw each client's contribution by itself" in said
    card, ledger = privacy_cards(facts)[0], privacy(facts).parts[0]
    assert (card.value, ledger.rows[0][:2]) == ("ε = 4.38", ["head", 1.0])


def listed(facts, engine="local", **settings):
    """What is said, and what is in each kind of message, under some settings."""
    facts.config = {"privacy": settings, "run": {"engine": engine}}
    section = privacy(facts)
    return " ".join(section.answer), {row[0]: row[1] for row in section.parts[-1].rows}


def test_what_left_is_listed_as_it_is_in_each_mode(facts):
    said, plain = listed(facts)
    assert "facts on joining" not in plain and "the loss, with measurements" in plain["updates"]
    said, plain = listed(facts, "flower")
    assert "the labels that occur, the sizes of its batches" in plain["facts on joining"]

    said, secure = listed(facts, secure=True)
    assert "learnt sums over clients alone (secure sums). All clients were played on one machine" in said
    assert "measurements" not in secure["updates"] and secure["updates"].endswith("reads the sum alone")
    said, secure = listed(facts, "flower", secure=True)
    assert (
        "the server learnt sums over clients alone (secure sums); what a client stated when it joined, it saw." in said
    )

    said, by_client = listed(facts, epsilon=8.0)
    assert "changed, shortened; no number of samples, no loss" in by_client["updates"]
    assert by_client["sums for Fisher scores"].endswith("; shortened, without noise")
    said, by_sample = listed(facts, "flower", epsilon=8.0, secure=True, unit="sample")
    assert "each client adds the noise itself" in said and "the noise on the sums for the head is the server's" in said
    assert by_sample["updates"].startswith("values of the factors, trained with noise; no loss")
    assert by_sample["facts on joining"].startswith("its name, the number of its samples, its budget")


def test_a_run_that_goes_on_says_what_it_is_to_be(facts):
    facts.summary, facts.config = None, {"privacy": {"epsilon": 3.0}}
    assert "is to be differentially private within ε = 3" in privacy(facts).answer[0]


def test_it_says_that_the_folder_names_who_took_part_and_whether_that_matters(facts):
    facts.config = {"privacy": {"epsilon": 8.0, "unit": "client"}, "train": {"sampling": "poisson"}}
    said = " ".join(privacy(facts).answer)
    assert "ε counts on it being secret who took part in which round: this page does not name them" in said
    assert "but rounds.jsonl in this folder names" in said
    facts.config = {"privacy": {"epsilon": 8.0, "unit": "sample"}, "train": {"sampling": "fixed"}}
    said = " ".join(privacy(facts).answer)
    assert "names who took part in which round; ε does not count on that being secret." in said
    facts.config = {}
    assert "took part" not in " ".join(privacy(facts).answer)
