import json

import pytest
from big_runs import big_run
from handmade import lost, played, trained

from fedhello.report import run_facts
from fedhello.report.run_facts import RunFacts
from fedhello.runs.formats import write_round


@pytest.fixture
def folder(tmp_path):
    return big_run(tmp_path / "run", clients=4, rounds=0, a_round=2, classes=3, blocks=3)


@pytest.fixture
def facts(folder):
    found = RunFacts(folder)
    assert found.refresh()
    return found


def add(folder, *records, end="\n"):
    with (folder.path / "rounds.jsonl").open("a") as file:
        file.write("\n".join(json.dumps(write_round(one)) for one in records) + end)


def test_only_new_lines_are_read_and_a_torn_one_waits(folder, facts, monkeypatch):
    read = []
    known = run_facts.read_round
    monkeypatch.setattr(run_facts, "read_round", lambda line, where: read.append(where[-6:]) or known(line, where))
    assert not facts.refresh()
    add(folder, played(0, [trained(0)]))
    assert facts.refresh()
    add(folder, played(1, [trained(1)]), end="")
    assert not facts.refresh()
    add(folder, played(2, [trained(2)]))  # completes the torn line with another: no round
    with pytest.raises(run_facts.RunFolderError, match="line 2"):
        facts.refresh()
    assert read == ["line 1", "line 2"]


def test_a_file_that_was_cut_is_read_anew(folder, facts):
    add(folder, played(0, [trained(0)]), played(1, [trained(1)]))
    facts.refresh()
    folder.rewind(1)
    assert facts.refresh()
    assert [one.number for one in facts.rounds] == [1]
    assert (facts.summary, facts.tiers[0].participations) == (None, 1)


def test_replies_add_up_also_those_that_do_not_count_and_of_failed_attempts(folder, facts):
    failed = played(0, rejections=(lost(3, reason="not finite", up=40), lost(2, up=0)), failed="too few", test=None)
    first = trained(0, up=100, down=300, peak_bytes=5.0, loss=0.5)
    second = trained(1, 1, (0, 2), peak_bytes=7.0)
    add(folder, failed, played(0, [first, second], rejections=(lost(2),), over_budget=(1,)))
    facts.refresh()
    (one,) = facts.rounds
    assert (one.bytes_up, one.bytes_down, one.clients, one.rejected) == (240, 1500, 2, 3)
    assert facts.failed == [(1, "too few")]
    assert dict(facts.clients[2].rejections) == {"late": 2}
    assert facts.reasons["not finite"] == (3, 1, "")
    assert (facts.tiers[1].peaks, facts.tiers[1].over_budget, dict(facts.tiers[1].blocks)) == (
        {"peak_bytes": 7.0},
        1,
        {0: 1, 2: 1},
    )
    assert facts.tiers[1].bytes_up == 140
    assert (facts.participation, facts.clients[0].loss) == ({(0, 1): 1, (1, 1): 2}, 0.5)


def test_clients_that_do_not_say_how_many_samples_have_no_histogram(facts):
    counts, names = facts.histogram
    assert counts.sum(axis=1).tolist() == [70] * 4 and len(names) == 3
    told = [run_facts.ClientEntry(0, 0, 70, ("a", "b"))]
    assert run_facts._histogram(told) is None
