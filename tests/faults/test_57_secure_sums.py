"""Case 57: a secure sum is the plain one, with a third lost, too; below the threshold nothing is revealed.

What stands behind it is tested in tests/privacy, tests/engine/test_secure.py and tests/network/test_secure.py; here a
whole run loses a third of its clients at random steps, and one loses too many.
"""

import pytest
from safetensors.torch import load_file

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


@pytest.mark.parametrize("cohorts", [None, 3])
def test_a_block_that_fewer_than_three_trained_is_withheld_and_said(place, monkeypatch, cohorts):
    """One of four clients trains all blocks: of all but the first, the sum would be its own update."""
    monkeypatch.chdir(place)
    words = {
        "run.name": "few", "method.name": "gd-hla", "privacy.cohorts": cohorts, "train.selection": "last",
        "clients.tiers": [{"share": 3 / 4, "blocks": 1}, {"share": 1 / 4, "blocks": 3}],
    }  # fmt: skip
    run = fh.run("tiny.yaml", WORDS | words)
    for record in run.rounds:
        assert sorted(record.report.contributors) == [1, 1, 4]
        (flag,) = (flag for flag in record.report.flags if "withheld" in flag)
        assert "were trained by fewer than 3 clients of a sum" in flag
    alone = [block for block, count in enumerate(run.rounds[0].report.contributors) if count == 1]
    assert all(f"block {block}" in flag for block in alone)
    adapter = load_file(run.path / "adapter" / "adapter_model.safetensors")
    moved = {name.split("layer.")[1][0] for name, value in adapter.items() if "lora_B" in name and bool(value.any())}
    assert moved == {str(block) for block in range(3)} - set(map(str, alone))
