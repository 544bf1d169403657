"""Case 1: an update comes back bit for bit."""

from dataclasses import replace

import pytest
import torch

from fedhello.engine.wire import decode, encode_update


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("rank", [1, 2, 7, 64])
def test_every_number_type_and_rank_comes_back_bit_for_bit(letter, dtype, rank):
    draw = torch.Generator().manual_seed(rank)
    sent = {n: torch.randn(shape, generator=draw).to(dtype) for n, shape in (("A", (rank, 5)), ("B", (3, rank)))}
    payload = encode_update(replace(letter.update, tensors=sent), "this run")
    found = decode(payload, replace(letter.expected, tensors=sent)).tensors
    assert {n: v.dtype for n, v in found.items()} == {n: v.dtype for n, v in sent.items()}
    assert all(torch.equal(found[n].view(torch.uint8), sent[n].view(torch.uint8)) for n in sent)


def test_an_update_without_a_tensor_is_one_too(letter):
    payload = encode_update(replace(letter.update, tensors={}), "this run")
    assert letter.reason(payload, tensors={}) is None
    assert letter.reason(payload) == "wrong tensors"
