"""Replies as bytes: nothing of them changes."""

import logging

import torch

from fedhello.engine.replies import Reply, packed, unpacked
from fedhello.engine.workers import Said
from fedhello.types import Rejection, Update


def test_an_update_comes_back_as_it_was():
    tensors = {"b": torch.randn(3, 2), "a": torch.randn(2).bfloat16(), "c": torch.tensor([[-1], [2**40]])}
    metrics = {"loss": 0.1 + 0.2, "steps": 3, "seconds": 1e-17}
    head = {"weight": torch.randn(2, 2)}
    said = Said([("fedhello", logging.WARNING, "é")], "out", "err")
    back = unpacked(packed(Reply(Update(3, 1, 17, tensors, metrics, 5, 6), head, said)))
    update = back.found
    assert (update.client, update.round, update.samples, update.bytes_down, update.bytes_up) == (3, 1, 17, 5, 6)
    assert list(update.tensors) == ["b", "a", "c"]  # the order of sums over tensors
    assert all(torch.equal(update.tensors[name], value) for name, value in tensors.items())
    assert [value.dtype for value in update.tensors.values()] == [value.dtype for value in tensors.values()]
    assert update.metrics == metrics
    assert torch.equal(back.head["weight"], head["weight"])
    assert (back.said.records, back.said.out, back.said.err) == ([["fedhello", logging.WARNING, "é"]], "out", "err")


def test_a_rejection_comes_back_as_it_was():
    rejection = Rejection(3, 1, "not finite", "loss is nan", 7, 0)
    back = unpacked(packed(Reply(rejection, {}, Said())))
    assert back.found == rejection
    assert back.head == {}
