import pytest

from fedhello.config.load import load_config
from fedhello.engine.wire import encode_tensors
from fedhello.model.statistics import as_sent
from fedhello.report.planning import make_plan
from fedhello.setup.prepare import prepare
from fedhello.types import Budget

HEAD_ONLY = ["method.name=head-only", "train.rounds=1"]
IN_BYTES = "clients.tiers=[{share: 1/2, blocks: 1}, {share: 1/2, memory: 20MB, seconds: 5, speed: 1GFLOP/s}]"


@pytest.fixture
def planned(workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    return lambda *words: make_plan(prepare(load_config(workplace / "tiny.yaml", list(words))))


@pytest.mark.parametrize(
    ("words", "chosen"),
    [([], "full"), (["model.moments=diagonal"], "diagonal"), (["model.moments={sketch: 4}"], "sketch 4")],
)
def test_the_plan_says_the_bytes_that_are_sent(words, chosen, workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    session = prepare(load_config(workplace / "tiny.yaml", [*HEAD_ONLY, *words]))
    head = make_plan(session).head
    assert head.chosen == chosen
    sent = {len(encode_tensors(as_sent(one.sums))) for one in session.engine.head_sums()}
    assert sent == {head.bytes[chosen]}
    assert {"full", "diagonal", "sketch 64", "sketch 128", "sketch 256", "means"} <= head.bytes.keys()


def test_the_plan_of_a_head_that_needs_no_sums_says_nothing_of_them(planned):
    assert planned("model.head=aggregate").head is None
    assert planned("method.name=server-only").head is None


def test_each_tier_shows_what_its_clients_would_train_and_how_often(planned):
    found = planned("method.name=rgd-hla")
    assert [tier.clients for tier in found.tiers] == [2, 2]
    for tier, capacity in zip(found.tiers, (1, 3), strict=True):
        assert sum(tier.frequency) == pytest.approx(capacity)
        assert (tier.num_blocks, tier.budget) == ((capacity, capacity), Budget(blocks=capacity))
    assert found.tiers[1].frequency == (1.0,) * 3


def test_a_method_that_waits_for_scores_says_so_and_one_that_leaves_clients_out_does_too(planned):
    assert planned("method.name=fim-hla").tiers[0].frequency is None
    left_out = planned("method.name=head-only").tiers[0]
    assert (left_out.takes_part, left_out.num_blocks, left_out.needs) == (False, None, None)


def test_needs_are_shares_of_the_limits_that_are_given(planned):
    counted, limited = planned(IN_BYTES).tiers
    assert (counted.fraction, counted.front, counted.needs.seconds) == ({}, (), None)
    assert limited.fraction == {
        "memory": pytest.approx(limited.needs.memory_bytes / 20e6),
        "seconds": pytest.approx(limited.needs.flops / 1e9 / 5),
    }
    assert {point.num_blocks for point in limited.front} == {1, 2, 3}
    # With all blocks the allocation takes all there is to compute; the front has it, too.
    assert limited.example.allocation.blocks == (0, 1, 2)
    assert limited.needs.relative_flops == 1
    assert limited.needs.flops in {point.flops for point in limited.front}
