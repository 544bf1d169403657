"""Case 57: a secure sum is the plain one, with a third lost, too; below the threshold nothing is revealed.

What stands behind it is tested in tests/privacy, tests/engine/test_secure.py and tests/network/test_secure.py; here a
whole run loses a third of its clients at random steps, and one loses too many.
"""

import pytest

import fedhello as fh

WORDS = {
    "train.clients_per_round": 4, "train.rounds": 3, "train.retries": 20, "privacy.secure": True, "train.quorum": 0.5,
    "clients.tiers": [{"share": 1, "blocks": 3}],
}  # fmt: skip


def test_a_run_that_loses_clients_at_any_step_still_sums(place, monkeypatch):
    monkeypatch.chdir(place)
    run = fh.run("tiny.yaml", WORDS | {"run.name": "lossy", "clients.dropout": 0.2})
    assert run.summary.status == "finished"
    counted = [len(record.report.clients) for record in run.rounds if record.report.failed is None]
    assert len(counted) == 3 and min(counted) >= 3


def test_a_run_that_loses_too_many_ends_without_a_sum(place, monkeypatch):
    monkeypatch.chdir(place)
    with pytest.raises(fh.QuorumError, match="secure sum"):
        fh.run("tiny.yaml", WORDS | {"run.name": "lost", "clients.dropout": 0.9, "train.retries": 2})
