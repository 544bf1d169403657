"""Case 67: metrics that no training has, such as negative seconds or a loss below 0."""

from dataclasses import replace

import pytest

from fedhello.client.settings import METRICS
from fedhello.engine.wire import LARGEST_LOSS, decode
from fedhello.types import Update


def stated(letter, **changes):
    return letter.write(header=letter.header(metrics={**letter.metrics, **changes}))


@pytest.mark.parametrize(
    "changes", [{"seconds": -1e14}, {"loss": -1e15}, {"loss": 2 * LARGEST_LOSS}, *({name: -1.0} for name in METRICS)]
)
def test_what_cannot_be_measured_is_refused(letter, changes):
    """Before, every number of at most 1e15 was accepted, and the round's mean loss was −2.5e14."""
    assert letter.reason(stated(letter, **changes)) in ("out of bounds", "wrong count")


@pytest.mark.parametrize("changes", [{"loss": 0.0}, {"loss": -1e-6}, {"seconds": 0.0}, {"saved_bytes": 0.0}])
def test_what_can_be_is_accepted(letter, changes):
    assert letter.reason(stated(letter, **changes)) is None


def test_a_loss_of_one_s_own_may_be_negative(letter):
    payload = stated(letter, loss=-7.5)
    found = decode(payload, replace(letter.expected, own_loss=True))
    assert isinstance(found, Update)
    assert found.metrics["loss"] == -7.5
    assert letter.reason(payload) == "out of bounds"
    assert letter.reason(stated(letter, loss=-1e16), own_loss=True) == "out of bounds"
