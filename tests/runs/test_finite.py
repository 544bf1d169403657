"""Which clients stand out; what becomes of a run: ``tests/faults/test_64_nothing_committed_that_is_not_finite.py``."""

from types import SimpleNamespace

import torch

from fedhello.runs.finite import FiniteRounds
from fedhello.state import RoundReport, RunState
from fedhello.types import Adapter, Rejection, Update

PLAIN = SimpleNamespace(private=None)


def updates(values):
    return [Update(k, 0, 10, {"a": torch.tensor([value, 0.0])}, {}) for k, value in enumerate(values)]


def undone(values):
    finite = FiniteRounds(session=PLAIN)
    assert [type(reply) for reply in finite.screened(updates(values))] == [Update] * len(values)
    before = RunState(round=0, adapter=Adapter({}, {}))
    return finite, *finite.undone(before, before, RoundReport(0, (), (), None, False))


def test_values_of_more_than_ten_times_the_median_are_rejected_in_the_next_attempt():
    finite, state, record = undone([1.0, -2.0, 1e6])
    assert (state.round, state.attempt) == (0, 1)
    assert "client 2 sent values of up to 1e+06" in record.failed
    replies = list(finite.screened(updates([1.0, 20.0, -21.0])))
    assert [isinstance(reply, Rejection) for reply in replies] == [False, False, True]
    assert replies[2].reason == "out of bounds"


def test_where_none_stand_out_none_are_rejected():
    finite, _, record = undone([1e6, 9e5, 1e6])
    assert "lower train.lr" in record.failed
    assert [type(reply) for reply in finite.screened(updates([1e6, 1.0, 1.0]))] == [Update] * 3


def test_masked_values_are_not_looked_at():
    masked = [Update(0, 0, 10, {"masked": torch.tensor([2**30], dtype=torch.int32)}, {})]
    assert list(FiniteRounds(session=PLAIN, most=1.0).screened(masked)) == masked


def test_under_differential_privacy_nobody_is_judged_by_the_others():
    finite = FiniteRounds(session=SimpleNamespace(private=object()), most=1.0)
    replies = updates([1.0, 500.0])
    assert [one is two for one, two in zip(finite.screened(replies), replies, strict=True)] == [True, True]
    assert finite._largest == {}
