"""Replies of a grid within one process; of a SuperLink: ``tests/faults/test_70_announced_and_never_uploaded.py``."""

from types import SimpleNamespace

import pytest

pulls = pytest.importorskip("fedhello.network.flower_pulls", reason="needs the extra flower")


def test_a_grid_within_one_process_is_asked_as_it_is():
    replies = [SimpleNamespace(metadata=SimpleNamespace(reply_to_message_id=name)) for name in ("other", "asked")]
    found = pulls.Pulls(SimpleNamespace(pull_messages=lambda ids: replies))
    assert found.fetch("asked") is replies[1]
    assert found.fetch("nobody") is None
    found.forget("nobody")
