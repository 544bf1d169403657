"""Which of two sums a head is solved from; what attacks on it come to: ``tests/faults/test_66_class_sums.py``."""

import contextlib
from dataclasses import replace

import pytest
import torch

from fedhello.aggregation.share import MAX_SHARE, most_samples
from fedhello.config.load import load_config
from fedhello.model.head import Head
from fedhello.model.statistics import DEFAULT_STATISTICS, HeadSums, Moments, head_sums, scaled_to
from fedhello.runs import head_weights
from fedhello.runs.checkpoint import Checkpoint, decode, encode
from fedhello.runs.head_weights import both_sums, is_surely_better, typical_samples
from fedhello.runs.heads import head_without
from fedhello.runs.heads_said import head_line
from fedhello.runs.loop import start
from fedhello.setup.prepare import prepare

FULL, HUGE = Moments(), 2**31 - 1


def sums(n, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return head_sums(torch.randn(n, 4, generator=rng), torch.arange(n) % 2, 2, DEFAULT_STATISTICS)


def test_where_nobody_has_more_than_the_median_there_is_one_sum(monkeypatch):
    parts = [((k,), sums(n, k)) for k, n in enumerate((6, 6, 4))]
    added, real = [], head_weights.plus
    monkeypatch.setattr(head_weights, "plus", lambda *given: added.append(given) or real(*given))
    total, even = both_sums(parts, 6, FULL)
    assert int(total.counts.sum()) == 16
    assert even is None
    assert len(added) == 2, "no second sum is made"
    assert both_sums(parts, None, FULL)[1] is None


def test_who_has_more_weighs_as_the_median_in_the_second_sum():
    small, large = sums(4), sums(40, 1)
    total, even = both_sums([((0,), small), ((1,), large)], 4, FULL)
    assert torch.equal(total.features, small.features + large.features)
    assert float(even.counts.sum()) == 8
    assert torch.allclose(even.features, small.features + large.features.double() / 10)
    assert torch.allclose(even.moments, small.moments + large.moments.double() / 10)


def test_sums_over_several_clients_show_nobodys_weight():
    assert both_sums([((0, 1, 2), sums(40))], 4, FULL)[1] is None
    assert both_sums([((0,), sums(40)), ((1, 2), sums(4))], 4, FULL)[1] is None


def test_nobody_at_all_is_an_error():
    with pytest.raises(ValueError, match="at least one client"):
        both_sums([], 4, FULL)


def test_a_head_is_surely_better_only_beyond_chance():
    h, y = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)), torch.arange(50) % 2
    good = torch.linalg.lstsq(h, torch.nn.functional.one_hot(y).float()).solution.T
    one, other = Head(good, torch.zeros(2)), Head(-10 * good, torch.zeros(2))
    assert is_surely_better(one, other, h, y)
    assert not is_surely_better(other, one, h, y)
    assert not is_surely_better(one, one, h, y)
    assert not is_surely_better(one, other, h[:1], y[:1]), "one sample shows no spread"
    broken = Head(float("nan") * good, torch.zeros(2))
    assert is_surely_better(other, broken, h, y)
    assert not is_surely_better(broken, other, h, y)


@pytest.fixture
def attacked(workplace):
    """A session whose first client states a huge count, and sends the opposite of its own statistics that often."""

    def build(*words):
        with contextlib.chdir(workplace):
            session = prepare(load_config(workplace / "tiny.yaml", ["method.name=head-only", *words]))
        roster = (replace(session.roster[0], samples=HUGE), *session.roster[1:])
        most = None if session.most_samples is None else most_samples([e.samples for e in roster], MAX_SHARE)
        inner = session.engine.head_sums

        def forged(clients=None, adapter=None):
            for found in inner(clients, adapter):
                if found.clients == (0,):
                    own, f = found.sums, HUGE // 20
                    turned = HeadSums(own.counts * f, own.features.flip(0) * f, own.moments * f, own.cells)
                    found = replace(found, sums=turned)
                yield found

        session.engine.head_sums = forged
        return replace(session, roster=roster, most_samples=most)

    return build


def test_a_run_takes_the_even_sum_says_so_stores_it_and_can_forget_who_did_it(attacked):
    session = attacked("data.validation=0.4", "data.test=0.1")
    beginning = start(session)
    typical = typical_samples(session)
    assert beginning.head.most == beginning.state.head_most == typical
    assert f"each client counts as {typical:,} samples at most" in head_line(beginning.head, session.head, 2)
    assert decode(encode(Checkpoint(0, beginning.state))).state.head_most == typical
    own = [scaled_to(found.sums, typical) for found in session.engine.head_sums()]
    left, change = head_without(session, beginning.state, [0])
    assert change.left_out == 0
    assert torch.allclose(left.head_sums["features"], sum(part.features for part in own[1:]).double())


def test_without_a_cap_on_weights_there_is_none_here(attacked):
    session = attacked("defence.max_share=null")
    assert typical_samples(session) is None
    assert start(session).head.most is None


def test_honest_clients_count_in_full(workplace):
    with contextlib.chdir(workplace):
        words = ["data.partition={kind: dirichlet, alpha: 0.3, minimum: 2}", "data.clients=6"]
        session = prepare(load_config(workplace / "tiny.yaml", ["method.name=head-only", *words]))
    assert max(entry.samples for entry in session.roster) > typical_samples(session)
    assert start(session).head.most is None
